"""Turns' copy: runs of one store as rows in a Parquet file beside the data folder, and how rows are replaced.

The file is replaced as a whole, so that readers in several processes never see half of one. Knows no MLflow.
"""

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from phi3kit.usage.runs import DAY_MS
from phi3kit.usage.turns_table import sort_out

log = logging.getLogger(__name__)

_VERSION = "1"  # of the columns; a file of another one is read anew


@dataclass
class TurnsCopy:
    """What is in the file. `rows` is never changed in place: snapshots share it."""

    rows: pd.DataFrame  # as turns_table.sort_out gives them, newest first
    read_at: float  # seconds since the epoch
    position: int = 0  # the row at which the next comparing begins
    stamp: tuple[int, int] | None = None  # of the file that it came from

    def replace(self, new: pd.DataFrame, begin_ms: int | None, end_ms: int | None) -> bool:
        """Put the store's runs of a span in the place of the copy's; whether they differ."""
        starts = self.rows["start_ms"]
        inside = pd.Series(True, index=self.rows.index)
        if begin_ms is not None:
            inside &= starts >= begin_ms
        if end_ms is not None:
            inside &= starts < end_ms
        if self.rows[inside].reset_index(drop=True).equals(new):
            return False
        self.rows = _ordered(pd.concat([self.rows[~inside], new]))
        return True

    def days(self) -> dict[int, tuple[int, int]]:
        """What runs.Runs.days says of the same runs."""
        day, rest = self.rows["start_ms"] // DAY_MS, self.rows["start_ms"] % DAY_MS
        sums = rest.groupby(day).agg(["size", "sum"])
        return {
            int(number): (int(row[0]), int(row[1])) for number, row in zip(sums.index, sums.to_numpy(), strict=True)
        }


def table_of(pages: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Pages of runs, sorted out one by one, so that what is not kept of a page is free again; newest first."""
    return _ordered(pd.concat([sort_out(page) for page in pages]))


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["start_ms", "run_id"], ascending=[False, True], kind="stable", ignore_index=True)


def load(path: Path, known: TurnsCopy | None) -> TurnsCopy | None:
    """The copy as the file has it, `known` when that is what it has; None when there is none that can be used."""
    try:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_ino)
        if known is not None and known.stamp == stamp:
            return known
        # Threads have memory of their own, and pq.read_table would import pyarrow.dataset: half the memory without.
        table = pq.ParquetFile(path).read(use_threads=False)
        about = json.loads((table.schema.metadata or {})[b"phi3kit"])
        if about["version"] != _VERSION:
            return None
        rows = table.to_pandas(split_blocks=True, self_destruct=True, use_threads=False)
        return TurnsCopy(rows, float(about["read_at"]), int(about["position"]) % max(len(rows), 1), stamp)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        log.warning("the copy of the logged turns is damaged and is made anew: %s", error)
        return None


def save(path: Path, copy: TurnsCopy) -> None:
    """Write the copy. A disk that does not take it costs time at the next start, and nothing else."""
    about = {"version": _VERSION, "read_at": copy.read_at, "position": copy.position}
    table = pa.Table.from_pandas(copy.rows, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"phi3kit": json.dumps(about).encode()})
    new = path.with_suffix(f".{os.getpid()}.new")
    try:
        pq.write_table(table, new, compression="zstd", compression_level=1)
        new.replace(path)
        found = path.stat()
        copy.stamp = (found.st_mtime_ns, found.st_ino)
    except OSError as error:
        log.warning("the copy of the logged turns was not written: %s", error)
        with suppress(OSError):
            new.unlink(missing_ok=True)
