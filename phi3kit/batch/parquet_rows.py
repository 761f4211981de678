"""Parquet rows: the rows of a Parquet file, decoded by a confined child: 300 bytes of it may stand for gigabytes.

    python -m phi3kit.batch.parquet_rows FILE [COLUMN…]

The child writes Arrow's stream of record batches to stdout; its schema also holds the number of rows. Knows Arrow. Does not
know what the rows are for.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from phi3kit.core.child_environment import bare_environment
from phi3kit.core.confinement import Bounds, confine

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 10_000_000
MOST_COLUMNS = 1_000
MOST_ROW_BYTES = 4_000_000

_LEAST_BYTES, _TIMES = 64_000_000, 1_000  # all rows may take so much, and so many times the file's size beside
_MEMORY_BYTES = 640_000_000  # of the child, its libraries too
_CPU_S = 600
_ROWS = b"phi3kit.rows"  # in the schema's metadata
_ROWS_AT_ONCE = 32  # as many of the biggest rows are half the child's memory


def describe(path: Path) -> tuple["pa.Schema", int]:
    """The file's schema and the number of its rows. Raises ValueError with a sentence."""
    with _decoded(path, []) as batches:
        schema = batches.schema
        return schema.remove_metadata(), int(schema.metadata[_ROWS])


def read(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows, in their order, with these columns. Raises ValueError with a sentence."""
    with _decoded(path, columns) as batches:
        for batch in batches:
            try:
                rows = batch.to_pylist()
            except (OverflowError, ValueError, LookupError) as error:  # a date beyond Python's, an unknown time zone
                raise ValueError(f"A value in its rows cannot be read: {str(error)[:200]}") from error
            yield from rows


@contextmanager
def _decoded(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow as pa

    command = [sys.executable, "-m", "phi3kit.batch.parquet_rows", str(path), *columns]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=bare_environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:  # noqa: S603 -- a list of our own making
        try:
            yield pa.ipc.open_stream(child.stdout)
            ended = child.wait() if columns else 0  # a caller that takes no rows leaves it in the middle
        except (pa.ArrowInvalid, OSError):
            ended = child.wait() or 1
        finally:
            child.kill()  # a caller may have gone
        assert child.stderr is not None
        if ended:
            said = child.stderr.read().decode(errors="replace").strip().splitlines()
            raise ValueError(said[-1] if said else "Its rows need more memory than is allowed")


def main(path: str, columns: Sequence[str]) -> int:
    """Decode the file; the exit code."""
    _confine(path)  # before Arrow is imported, which begins threads
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # the others take more than they need
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            if rows > MOST_ROWS or len(schema) > MOST_COLUMNS:
                raise ValueError(
                    f"It has {rows:,} rows and {len(schema):,} columns; the limits are {MOST_ROWS:,} and {MOST_COLUMNS:,}"
                )
            if len(set(schema.names)) < len(schema):
                raise ValueError("Two of its columns have the same name")
            fields = [field for field in schema if field.name in columns] if columns else list(schema)
            schema = pa.schema([_unmarked(field) for field in fields], {_ROWS: str(rows)})
            with pa.ipc.new_stream(sys.stdout.buffer, schema) as written:
                if columns:
                    _write(file, columns, written, _LEAST_BYTES + _TIMES * Path(path).stat().st_size)
    except MemoryError:
        print("Its rows need more memory than is allowed", file=sys.stderr)
        return 1
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0


def _unmarked(field: "pa.Field") -> "pa.Field":
    """The field without metadata, and those inside of it: a mark there would begin a library's own code in the app.

    Arrow's own types (UUID, JSON) stay: they are types already, and not marks. The values' bytes are the same.
    """
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_unmarked(kind.field(place)) for place in range(kind.num_fields)])
    elif pa.types.is_map(kind):
        kind = pa.map_(_unmarked(kind.key_field), _unmarked(kind.item_field), kind.keys_sorted)
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(_unmarked(kind.value_field), kind.list_size)
    else:
        for is_list, list_of in (
            (pa.types.is_list, pa.list_),
            (pa.types.is_large_list, pa.large_list),
            (pa.types.is_list_view, pa.list_view),
            (pa.types.is_large_list_view, pa.large_list_view),
        ):
            if is_list(kind):
                kind = list_of(_unmarked(kind.value_field))
    return pa.field(field.name, kind, field.nullable)


def _confine(path: str) -> None:
    """Nothing but the file is read from now on, nothing is written, and memory and time are bounded."""
    own = psutil.Process().memory_info()
    most = getattr(own, "data", own.rss) + _MEMORY_BYTES
    bounds = Bounds(most, file_bytes=0, cpu_s=_CPU_S, readable=(str(Path(path).resolve()),), writable=())
    confine(bounds.environment())


def _write(file: Any, columns: Sequence[str], written: Any, most_bytes: int) -> None:
    done = decoded = 0
    names = [field.name for field in file.schema_arrow if field.name in columns]
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=list(columns), use_threads=False):
        decoded += batch.nbytes
        if decoded > most_bytes:
            raise ValueError(
                f"Its rows take more than {most_bytes / 1e6:,.0f} MB, {_TIMES:,} times as much as the file"
            )
        rows = 1 if batch.nbytes > MOST_ROW_BYTES else _ROWS_AT_ONCE
        for place in range(0, batch.num_rows, rows):
            part = batch.select(names).slice(place, rows)
            if part.nbytes > MOST_ROW_BYTES:
                size = f"{part.nbytes / 1e6:,.0f} MB; the limit is {MOST_ROW_BYTES / 1e6:,.0f} MB"
                raise ValueError(f"Row {done + place + 1:,} has {size}")
            written.write_batch(part)
        done += batch.num_rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
