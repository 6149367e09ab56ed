"""Keys tell apart whatever differs, and nothing else; any altered byte is caught."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona_lib.errors import CorruptEntryError
from persona_lib.store.store import StageKey, Store
from tests.unit.test_store import get_or_make

# Time limits would measure the machine's other work, not ours.
unhurried = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SPECS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "stage": st.from_regex(r"s[a-z0-9_]{0,8}", fullmatch=True),
    "version": st.integers(1, 99),
    "spec": SPECS,
    "inputs": st.dictionaries(st.text(max_size=6), HEX, max_size=4),
    "seed": st.none() | st.integers(0, 2**63 - 1),
}
KEYS = st.builds(StageKey, **FIELDS)


def distinguishable(value: object) -> object:
    """A form that equals another only for the same JSON: 1, 1.0 and True are three."""
    if isinstance(value, Mapping):
        return {key: distinguishable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [distinguishable(item) for item in value]
    return (type(value).__name__, repr(value))


def shuffled(value: Any) -> Any:
    """The same data with every dictionary written down backwards."""
    if isinstance(value, dict):
        return {key: shuffled(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    return value


def solid(text: str) -> str:
    """The text without its white space."""
    return "".join(text.split())


def test_every_field_has_a_strategy() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(StageKey)}


@pytest.mark.parametrize("field", sorted(FIELDS))
@unhurried
@given(data=st.data())
def test_a_key_changes_exactly_when_a_field_does(field: str, data: st.DataObject) -> None:
    key, value = data.draw(KEYS), data.draw(FIELDS[field])
    other = dataclasses.replace(key, **{field: value})
    same = distinguishable(getattr(key, field)) == distinguishable(value)
    assert (key.digest == other.digest) == same
    assert (key == other) == same
    assert len({key, other}) == (1 if same else 2)


@unhurried
@given(key=KEYS)
def test_the_order_of_specs_and_inputs_does_not_matter(key: StageKey) -> None:
    other = dataclasses.replace(key, spec=shuffled(key.spec), inputs=shuffled(key.inputs))
    assert other.digest == key.digest


@unhurried
@given(values=st.lists(SPECS, min_size=2, max_size=4))
def test_the_order_of_a_list_does_matter(values: list[Any]) -> None:
    key = StageKey(stage="s", version=1, spec=values, inputs={}, seed=None)
    turned = dataclasses.replace(key, spec=values[::-1])
    assert (key.digest == turned.digest) == (
        distinguishable(values) == distinguishable(values[::-1])
    )


NAMES = st.lists(
    st.text("ab0 .-_\n\u6f22", min_size=1, max_size=8).filter(lambda n: n not in (".", "..")),
    min_size=1,
    max_size=3,
).map("/".join)


@unhurried
@given(data=st.data(), key=KEYS)
def test_any_payload_comes_back_and_any_altered_byte_is_caught(
    data: st.DataObject, key: StageKey
) -> None:
    names = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    # A name that is a folder of another cannot also be a file.
    names = [n for n in names if not any(o.startswith(f"{n}/") for o in names)]
    payload = {name: data.draw(st.binary(max_size=40), label=name) for name in names}

    def make(folder: Path) -> None:
        for name, content in payload.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    with tempfile.TemporaryDirectory() as root:
        built = get_or_make(Store(Path(root)), key, make)
        found = Store(Path(root)).peek(key)
        assert found == dataclasses.replace(built, built=False)
        assert {name: (built.path / name).read_bytes() for name in payload} == payload

        folder = built.path.parent
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from([path for path in files if path.stat().st_size]))
        content = bytearray(path.read_bytes())
        # Drawn as a share: the length of a manifest differs from build to build.
        at = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(content))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(CorruptEntryError) as caught:
            Store(Path(root)).peek(key)
        # A message is one line, so that a line break in a name is no more than a space there.
        assert solid(path.relative_to(folder).as_posix()) in solid(str(caught.value))
