"""Journal: the results that a batch has so far; a stopped batch goes on from here.

One SQLite file a batch in the data folder, named by what makes two batches the same, in a folder of each person: nobody is
given another's answers, nor has theirs forgotten for another's. Knows rows. Knows no prompts.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phi3kit.access.actor import Actor
from phi3kit.batch.request import RowResult
from phi3kit.core.data_folder import changed_at, unwritable
from phi3kit.core.errors import BatchFailed
from phi3kit.core.settings import Settings
from phi3kit.core.sqlite_file import connect

_SCHEMA = """
create table if not exists results (
    row integer primary key, completion text not null, prompt_tokens integer not null,
    completion_tokens integer not null, finish_reason text not null, error text, final integer not null
)
"""
_COLUMNS = "row, completion, prompt_tokens, completion_tokens, finish_reason, error, final"
_TOGETHER = 200  # results in one write
_AT_MOST_S = 1.0  # until a result is written
_KEPT = 50  # journals of each person, this one too


class Journal:
    """The results of one batch, for one thread. As a context manager it writes what still waits."""

    def __init__(self, settings: Settings, key: str, actor: Actor, *, fresh: bool = False) -> None:
        """actor: whose batch it is. fresh: forget what was computed before. Raises StorageFailed."""
        self._home = settings.home
        person = hashlib.sha256(actor.name.encode()).hexdigest()[:32]
        self._path = settings.home / "batches" / "journals" / person / f"{key}.db"
        self._waiting: list[RowResult] = []
        self._written_at = time.monotonic()
        with self._errors():
            _forget_oldest(self._path)
            self._connection = connect(self._path, _SCHEMA, durable=False)  # a power cut may cost the last seconds
            if fresh:
                self._connection.execute("delete from results")
                self._connection.commit()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self.write()
        finally:
            self._connection.close()

    def done(self, rows: int) -> bytearray:
        """One byte a row: 1 where nothing is left to compute. Raises BatchFailed when the file is damaged."""
        marks = bytearray(rows)
        with self._errors():
            for (row,) in self._connection.execute("select row from results where final = 1"):
                if row < rows:
                    marks[row] = 1
        return marks

    def add(self, result: RowResult) -> None:
        """Keep a result. It is written within a second, when more come. Raises StorageFailed."""
        self._waiting.append(result)
        if len(self._waiting) >= _TOGETHER or time.monotonic() - self._written_at > _AT_MOST_S:
            self.write()

    def write(self) -> None:
        """Write what waits. Raises StorageFailed."""
        with self._errors(), self._connection:
            self._connection.executemany(
                f"insert or replace into results ({_COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                [
                    (each.row, each.completion, each.prompt_tokens, each.completion_tokens,
                     each.finish_reason, each.error, int(each.final))
                    for each in self._waiting
                ],
            )  # fmt: skip
        self._waiting.clear()
        self._written_at = time.monotonic()

    def results(self) -> Iterator[RowResult]:
        """Every result, in the order of rows."""
        self.write()
        with self._errors():
            found = self._connection.execute(f"select {_COLUMNS} from results order by row")  # noqa: S608
            for row, completion, prompt_tokens, completion_tokens, finish_reason, error, final in found:
                yield RowResult(
                    row, completion, prompt_tokens, completion_tokens, finish_reason, error, final=bool(final)
                )

    def counts(self) -> tuple[int, int, int]:
        """(rows with an error, prompt tokens, completion tokens) of all results."""
        self.write()
        with self._errors():
            found = self._connection.execute(
                "select count(error), total(prompt_tokens), total(completion_tokens) from results"
            ).fetchone()
        return int(found[0]), int(found[1]), int(found[2])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise unwritable(self._home, f"{error}.") from error
            raise BatchFailed(
                "The earlier results of this batch cannot be read.",
                f"{self._path.name} in the data folder is damaged: {error}.",
                "Remove that file and run the batch again.",
            ) from error
        except OSError as error:
            raise unwritable(self._home, f"{error.strerror or error}.") from error


def _forget_oldest(path: Path) -> None:
    """Make room for this journal among those of the same person."""
    others = sorted(path.parent.glob("*.db"), key=changed_at)
    for old in [each for each in others if each != path][: 1 - _KEPT]:
        for file in (old, old.with_name(old.name + "-wal"), old.with_name(old.name + "-shm")):
            file.unlink(missing_ok=True)
