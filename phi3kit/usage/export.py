"""Export: the table of turns as text or a file.

Knows formats. Reads no store.
"""

import csv
import io
import sys
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa

from phi3kit.core.errors import RequestInvalid, StorageFailed
from phi3kit.formats.spreadsheet import FORMULA, as_text

Format = Literal["table", "csv", "json", "parquet"]
_SHOWN = ("at", "wrapper", "interface", "origin", "prompt_tokens", "completion_tokens", "total_tokens", "finish_reason")


def to_csv(turns: pd.DataFrame) -> str:
    """Comma-separated values with a header; times in ISO 8601, UTC. An apostrophe stands before what would be a formula.

    Texts are in quotation marks: a spreadsheet that splits at commas and semicolons makes no cell of a part of one.
    """
    for name in turns.columns:
        if pd.api.types.is_string_dtype(turns[name]):
            if any(isinstance(cell, str) and FORMULA.search(cell) for cell in turns[name].unique()):
                turns = turns.assign(**{name: turns[name].map(as_text, na_action="ignore")})
            if turns[name].str.contains("\r").any():  # some readers begin a new row there
                turns = turns.assign(**{name: turns[name].str.replace("\r", " ")})
    return str(turns.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ", quoting=csv.QUOTE_NONNUMERIC))


def to_json(turns: pd.DataFrame) -> str:
    """A JSON list with one object a turn."""
    return str(turns.to_json(orient="records", date_format="iso", force_ascii=False))


def to_parquet(turns: pd.DataFrame) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    _for_parquet(turns).to_parquet(file, index=False)
    return file.getvalue()


def _for_parquet(turns: pd.DataFrame) -> pd.DataFrame:
    """With pyarrow's own times: of pandas' times with a zone it warns."""
    return turns.assign(at=turns["at"].astype(pd.ArrowDtype(pa.timestamp("ms", "UTC"))))


def write(turns: pd.DataFrame, format_: Format, output: Path | None) -> None:
    """Write the turns to a file, or to stdout when `output` is None. Raises RequestInvalid or StorageFailed."""
    if format_ == "parquet" and output is None:
        raise RequestInvalid("Parquet cannot be printed.", "It is a binary format.", "Add -o FILE.", param="format")
    try:
        if format_ == "parquet":
            _for_parquet(turns).to_parquet(output, index=False)
            return
        text = {"csv": to_csv, "json": to_json, "table": _to_table}[format_](turns)
        if output is None:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
        else:
            output.write_text(text, "utf-8")
    except BrokenPipeError:
        sys.stderr.close()  # the reader has ended (… | head), of which Python would complain at exit
    except OSError as error:
        raise StorageFailed(
            f"{output} cannot be written.", f"{error.strerror or error}.", "Choose another file with -o."
        ) from error


def _to_table(turns: pd.DataFrame) -> str:
    if turns.empty:
        return "No turns in this period."
    shown = turns[list(_SHOWN)].assign(at=turns["at"].dt.strftime("%Y-%m-%d %H:%M:%S"))
    return str(shown.to_string(index=False))
