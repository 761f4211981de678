"""Turns' copy: the runs of one store as rows in a Parquet file of the data folder.

The file is replaced as a whole: readers in other processes never see half of one. Knows no MLflow.
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

_VERSION = "1"  # of the columns; a file of another version is made anew


@dataclass
class TurnsCopy:
    """The file's content. `rows` is never changed in place: snapshots share it."""

    rows: pd.DataFrame  # of turns_table.sort_out, newest first
    read_at: float  # seconds since the epoch
    before_ms: int | None = None  # the next comparison begins with the runs before this moment; None: with the newest
    stamp: tuple[int, int] | None = None  # of the file: its time and inode

    def replace(self, new: pd.DataFrame, begin_ms: int | None, end_ms: int | None) -> bool:
        """Replace the runs of a span by the store's; whether they differ."""
        starts = self.rows["start_ms"]
        inside = starts >= begin_ms if begin_ms is not None else starts.notna()
        if end_ms is not None:
            inside &= starts < end_ms
        if self.rows[inside].reset_index(drop=True).equals(new):
            return False
        self.rows = _ordered(pd.concat([self.rows[~inside], new]))
        return True

    def days(self) -> dict[int, tuple[int, int]]:
        """As runs.Runs.days, of the copy's runs."""
        starts = self.rows["start_ms"]
        sums = (starts % DAY_MS).groupby(starts // DAY_MS).agg(["size", "sum"])
        return {int(day): (int(size), int(total)) for day, size, total in sums.itertuples()}


def table_of(pages: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Pages of runs as one table, newest first; sorted out page by page, which takes less memory."""
    return _ordered(pd.concat([sort_out(page) for page in pages]))


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["start_ms", "run_id"], ascending=[False, True], kind="stable", ignore_index=True)


def load(path: Path, known: TurnsCopy | None) -> TurnsCopy | None:
    """The copy from its file; `known` when the file has not changed, None when it cannot be used."""
    try:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_ino)
        if known is not None and known.stamp == stamp:
            return known
        # Without threads, and without pyarrow.dataset, which pq.read_table imports: half the memory.
        table = pq.ParquetFile(path).read(use_threads=False)
        about = json.loads((table.schema.metadata or {})[b"phi3kit"])
        if about["version"] != _VERSION:
            return None
        rows = table.to_pandas(split_blocks=True, self_destruct=True, use_threads=False)
        return TurnsCopy(rows, float(about["read_at"]), about.get("before_ms"), stamp)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        log.warning("the copy of the logged turns is damaged and is made anew: %s", error)
        return None


def save(path: Path, copy: TurnsCopy) -> None:
    """Write the copy. When the disk does not take it, the next start reads all again."""
    about = {"version": _VERSION, "read_at": copy.read_at, "before_ms": copy.before_ms}
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
