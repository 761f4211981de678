"""Outbox: turns that were made on this machine and wait to be written to MLflow.

One SQLite file under the data folder, shared by every process of phi3kit. Knows no MLflow.
A turn is added once, whoever adds it (its id is the key), and leaves when it is written. A turn that was begun by a
process which then died is found by the lock that the process held, and added as broken.
"""

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from phi3kit.core.errors import StorageFailed
from phi3kit.core.records import Message, TurnRecord, TurnText
from phi3kit.usage.live_processes import LiveProcesses

_SCHEMA = """
create table if not exists turns (
    number integer primary key autoincrement,
    turn_id text not null unique,
    record text not null,     -- its text is taken out once it is written
    run_id text,              -- null while it waits
    claimed integer not null default 0,  -- a writer has begun; its run may exist already
    owner text,               -- the process that is making the turn; null once it has ended
    orphaned_at real,         -- when the owner was first seen to be gone
    written_at real,
    doubtful integer not null default 0,  -- a server may still make a second run out of a request that broke off
    refused text              -- why the store will not take it; it is tried again when an app starts
);
create index if not exists waiting on turns (number) where run_id is null;
create index if not exists written on turns (written_at);
create table if not exists spent (day text, user text, tokens integer not null, primary key (day, user));
create table if not exists secrets (name text primary key, value blob not null);
"""
_LATER_COLUMNS = {
    "owner": "text", "orphaned_at": "real", "written_at": "real", "doubtful": "integer not null default 0",
    "refused": "text",
}  # fmt: skip

_RESERVE_BYTES = 2**20  # room for hundreds of turns on a disk that is full
_ORPHAN_GRACE_S = 5.0  # a client that saw its worker die knows better what the turn cost, and says so at once
_KEPT_S = 30 * 86_400  # how long a written turn's id is remembered
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


class Outbox:
    """The waiting turns. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "outbox.db"
        self._reserve = home / "outbox.reserve"
        self._processes = LiveProcesses(home / "owners")
        self._guard = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._inode: int | None = None
        self._is_full = False  # the disk was, when it was last written to

    def begin(self, turn: TurnRecord) -> None:
        """Note durably that a turn is being made by this process; `add` ends it. Raises StorageFailed."""
        try:
            owner = self._processes.own_name()
        except (OSError, Timeout) as error:
            raise self._failure(error) from error
        self._with_reserve(
            "insert or ignore into turns (turn_id, record, owner) values (?, ?, ?)",
            (turn.turn_id, to_json(turn), owner),
            None,
        )

    def add(self, turn: TurnRecord) -> bool:
        """Keep a turn durably; False when this turn_id was added before. Raises StorageFailed."""
        return self._with_reserve(
            "insert into turns (turn_id, record) values (?, ?) on conflict (turn_id) "
            "do update set record = excluded.record, owner = null, orphaned_at = null where owner is not null",
            (turn.turn_id, to_json(turn)),
            turn,
        )

    def withdraw(self, turn_id: str) -> None:
        """Forget a turn that was begun and refused: there is nothing to log."""
        with self._connection() as connection:
            connection.execute("delete from turns where turn_id = ? and owner is not null", (turn_id,))

    def waiting(self) -> int:
        """How many turns are not in MLflow yet."""
        with self._connection() as connection:
            query = "select count(*) from turns where run_id is null and owner is null"
            return int(connection.execute(query).fetchone()[0])

    def claim_next(self) -> tuple[TurnRecord, bool] | None:
        """The oldest waiting turn, and whether an earlier writer began it and may have died in between."""
        with self._connection() as connection:
            row = connection.execute(
                "select turn_id, record, claimed from turns "
                "where run_id is null and owner is null and refused is null order by number limit 1"
            ).fetchone()
            if row is None:
                return None
            connection.execute("update turns set claimed = 1 where turn_id = ?", (row[0],))
            return from_json(row[1]), bool(row[2])

    def written(self, turn_id: str, run_id: str, *, doubtful: bool = False) -> None:
        """Mark a turn as written to MLflow; its text is there now, and here no more."""
        with self._connection() as connection:
            row = connection.execute("select record from turns where turn_id = ?", (turn_id,)).fetchone()
            record = to_json(replace(from_json(row[0]), text=None)) if row else None
            connection.execute(
                "update turns set run_id = ?, written_at = ?, doubtful = ?, record = coalesce(?, record) "
                "where turn_id = ?",
                (run_id, time.time(), int(doubtful), record, turn_id),
            )

    def refuse(self, turn_id: str, why: str) -> None:
        """Set a turn aside that the store will not take as it is; it still counts as waiting."""
        with self._connection() as connection:
            connection.execute("update turns set refused = ? where turn_id = ?", (why, turn_id))

    def refused(self) -> tuple[int, str | None]:
        """How many turns were set aside, and why the first one was."""
        with self._connection() as connection:
            query = "select count(*), min(refused) from turns where run_id is null and refused is not null"
            count, why = connection.execute(query).fetchone()
            return int(count), why

    def try_refused_again(self) -> None:
        """Let the turns that were set aside wait like any other."""
        with self._connection() as connection:
            connection.execute("update turns set refused = null where run_id is null and refused is not null")

    def doubtful(self, older_than_s: float) -> list[tuple[str, str]]:
        """Ids of turns and their runs that were written so long ago and may have got a second run since."""
        with self._connection() as connection:
            # Written in the future: the clock was set back since.
            query = "select turn_id, run_id from turns where doubtful and (written_at < ? or written_at > ?)"
            moment = time.time()
            return [(row[0], row[1]) for row in connection.execute(query, (moment - older_than_s, moment))]

    def settled(self, turn_id: str) -> None:
        """A doubtful turn was looked at: it has one run."""
        with self._connection() as connection:
            connection.execute("update turns set doubtful = 0 where turn_id = ?", (turn_id,))

    def written_since(self, moment: float) -> list[tuple[str, float]]:
        """Runs that were written since then, and when their turns were made (seconds since the epoch)."""
        with self._connection() as connection:
            query = (
                "select run_id, json_extract(record, '$.at') from turns where written_at >= ? and run_id is not null"
            )
            return [(row[0], float(row[1])) for row in connection.execute(query, (moment,))]

    def find(self, turn_id: str) -> TurnRecord | None:
        """A turn that has ended, written or not; a written one without its text."""
        with self._connection() as connection:
            query = "select record from turns where turn_id = ? and owner is null"
            row = connection.execute(query, (turn_id,)).fetchone()
            return from_json(row[0]) if row else None

    def spent_tokens(self, day: str, user: str | None = None) -> int:
        """Tokens of the turns that were made here on a day (YYYY-MM-DD, UTC), by everybody or by one user."""
        query = "select coalesce(sum(tokens), 0) from spent where day = ? and (? is null or user = ?)"
        with self._connection() as connection:
            return int(connection.execute(query, (day, user, user)).fetchone()[0])

    def spenders(self, day: str) -> dict[str, int]:
        """Tokens of each user on a day (YYYY-MM-DD, UTC), most first."""
        with self._connection() as connection:
            query = "select user, tokens from spent where day = ? order by tokens desc, user"
            return dict(connection.execute(query, (day,)).fetchall())

    def secret(self, name: str) -> bytes:
        """32 random bytes that stay the same for this data folder."""
        with self._connection() as connection:
            connection.execute(
                "insert or ignore into secrets (name, value) values (?, ?)", (name, secrets.token_bytes(32))
            )
            return bytes(connection.execute("select value from secrets where name = ?", (name,)).fetchone()[0])

    def adopt_orphans(self, now: float | None = None) -> int:
        """End the turns whose process died while it made them; how many."""
        moment = time.time() if now is None else now
        with self._connection() as connection:
            query = "select distinct owner from turns where owner is not null"
            owners = [row[0] for row in connection.execute(query)]
        adopted = 0
        for owner in owners:
            if not self._processes.is_gone(owner):
                continue
            with self._connection() as connection:
                # Later than now: the clock was set back since.
                connection.execute(
                    "update turns set orphaned_at = ? where owner = ? and (orphaned_at is null or orphaned_at > ?)",
                    (moment, owner, moment),
                )
                rows = connection.execute(
                    "select record from turns where owner = ? and orphaned_at <= ?", (owner, moment - _ORPHAN_GRACE_S)
                ).fetchall()
            for (record,) in rows:
                adopted += self.add(from_json(record))
            if rows:
                self._processes.forget(owner)
        return adopted

    def tidy(self) -> None:
        """Forget what was written long ago, and take room for worse times. Never raises."""
        with suppress(StorageFailed), self._connection() as connection:
            old = time.time() - _KEPT_S
            connection.execute("delete from turns where written_at < ? and not doubtful", (old,))
            day = datetime.fromtimestamp(old, UTC).date().isoformat()
            connection.execute("delete from spent where day < ?", (day,))
        self._processes.tidy()
        with suppress(OSError):
            if not self._reserve.exists() or self._reserve.stat().st_size < _RESERVE_BYTES:
                try:
                    self._reserve.write_bytes(b"\0" * _RESERVE_BYTES)
                    self._reopen(is_full=False)
                except OSError:
                    self._reserve.unlink(missing_ok=True)  # half a reserve would take the room of turns

    def shorten_log(self) -> None:
        """Bring SQLite's log into the table: text that was taken out of a turn is in no file then. Never raises."""
        with suppress(StorageFailed), self._connection() as connection:
            connection.execute("pragma wal_checkpoint(truncate)")

    def sync(self) -> None:
        """Have the disk keep what the operating system already has: a turn then survives a power cut too."""
        with suppress(OSError):
            file = os.open(f"{self._path}-wal", os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _with_reserve(self, statement: str, values: tuple[str, ...], ended: TurnRecord | None) -> bool:
        """Run a statement; on a full disk give the reserve away and run it again. Whether it changed a row."""

        def run() -> bool:
            with self._connection() as connection:
                changed = connection.execute(statement, values).rowcount == 1
                if ended is not None and changed and ended.total_tokens:
                    connection.execute(
                        "insert into spent values (?, ?, ?) on conflict do update set tokens = tokens + excluded.tokens",
                        (day_of(ended.at), ended.user, ended.total_tokens),
                    )
                return changed

        try:
            return run()
        except StorageFailed as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code not in _NO_ROOM:
                raise
            self._make_room()
            return run()

    def _make_room(self) -> None:
        """On a full disk: give the reserve away, and bring SQLite's log into the table, which is shorter."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        self.shorten_log()
        self._reopen(is_full=True)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises StorageFailed."""
        with self._guard:
            try:
                connection = self._opened()
                with connection:
                    yield connection
            except (sqlite3.Error, OSError) as error:
                self._close()
                raise self._failure(error) from error

    def _failure(self, error: Exception) -> StorageFailed:
        return StorageFailed(
            what="The outbox of turns cannot be used.",
            why=f"{self._path.name}: {error}.",
            next_step="Free some space in the data folder and check that it can be written.",
        )

    def _opened(self) -> sqlite3.Connection:
        # Kept open: opening and closing the last connection costs 20 ms. Looked at: somebody may have removed the file.
        try:
            inode: int | None = os.stat(self._path).st_ino
        except OSError:
            inode = None
        if self._open is None or inode is None or inode != self._inode:
            self._close()
            self._open = self._connect()
            self._inode = os.stat(self._path).st_ino
        return self._open

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            # A commit is the operating system's at once and outlives this process; `sync` brings it to the disk.
            connection.execute("pragma synchronous = normal")
            connection.execute("pragma secure_delete = on")  # text that was taken out must not stay in free pages
            if self._is_full:
                # Little room is left. Moving the log into the table this often would cost each turn milliseconds else.
                connection.execute("pragma wal_autocheckpoint = 16")
            columns = {row[1] for row in connection.execute("pragma table_info(turns)")}
            if columns:
                for name in _LATER_COLUMNS.keys() - columns:
                    with suppress(sqlite3.OperationalError):  # another process was faster
                        connection.execute(f"alter table turns add column {name} {_LATER_COLUMNS[name]}")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _reopen(self, *, is_full: bool) -> None:
        with self._guard:
            if is_full != self._is_full:
                self._is_full = is_full
                self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def to_json(turn: TurnRecord) -> str:
    """A turn as the outbox keeps it."""
    return json.dumps(asdict(turn))


def from_json(record: str) -> TurnRecord:
    """A turn from `to_json`; one that an earlier phi3kit kept has fewer fields."""
    values: dict[str, Any] = json.loads(record)
    text = values.pop("text", None)
    return TurnRecord(**values, text=_text(text) if text else None)


def _text(values: dict[str, Any]) -> TurnText:
    prompt = values["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple(Message(**message) for message in prompt)
    return TurnText(prompt, tuple(values["completions"]))


def day_of(at: float) -> str:
    """The day (YYYY-MM-DD, UTC) of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()
