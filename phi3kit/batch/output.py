"""Output: the input's columns and rows in their order, with each row's result beside them.

The file appears whole or not at all (see draft). Knows the formats of tables. Knows no models.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TextIO

from phi3kit.batch import parquet_rows
from phi3kit.batch.draft import drafted
from phi3kit.batch.request import RESULT_COLUMNS, RowResult
from phi3kit.batch.tables import BATCH_ROWS, Table, format_of, read_rows
from phi3kit.core.errors import Phi3KitError, StorageFailed, TableInvalid, first_line
from phi3kit.formats.spreadsheet import as_text

_GROUP_CHARACTERS = 16_000_000
# An output may have so many bytes, and so many times its input's beside: a small Parquet file stands for any size.
_MOST_BYTES, _TIMES = 1_000_000_000, 2

Write = Callable[[list[dict[str, Any]]], None]


def check_output(table: Table, output: Path) -> None:
    """See that the output can be written before anything is computed. Raises TableInvalid or StorageFailed."""
    kind = format_of(output)
    with _write_errors(output), TemporaryFile(dir=output.parent):
        if output.exists() and output.samefile(table.path):
            raise TableInvalid(
                f"The output and the input are the same file, {output.name}.",
                "It would be overwritten.",
                "Choose another file with -o.",
            )
    if kind == "parquet":
        _arrow_schema(table)


def write_output(table: Table, results: Iterator[RowResult], output: Path) -> None:
    """Write the table with its results. Raises StorageFailed or TableInvalid.

    results: in the order of rows; a row without one gets empty cells.
    """
    most_bytes = _MOST_BYTES + _TIMES * table.path.stat().st_size
    with _write_errors(output), drafted(output, most_bytes) as file, _writer(table, file, output) as write:
        for several in _in_groups(_joined(table, results)):
            write(several)


def for_spreadsheets(table: Table) -> bytes:
    """A written CSV with an apostrophe before each cell that a spreadsheet would compute. The file itself is exact.

    Each cell is in quotation marks: a spreadsheet that splits at several signs makes no cell of a part of one.
    """
    content = BytesIO()
    text = TextIOWrapper(content, encoding="utf-8", newline="", write_through=True)  # no second copy, of texts
    write = csv.writer(text, delimiter=table.delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    with table.path.open(encoding="utf-8", newline="") as file:
        for cells in csv.reader(file, delimiter=table.delimiter):
            write.writerow([as_text(cell) for cell in cells])
    text.flush()
    return content.getvalue()


def _joined(table: Table, results: Iterator[RowResult]) -> Iterator[dict[str, Any]]:
    result = next(results, None)
    for number, row in enumerate(read_rows(table)):
        if result is not None and result.row == number:
            row |= {name: getattr(result, name) for name in RESULT_COLUMNS}
            result = next(results, None)
        else:
            row |= dict.fromkeys(RESULT_COLUMNS)
        yield row


def _in_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in groups that are small in memory: a row may have millions of characters."""
    group: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        group.append(row)
        characters += sum(len(each) for each in row.values() if isinstance(each, str))
        if len(group) >= BATCH_ROWS or characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


@contextmanager
def _writer(table: Table, file: BinaryIO, output: Path) -> Iterator[Write]:
    columns, kind = [*table.columns, *RESULT_COLUMNS], format_of(output)
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _arrow_schema(table)
        with pq.ParquetWriter(file, schema) as writer:
            yield lambda rows: writer.write_table(pa.Table.from_pylist([_whole(row) for row in rows], schema=schema))
    elif kind == "jsonl":
        # Half a character, which JSON can hold and UTF-8 cannot, is written as JSON's escape.
        with TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n") as text:
            yield lambda rows: text.writelines(f"{_as_json(row)}\n" for row in rows)
    else:
        delimiter = "\t" if output.name.endswith(".tsv") else table.delimiter
        with TextIOWrapper(file, encoding="utf-8", errors="replace", newline="") as text:
            write_row = _csv_writer(text, delimiter)
            if table.header or table.format != "csv":
                write_row(columns)

            def write(rows: list[dict[str, Any]]) -> None:
                for row in rows:
                    write_row([_cell(row[column]) for column in columns])

            yield write


def _csv_writer(file: TextIO, delimiter: str) -> Callable[[list[str]], object]:
    """Writes a row. With this line end Python puts no quotation marks around a carriage return, which readers take for one."""
    usual = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    quoted = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    return lambda cells: (quoted if any("\r" in cell for cell in cells) else usual).writerow(cells)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _as_json(value) if isinstance(value, (dict, list)) else str(value)


def _as_json(value: object) -> str:
    return json.dumps(_numbers(value), ensure_ascii=False, default=str)


def _numbers(value: object) -> object:
    """The value with None in the place of NaN and infinity, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _numbers(each) for name, each in value.items()}
    return [_numbers(each) for each in value] if isinstance(value, list) else value


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """The row without half characters, which Arrow refuses."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


def _arrow_schema(table: Table) -> Any:
    """The output's types. A CSV's are all texts, a JSONL file's are found by reading it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.format == "parquet":
        schema, _ = parquet_rows.describe(table.path)
    elif table.format == "csv":
        schema = pa.schema([(column, pa.string()) for column in table.columns])
    else:
        schema = pa.schema([])
        rows = read_rows(table)
        try:
            for several in _in_groups(rows):
                seen = pa.Table.from_pylist([_whole(row) for row in several]).schema
                schema = pa.unify_schemas([schema, seen], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise _no_parquet(table, f"A column has values of several kinds: {first_line(error)}") from error
        except (OverflowError, UnicodeError, pa.ArrowException) as error:
            raise _no_parquet(table, first_line(error)) from error
    try:
        pq.write_table(schema.empty_table(), BytesIO())
    except (UnicodeError, pa.ArrowException) as error:  # an object without any field, for one
        raise _no_parquet(table, first_line(error)) from error
    result_types = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string())
    for name, kind in zip(RESULT_COLUMNS, result_types, strict=True):
        schema = schema.append(pa.field(name, kind))
    return schema


def _no_parquet(table: Table, why: str) -> TableInvalid:
    return TableInvalid(f"{table.path.name} cannot be written as Parquet.", why, "Write .jsonl or .csv.")


@contextmanager
def _write_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except Phi3KitError:
        raise
    except OSError as error:
        raise StorageFailed(
            f"{output} cannot be written.",
            f"{error.strerror or error}.",
            "Choose another file with -o, or free some space. Finished rows are kept.",
        ) from error
