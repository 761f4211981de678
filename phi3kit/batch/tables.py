"""Tables: files of rows (CSV, JSONL, Parquet), checked once and then read row by row.

A file may be bigger than memory: only a piece of it is held. Knows files. Knows no prompts and no models.
"""

import codecs
import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from phi3kit.batch import parquet_rows
from phi3kit.core.errors import TableInvalid

TableFormat = Literal["csv", "jsonl", "parquet"]
TABLE_FORMATS: dict[str, TableFormat] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet",
}  # fmt: skip
BATCH_ROWS = 1000  # that are written at once
MOST_ROWS, MOST_COLUMNS, MOST_ROW_CHARACTERS = (
    parquet_rows.MOST_ROWS,
    parquet_rows.MOST_COLUMNS,
    parquet_rows.MOST_ROW_BYTES,
)

_DEEPEST = 64  # lists and objects in each other
_PIECE = 1 << 20  # bytes that are hashed and decoded at once
_DELIMITERS = ",;\t|"  # the first one where a line has none
_NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")  # Python's own, some slow
_BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class ReadOptions:
    """How a file's bytes become rows. Only a CSV leaves a choice."""

    header: bool = True  # the first row names the columns; without it they are column_1, column_2, ...
    encoding: str | None = None  # None: UTF-8, or what the file's first bytes say
    delimiter: str | None = None  # None: the most frequent one of the first line


@dataclass(frozen=True)
class Table:
    """A checked file: every row of it can be read."""

    path: Path
    format: TableFormat
    columns: tuple[str, ...]
    rows: int
    sha256: str  # of the file's bytes
    header: bool = True
    encoding: str = "utf-8"
    delimiter: str = ","


def format_of(path: Path) -> TableFormat:
    """The format that a file's name says. Raises TableInvalid."""
    found = TABLE_FORMATS.get(path.suffix.lower())
    if found is None:
        raise TableInvalid(
            f"{path.name} is not a table that can be read or written.",
            f"Its name ends in {path.suffix or 'nothing'}; .csv, .tsv, .jsonl and .parquet are supported.",
            "Save the table as one of these.",
        )
    return found


def open_table(path: Path, reading: ReadOptions = ReadOptions()) -> Table:
    """Check the whole file: its columns, its number of rows, and that each can be read. Raises TableInvalid."""
    kind = format_of(path)
    with _read_errors(path):
        if path.stat().st_size == 0:
            raise TableInvalid(f"{path.name} is empty.", "It has 0 bytes.", "Choose a file with rows.")
        if kind == "csv":
            return _open_csv(path, reading)
        return _open_jsonl(path) if kind == "jsonl" else _open_parquet(path)


def read_rows(table: Table, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows in their order, as column to value; missing cells are None (in a CSV an empty text).

    columns: only these. Raises TableInvalid when the file has changed since it was checked.
    """
    with _read_errors(table.path):
        if table.format == "csv":
            for _, cells in _csv_rows(table):
                yield dict(zip(table.columns, cells, strict=True))
        elif table.format == "jsonl":
            for _, row in _jsonl_rows(table.path):
                yield {column: row.get(column) for column in table.columns}
        else:
            yield from parquet_rows.read(table.path, columns or table.columns)


def _open_csv(path: Path, reading: ReadOptions) -> Table:
    if reading.delimiter and (len(reading.delimiter) > 1 or reading.delimiter in '\r\n"'):
        raise TableInvalid(
            f"{path.name} cannot be read.", f"{reading.delimiter!r} is not a delimiter.", "Use one character."
        )
    encoding = _encoding(path, reading)
    sha256 = _decoded(path, encoding)
    with path.open(encoding=encoding, newline="") as file:
        first_line = next((line for line in _Lines(file, path) if line.strip()), "")
    delimiter = reading.delimiter or ("\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first_line.count))
    draft = Table(path, "csv", (), 0, sha256, reading.header, encoding, delimiter)
    first = next(_csv_lines(draft), None)
    if first is None:
        raise TableInvalid(f"{path.name} is empty.", "It has no rows.", "Choose a file with rows.")
    line, names = first
    _check_width(path, len(names))
    columns = tuple(names) if reading.header else tuple(f"column_{place}" for place in range(1, len(names) + 1))
    for place, name in enumerate(columns):
        if name in columns[:place]:
            raise TableInvalid(
                f"Two columns of {path.name} are called {name!r}.", f"Line {line} names the columns.", "Rename one."
            )
    table = replace(draft, columns=columns)
    rows = 0
    for _ in _csv_rows(table):
        rows += 1
        _check_length(path, rows)
    return replace(table, rows=rows)


def _csv_rows(table: Table) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row, a cell a column. Blank lines are no rows."""
    lines = _csv_lines(table)
    if table.header:
        next(lines, None)
    width = len(table.columns)
    for line, cells in lines:
        if len(cells) > width:
            raise TableInvalid(
                f"Line {line} of {table.path.name} has {len(cells)} cells, and the first one has {width}.",
                f"Text that contains the delimiter {table.delimiter!r} needs quotation marks.",
                "Correct that line, or choose another delimiter.",
            )
        yield line, cells + [""] * (width - len(cells))


def _csv_lines(table: Table) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(MOST_ROW_CHARACTERS)  # a prompt may be longer than the module's 131,072 characters
    with table.path.open(encoding=table.encoding, newline="") as file:
        lines = _Lines(file, table.path)
        reader = csv.reader(lines, delimiter=table.delimiter, strict=True)
        try:
            for cells in reader:
                lines.characters = 0
                if cells:
                    yield reader.line_num, cells
        except csv.Error as error:
            raise TableInvalid(
                f"{table.path.name} is not valid CSV from line {reader.line_num} on.",
                f"{error}.",
                "Correct that line: a quotation mark inside a text is written twice.",
            ) from error


class _Lines:
    """The lines of a file, as many as one row may have; `characters` begins anew with each row. Raises TableInvalid."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path, self.characters = file, path, 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MOST_ROW_CHARACTERS):
            self.characters += len(line)
            if self.characters >= MOST_ROW_CHARACTERS:
                raise TableInvalid(
                    f"A row of {self._path.name} is too long.",
                    f"It has more than {MOST_ROW_CHARACTERS:,} characters.",
                    "Shorten it. In a CSV, an unclosed quotation mark joins all rows after it.",
                )
            yield line


def _check_width(path: Path, columns: int) -> None:
    if columns > MOST_COLUMNS:
        why = f"It has {columns:,}; the limit is {MOST_COLUMNS:,}."
        raise TableInvalid(f"{path.name} has too many columns.", why, "Remove those that no prompt needs.")


def _check_length(path: Path, rows: int) -> None:
    if rows > MOST_ROWS:
        raise TableInvalid(f"{path.name} has too many rows.", f"It has more than {MOST_ROWS:,}.", "Split it.")


def _encoding(path: Path, reading: ReadOptions) -> str:
    if reading.encoding:
        try:
            found = codecs.lookup(reading.encoding).name
            if found in _NOT_OF_FILES:
                raise LookupError(f"{found} is not an encoding of files")
            "".encode(found)  # some codecs are not of texts
        except LookupError as error:
            raise TableInvalid(
                f"There is no encoding {reading.encoding!r}.", f"{error}.", "Use one such as utf-8, cp932 or cp1253."
            ) from error
        return "utf-8-sig" if found == "utf-8" else found
    with path.open("rb") as file:
        begin = file.read(4)
    return next((name for bom, name in _BOMS if begin.startswith(bom)), "utf-8-sig")


def _decoded(path: Path, encoding: str) -> str:
    """The file's hash. Raises TableInvalid when it cannot be decoded."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder(encoding)()
    lines = 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE)
            digest.update(piece)
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line = lines + bytes(error.object[: error.start]).count(b"\n")
                raise TableInvalid(
                    f"{path.name} is not in {encoding.removesuffix('-sig')}.",
                    f"Line {line} has bytes that are not valid in it ({error.object[error.start]:#04x}).",
                    "Save it as UTF-8, or choose its encoding: often cp1252 (Western), cp932 (Japanese) or cp1253 (Greek).",
                ) from error
            lines += text.count("\n")
            if not piece:
                return digest.hexdigest()


def _open_jsonl(path: Path) -> Table:
    sha256 = _decoded(path, "utf-8-sig")
    columns: dict[str, None] = {}
    rows = 0
    for _, row in _jsonl_rows(path):
        columns |= dict.fromkeys(row)
        _check_width(path, len(columns))
        rows += 1
        _check_length(path, rows)
    return Table(path, "jsonl", tuple(columns), rows, sha256)


def check_depth(value: object, deepest: int) -> None:
    """Raises ValueError when lists and objects lie deeper in each other: a row that is read must be written, too."""
    level: list[object] = [value]
    for _ in range(deepest + 1):
        level = [
            each
            for held in level
            if isinstance(held, (dict, list))
            for each in (held.values() if isinstance(held, dict) else held)
        ]
        if not level:
            return
    raise ValueError(f"lists and objects are nested more than {deepest} deep")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = _Lines(file, path)
        for line, text in enumerate(lines, start=1):
            lines.characters = 0
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                if text.count("[") + text.count("{") > _DEEPEST:
                    check_depth(row, _DEEPEST)
            except (ValueError, RecursionError) as error:
                raise TableInvalid(
                    f"Line {line} of {path.name} is not JSON.", f"{error}.", "Write one object per line."
                ) from error
            if not isinstance(row, dict):
                raise TableInvalid(
                    f"Line {line} of {path.name} is not an object.",
                    f"It is {text.strip()[:40]}.",
                    "Write {…} on each line.",
                )
            yield line, row


def _open_parquet(path: Path) -> Table:
    schema, rows = parquet_rows.describe(path)
    with path.open("rb") as raw:
        sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
    return Table(path, "parquet", tuple(schema.names), rows, sha256)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Translate the errors of the file system and of Arrow."""
    try:
        yield
    except OSError as error:
        raise TableInvalid(
            f"{path.name} cannot be read.", f"{error.strerror or error}.", "Check the file's name and its permissions."
        ) from error
    except ValueError as error:
        raise TableInvalid(
            f"{path.name} cannot be read.",
            f"{str(error).splitlines()[0]}.",
            "Write the file again, or choose another one.",
        ) from error
