"""Outbox: turns that were made on this machine and wait to be written to MLflow.

One SQLite file under the data folder, shared by every process of phi3kit. Knows no MLflow.
A turn is added once, whoever adds it (its id is the key), and leaves when it is written.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from phi3kit.errors import StorageFailed
from phi3kit.records import TurnRecord

_SCHEMA = """
create table if not exists turns (
    number integer primary key autoincrement,
    turn_id text not null unique,
    record text not null,
    run_id text,              -- null while it waits
    claimed integer not null default 0  -- a writer has begun; its run may exist already
)
"""


class Outbox:
    """The waiting turns. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self._path = home / "outbox.db"

    def add(self, turn: TurnRecord) -> bool:
        """Keep a turn durably; False when this turn_id was added before. Raises StorageFailed."""
        with self._connection() as connection:
            cursor = connection.execute(
                "insert or ignore into turns (turn_id, record) values (?, ?)", (turn.turn_id, json.dumps(asdict(turn)))
            )
            return cursor.rowcount == 1

    def waiting(self) -> int:
        """How many turns are not in MLflow yet."""
        with self._connection() as connection:
            return int(connection.execute("select count(*) from turns where run_id is null").fetchone()[0])

    def claim_next(self) -> tuple[TurnRecord, bool] | None:
        """The oldest waiting turn, and whether an earlier writer began it and may have died in between."""
        with self._connection() as connection:
            row = connection.execute(
                "select turn_id, record, claimed from turns where run_id is null order by number limit 1"
            ).fetchone()
            if row is None:
                return None
            connection.execute("update turns set claimed = 1 where turn_id = ?", (row[0],))
            return TurnRecord(**json.loads(row[1])), bool(row[2])

    def written(self, turn_id: str, run_id: str) -> None:
        """Mark a turn as written to MLflow."""
        with self._connection() as connection:
            connection.execute("update turns set run_id = ? where turn_id = ?", (run_id, turn_id))

    def find(self, turn_id: str) -> TurnRecord | None:
        """A turn that was added, written or not."""
        with self._connection() as connection:
            row = connection.execute("select record from turns where turn_id = ?", (turn_id,)).fetchone()
            return TurnRecord(**json.loads(row[0])) if row else None

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            # A connection a call: it costs 0.1 ms, and a connection must not be shared by threads.
            connection = sqlite3.connect(self._path, timeout=10)
            try:
                connection.execute("pragma journal_mode=wal")
                connection.execute(_SCHEMA)
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StorageFailed(
                what="The outbox of turns cannot be used.",
                why=f"{self._path.name}: {error}.",
                next_step="Free some space in the data folder and check that it can be written.",
            ) from error
