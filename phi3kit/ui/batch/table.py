"""Table: the table of a batch before it begins: its file, its first rows, and which column is what.

Knows widgets. Does not know how a table is read or checked.
"""

from pathlib import Path
from typing import TypedDict

import streamlit as st

from phi3kit.batch.preview import preview, prompt_text
from phi3kit.batch.request import PROMPT_FORMATS, BatchRequest, PromptFormat, map_columns
from phi3kit.batch.tables import TABLE_FORMATS, ReadOptions, Table, read_rows
from phi3kit.core.embedded_model import QUESTIONS_FILE
from phi3kit.ui.shared import elements, resources, shell, upload, words
from phi3kit.ui.shared.literal import literal

_PROMPT_FORMATS = {
    "message": "User message, through the chat template",
    "prompt": "Raw prompt",
    "messages": "List of OpenAI messages",
}
EXPECTED = (
    "It needs one column of prompts: `message` (a user message), `prompt` (a raw prompt with Phi-3's special tokens) or "
    "`messages` (a list of role and content). A column of another name can be chosen."
)
_ENCODINGS = ("utf-8", "cp1252", "cp932", "cp1253", "utf-16")
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_PREVIEW_ROWS = 5
_PROMPT_CHARACTERS = 20_000  # of a prompt that is drawn


def choose_file() -> Path | None:
    """An uploaded table, or the one that ships with the app. Raises StorageFailed."""
    kind = elements.choose_one("Table", ["upload", "example"], "batch_table")
    if kind == "example":
        return QUESTIONS_FILE
    with st.container(width=420):
        types = [suffix.removeprefix(".") for suffix in TABLE_FORMATS if suffix != ".txt"]
        file = upload.choose_upload("batch_file", types, "CSV, JSONL or Parquet, with a column of prompts.")
        if file is None:
            st.caption(EXPECTED)
    return file


def show_table(file: Path) -> tuple[Table, ReadOptions]:
    """The table's first rows and how many there are; how a CSV is read can be set there. Raises TableInvalid."""
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            title = st.empty()
            reading = _choose_reading(file)
        title.markdown(f"**{literal(file.name)}**", width="content")
        table = resources.table(file, reading)
        title.markdown(f"**{literal(file.name)}** · {table.rows:,} rows", width="content")
        drawn = preview(read_rows(table), _PREVIEW_ROWS)
        st.dataframe(drawn.rows, hide_index=True, alt="The table's first rows")
        if drawn.cut or len(drawn.rows) < min(table.rows, _PREVIEW_ROWS):  # that there are more rows stands above
            st.caption(drawn.said(table.rows))
    return table, reading


def _choose_reading(file: Path) -> ReadOptions:
    """How a CSV is read, in a popover; other formats need no such choice."""
    if TABLE_FORMATS.get(file.suffix.lower()) != "csv":
        return ReadOptions()
    with st.popover("CSV options", icon=":material/tune:"):
        header = st.toggle("First row is the header", value=True, key="batch_header", persist_state="session")
        encoding = st.selectbox(
            "Encoding", _ENCODINGS, index=None, placeholder="Detect automatically", accept_new_options=True,
            key="batch_encoding", persist_state="session",
        )  # fmt: skip
        delimiter = st.selectbox(
            "Delimiter", list(_DELIMITERS), index=None, format_func=_DELIMITERS.__getitem__, placeholder="Detect automatically",
            key="batch_delimiter", persist_state="session",
        )  # fmt: skip
    return ReadOptions(header, encoding, delimiter)


class Columns(TypedDict):
    """Which column is what, as in a BatchRequest."""

    column: str | None
    format: PromptFormat | None
    system_column: str | None


def choose_columns(table: Table) -> Columns:
    """Which column is what; guessed from the first rows until a person says otherwise."""
    columns = table.columns
    guess = resources.guessed_columns(table)
    with st.container(horizontal=True):
        column = st.selectbox(
            "Prompt column",
            columns,
            index=columns.index(guess.column),
            key=f"batch_column_{guess.column}",
            persist_state="session",
            width=220,
        )
        guessed = guess.formats[column]
        kind = st.selectbox(
            "Format", PROMPT_FORMATS, index=PROMPT_FORMATS.index(guessed),
            format_func=_PROMPT_FORMATS.__getitem__, key=f"batch_format_{column}_{guessed}", persist_state="session", width=330,
        )  # fmt: skip
        system = st.selectbox(
            "System message column", [name for name in columns if name != column], index=None,
            placeholder="none", key="batch_system_column", persist_state="session", width=220, disabled=kind == "prompt",
        )  # fmt: skip
    return {"column": column, "format": kind, "system_column": system}


def can_begin(request: BatchRequest, table: Table) -> bool:
    """Whether the batch can begin; what prevents it is drawn."""
    with shell.errors_shown():
        map_columns(request, table)
        return table.rows > 0
    return False


def show_first_prompt(request: BatchRequest, table: Table) -> None:
    """The first row as the model will read it, folded; or why it has no prompt."""
    folded = st.expander("The first prompt, as the model will read it", key="batch_first_prompt", on_change="rerun")
    if not folded.open:  # it is read from the file
        return
    with folded, shell.errors_shown():
        mapped = map_columns(request, table)
        text = prompt_text(next(read_rows(table, mapped.columns)), mapped, request.system)
        st.code(words.shortened(text, _PROMPT_CHARACTERS), language=None, wrap_lines=True)
