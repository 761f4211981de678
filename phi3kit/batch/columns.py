"""Columns: a guess of which column holds the prompts, and in which format, from names and the first rows.

Knows what cells look like. Decides nothing: a person sees the guess and may choose otherwise.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from phi3kit.batch.request import PROMPT_FORMATS, PromptFormat, row_messages
from phi3kit.core.errors import RequestInvalid
from phi3kit.formats.chat_template import SPECIAL_TOKENS

_LOOKED_AT_ROWS = 10
_LOOKED_AT_CHARACTERS = 2_000  # of a text, for special tokens


@dataclass(frozen=True)
class GuessedColumns:
    """The column of prompts, and the format that each column's cells seem to have."""

    column: str
    formats: dict[str, PromptFormat]


def guess_columns(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> GuessedColumns:
    """The guess for a table with at least one column.

    Of the known names the first one that is there; otherwise the first column of messages, or that of the longest text.
    """
    looks = {name: _Look() for name in columns}
    for row in islice(rows, _LOOKED_AT_ROWS):
        for name, look in looks.items():
            look.add(row[name])
    formats = {name: look.format(name) for name, look in looks.items()}
    known = [name for name in PROMPT_FORMATS if name in looks]
    messages = [name for name in columns if formats[name] == "messages"]
    longest = max(columns, key=lambda name: looks[name].characters)
    return GuessedColumns([*known, *messages, longest][0], formats)


class _Look:
    """What a column's first cells have in common; a cell without content is passed over."""

    def __init__(self) -> None:
        self.characters = 0  # of its texts
        self._cells = self._messages = 0
        self._special = False

    def add(self, cell: object) -> None:
        if cell is None or cell == "":
            return
        self._cells += 1
        self._messages += _is_messages(cell)
        if isinstance(cell, str):
            self.characters += len(cell)
            begin = cell[:_LOOKED_AT_CHARACTERS]
            self._special = self._special or any(token in begin for token in SPECIAL_TOKENS)

    def format(self, name: str) -> PromptFormat:
        """By content, and by name where there is none."""
        if not self._cells:
            return next((known for known in PROMPT_FORMATS if known == name), "message")
        if self._messages == self._cells:
            return "messages"
        return "prompt" if self._special and name != "message" else "message"


def _is_messages(cell: object) -> bool:
    if isinstance(cell, str) and not cell.lstrip().startswith("["):
        return False
    try:
        row_messages(cell)
    except RequestInvalid:
        return False
    return True
