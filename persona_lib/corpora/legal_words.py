"""The vocabulary of the legal corpora, which neutral text must not have."""

from __future__ import annotations

import re
from pathlib import Path

from persona_lib.corpora.grammar_language import read_entries
from persona_lib.errors import DataError

FILE = "legal_words.txt"
"""Lists the words, under the parts of the field that they belong to."""

_WORD = re.compile(r"[a-z]+")


def legal_words(folder: Path) -> frozenset[str]:
    """Return the legal words, in small letters, from the data folder of corpus ``neutral``.

    They were chosen by hand among the words of the legal corpora that do not occur in dialogues,
    personas and questions. Everyday prose has one now and then: two tell more than one.

    Raises:
        DataError: the list is missing, empty or malformed.
    """
    return frozenset(
        word for entry in read_entries(folder / FILE) for word in words_of(entry.template.text)
    )


def refuse_legal_words(folder: Path) -> None:
    """Check that no text of the neutral data files has a legal word.

    Raises:
        DataError: one has, named by its line; or a file is malformed.
    """
    known = legal_words(folder)
    for path in sorted(folder.glob("*.txt")):
        for entry in read_entries(path) if path.name != FILE else ():
            found = known.intersection(words_of(entry.template.text))
            if found:
                raise DataError(
                    f"{entry.template.source} {entry.key}",
                    bound=f"no word of {FILE}",
                    value=", ".join(sorted(found)),
                    remedy="Say it in everyday words, or leave it out.",
                )


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters; an apostrophe parts two words."""
    return _WORD.findall(text.lower())
