"""Preview: as much of a table as a page can draw: a browser gets it all, and the app holds it meanwhile.

Knows rows. Reads no file and draws nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phi3kit.batch.request import Mapped, row_prompt
from phi3kit.formats.chat_template import raw_prompt

CELL_CHARACTERS = 2_000
TABLE_CHARACTERS = 1_000_000  # of all cells that are drawn


@dataclass(frozen=True)
class Preview:
    """The first rows of a table."""

    rows: list[dict[str, Any]]
    more: bool  # rows are left out
    cut: bool  # a cell is shortened

    def said(self, of_rows: int | None = None) -> str:
        """What is left out, in words; empty when nothing is. of_rows: all that there are, when they are counted."""
        told = []
        if self.more:
            told.append(f"The first {len(self.rows):,}{f' of {of_rows:,}' if of_rows is not None else ''} rows.")
        if self.cut:
            told.append(f"Cells are cut off after {CELL_CHARACTERS:,} characters.")
        return " ".join(told)


def preview(rows: Iterable[dict[str, Any]], most_rows: int) -> Preview:
    """The first rows, as many as are allowed in number and in characters; long cells are cut."""
    kept: list[dict[str, Any]] = []
    characters, cut = 0, False
    for row in rows:
        short = {name: _short(value) for name, value in row.items()}
        characters += sum(len(str(value)) for value in short.values())
        if (kept and characters > TABLE_CHARACTERS) or len(kept) == most_rows:
            return Preview(kept, True, cut)
        cut = cut or any(short[name] is not value for name, value in row.items())
        kept.append(short)
    return Preview(kept, False, cut)


def prompt_text(row: Mapping[str, Any], mapped: Mapped, system: str | None) -> str:
    """The text that a model reads for a row. Raises RequestInvalid.

    A special token inside a message is text to the model, and looks here like structure.
    """
    prompt = row_prompt(row, mapped, system)
    return prompt if isinstance(prompt, str) else raw_prompt(prompt)


def _short(value: object) -> object:
    """The value, or the beginning of its text when that is long."""
    if isinstance(value, (str, bytes)):
        long = len(value) > CELL_CHARACTERS
        text = str(value[:CELL_CHARACTERS]) if isinstance(value, bytes) else value
    elif isinstance(value, (dict, list)):
        text = json.dumps(value, ensure_ascii=False, default=str)
        long = len(text) > CELL_CHARACTERS
    else:
        return value
    return f"{text[:CELL_CHARACTERS]}…" if long else value
