"""The columns of a table of rows, checked against the row type's schema."""

from __future__ import annotations

import pyarrow as pa

from persona_lib.errors import DataError


def checked(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """Return the columns of `schema`, in its order and with its types.

    Args:
        table: has these columns, and perhaps others.
        schema: what every column has to be. Text may come as ``large_string``,
            which is how pandas writes it; nothing else is converted.
        where: what to call the table in a message.

    Raises:
        DataError: a column is missing or of another type, or a value is null.
    """
    for field in schema:
        name = f"{where}: column {field.name}"
        if field.name not in table.column_names:
            raise DataError(
                name, bound="present", value="missing", remedy="Write the record set again."
            )
        column = table.column(field.name)
        if column.type not in _accepted(field.type):
            raise DataError(
                name,
                bound=str(field.type),
                value=str(column.type),
                remedy="Write the column with its registered type.",
            )
        if column.null_count:
            raise DataError(
                name,
                bound="no missing values",
                value=f"{column.null_count} nulls",
                remedy="Leave no value out: a missing completion is a missing row.",
            )
    return table.select(schema.names).cast(schema)


def _accepted(kind: pa.DataType) -> tuple[pa.DataType, ...]:
    return (kind, pa.large_string()) if kind == pa.string() else (kind,)
