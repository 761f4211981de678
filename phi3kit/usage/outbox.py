"""Outbox: turns that were made on this machine and wait to be written to MLflow.

One SQLite file under the data folder, shared by every process of phi3kit. A turn's id is its key: it is added once,
whoever adds it. Knows no MLflow. The states of a turn, and the methods that move it:

```mermaid
stateDiagram-v2
    [*] --> begun: begin
    [*] --> waiting: add
    begun --> waiting: add
    begun --> [*]: withdraw
    begun --> orphaned: adopt_orphans
    orphaned --> waiting: add, adopt_orphans
    orphaned --> refused: adopt_orphans (cannot be read)
    waiting --> claimed: claim_next
    waiting --> refused: claim_next (cannot be read)
    claimed --> claimed: claim_next (its writer died)
    claimed --> written: mark_written
    claimed --> doubtful: mark_written
    claimed --> refused: refuse
    refused --> claimed: try_refused_again
    doubtful --> written: settle
    written --> [*]: tidy
```

| state | the turn |
| --- | --- |
| begun | is being made by a living process, `owner` |
| orphaned | was being made by a process that has ended; its client may still add it |
| waiting | has ended, and no writer has begun it |
| claimed | was begun by a writer: its run may exist |
| refused | is not taken by the store as it is; it counts as waiting, and is tried again every ten minutes and when an app starts |
| doubtful | has a run, and may get a second one from a request that broke off |
| written | has one run, which has its text; here the text is gone |
"""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from phi3kit.core.data_folder import DISK_FULL
from phi3kit.core.errors import StorageFailed, first_line
from phi3kit.core.records import Message, TurnRecord, TurnText
from phi3kit.core.sqlite_file import OpenFile, sqlite_errors
from phi3kit.usage.live_processes import LiveProcesses

T = TypeVar("T")

_SCHEMA = """
create table if not exists turns (
    number integer primary key autoincrement,
    turn_id text not null unique,
    record text not null,
    run_id text,
    claimed integer not null default 0
);
create table if not exists spent (day text, user text, tokens integer not null, primary key (day, user));
create table if not exists refusals (day text, user text, number integer not null, primary key (day, user));
create table if not exists secrets (name text primary key, value blob not null);
"""
_MOST_TOKENS = 10**15  # of a user and a day
_SPEND = f"""insert into spent values (?, ?, min(?, {_MOST_TOKENS}))
on conflict do update set tokens = min(tokens + excluded.tokens, {_MOST_TOKENS})"""  # noqa: S608
# Columns that the first phi3kit did not have. `state` alone says what the others mean together.
_ADDED_COLUMNS = {
    "owner": "text",
    "orphaned_at": "real",  # when the owner was first seen to be gone
    "written_at": "real",
    "doubtful": "integer not null default 0",
    "refused": "text",  # why
    "state": """text as (case
        when owner is not null and orphaned_at is null then 'begun'
        when owner is not null then 'orphaned'
        when run_id is not null and doubtful then 'doubtful'
        when run_id is not null then 'written'
        when refused is not null then 'refused'
        when claimed then 'claimed'
        else 'waiting' end)""",
}
_INDEXES = """
drop index if exists waiting;  -- an earlier phi3kit's
create index if not exists by_state on turns (state, number);
create index if not exists written on turns (written_at);
"""

_RESERVE_BYTES = 2**20  # room for hundreds of turns on a disk that is full
_ORPHAN_GRACE_S = 5.0  # a client that saw its worker die knows better what the turn cost, and says so at once
_KEPT_S = 30 * 86_400  # how long a written turn's id is remembered
_UNUSABLE = "The outbox of turns cannot be used."
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # a record that `from_json` cannot read


class Outbox:
    """The turns of one data folder. Safe from several threads and processes.

    Each method raises StorageFailed, but for `tidy`, `shorten_log` and `sync`, which do what can be done.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "outbox.db"
        self._file = OpenFile(self._path, _SCHEMA, _UNUSABLE, upgrade=self._upgrade)
        self._reserve = home / "outbox.reserve"
        self._processes = LiveProcesses(home / "owners")
        self._is_full = False  # the disk was, when it was last written to

    def begin(self, turn: TurnRecord) -> None:
        """Note that this process is making a turn; `add` ends it."""
        with sqlite_errors(self._path, _UNUSABLE):
            owner = self._processes.own_name()
        values = (turn.turn_id, to_json(turn), owner)
        self._with_reserve(
            lambda connection: connection.execute(
                "insert or ignore into turns (turn_id, record, owner) values (?, ?, ?)", values
            )
        )

    def add(self, turn: TurnRecord) -> bool:
        """Keep a turn that has ended; False when it was added before."""
        record = to_json(turn)

        def insert(connection: sqlite3.Connection) -> bool:
            query = (
                "insert into turns (turn_id, record) values (?, ?) on conflict (turn_id) do update "
                "set record = excluded.record, owner = null, orphaned_at = null where state in ('begun', 'orphaned')"
            )
            is_new = connection.execute(query, (turn.turn_id, record)).rowcount == 1
            if is_new and turn.total_tokens:
                connection.execute(_SPEND, (day_of(turn.at), turn.user, turn.total_tokens))
            return is_new

        return self._with_reserve(insert)

    def spend(self, day: str, user: str, tokens: int) -> None:
        """Count tokens of a call that is no turn against the budgets of a day (YYYY-MM-DD, UTC)."""
        self._with_reserve(lambda connection: connection.execute(_SPEND, (day, user, tokens)))

    def count_refusal(self, day: str, user: str) -> None:
        """Count a request that a limit or a budget refused: a number a user and day, however many they are."""
        query = "insert into refusals values (?, ?, 1) on conflict do update set number = number + 1"
        self._run(query, day, user)

    def refusals(self, day: str) -> dict[str, int]:
        """How many requests of each user were refused on a day (YYYY-MM-DD, UTC), most first."""
        return dict(self._run("select user, number from refusals where day = ? order by number desc, user", day))

    def withdraw(self, turn_id: str) -> None:
        """Forget a turn that was begun and refused: there is nothing to log."""
        self._run("delete from turns where turn_id = ? and state in ('begun', 'orphaned')", turn_id)

    def adopt_orphans(self, now: float | None = None) -> int:
        """End the turns whose process died while it made them; how many."""
        moment = time.time() if now is None else now
        adopted = 0
        for (owner,) in self._run("select distinct owner from turns where state in ('begun', 'orphaned')"):
            if not self._processes.is_gone(owner):
                continue
            with self._file.transaction() as connection:
                # Later than now: the clock was set back since.
                connection.execute(
                    "update turns set orphaned_at = ? where owner = ? and (orphaned_at is null or orphaned_at > ?)",
                    (moment, owner, moment),
                )
                rows = connection.execute(
                    "select turn_id, record from turns where owner = ? and orphaned_at <= ?",
                    (owner, moment - _ORPHAN_GRACE_S),
                ).fetchall()
            for turn_id, record in rows:
                try:
                    adopted += self.add(from_json(record))
                except _UNREADABLE as error:
                    self.refuse(turn_id, _unreadable(error))
            if rows:
                self._processes.forget(owner)
        return adopted

    def claim_next(self) -> tuple[TurnRecord, bool] | None:
        """The oldest turn to write, and whether an earlier writer claimed it and may have died before its mark."""
        while True:
            with self._file.transaction() as connection:
                row = connection.execute(
                    "select turn_id, record, state = 'claimed' from turns "
                    "where number = (select min(number) from turns where state in ('waiting', 'claimed'))"
                ).fetchone()
                if row is None:
                    return None
                connection.execute("update turns set claimed = 1 where turn_id = ?", (row[0],))
            try:
                return from_json(row[1]), bool(row[2])
            except _UNREADABLE as error:
                self.refuse(row[0], _unreadable(error))

    def mark_written(self, turn_id: str, run_id: str, *, doubtful: bool = False) -> None:
        """A turn is in MLflow, and its text is there."""
        with self._file.transaction() as connection:
            row = connection.execute("select record from turns where turn_id = ?", (turn_id,)).fetchone()
            record = to_json(replace(from_json(row[0]), text=None)) if row else None
            connection.execute(
                "update turns set run_id = ?, written_at = ?, doubtful = ?, record = ? where turn_id = ?",
                (run_id, time.time(), int(doubtful), record, turn_id),
            )

    def refuse(self, turn_id: str, why: str) -> None:
        """Set a turn aside that the store does not take as it is."""
        self._run("update turns set refused = ?, owner = null, orphaned_at = null where turn_id = ?", why, turn_id)

    def try_refused_again(self) -> None:
        """Let the turns that were set aside wait like any other."""
        self._run("update turns set refused = null where state = 'refused'")

    def settle(self, turn_id: str) -> None:
        """A doubtful turn was looked at: it has one run."""
        self._run("update turns set doubtful = 0 where turn_id = ?", turn_id)

    def tidy(self) -> None:
        """Forget what was written long ago, and take room for worse times."""
        old = time.time() - _KEPT_S
        with suppress(StorageFailed):
            self._run("delete from turns where state = 'written' and written_at < ?", old)
            self._run("delete from spent where day < ?", day_of(old))
            self._run("delete from refusals where day < ?", day_of(old))
        self._processes.tidy()
        with suppress(OSError):
            if not self._reserve.exists() or self._reserve.stat().st_size < _RESERVE_BYTES:
                try:
                    self._reserve.write_bytes(b"\0" * _RESERVE_BYTES)
                    self._reopen(is_full=False)
                except OSError:
                    self._reserve.unlink(missing_ok=True)  # half a reserve would take the room of turns

    def waiting(self) -> int:
        """How many turns have ended and are not in MLflow yet."""
        (row,) = self._run("select count(*) from turns where state in ('waiting', 'claimed', 'refused')")
        return int(row[0])

    def refused(self) -> tuple[int, str | None]:
        """How many turns were set aside, and why one of them was."""
        (row,) = self._run("select count(*), min(refused) from turns where state = 'refused'")
        return int(row[0]), row[1]

    def doubtful(self, older_than_s: float) -> list[tuple[str, str]]:
        """Ids of doubtful turns, and their runs, that were written so long ago that no server is at them any more."""
        moment = time.time()
        # Written in the future: the clock was set back since.
        query = "select turn_id, run_id from turns where state = 'doubtful' and (written_at < ? or written_at > ?)"
        return self._run(query, moment - older_than_s, moment)

    def written_since(self, moment: float) -> list[float]:
        """When the turns were made that were written since then (seconds since the epoch)."""
        query = "select json_extract(record, '$.at') from turns where written_at >= ? and run_id is not null"
        return [float(at) for (at,) in self._run(query, moment)]

    def find(self, turn_id: str) -> TurnRecord | None:
        """A turn that has ended; a written one without its text."""
        query = "select record from turns where turn_id = ? and state not in ('begun', 'orphaned')"
        return next((from_json(record) for (record,) in self._run(query, turn_id)), None)

    def spent_tokens(self, day: str, user: str | None = None) -> int:
        """Tokens of the turns that were made here on a day (YYYY-MM-DD, UTC), by everybody or by one user."""
        # total() counts in floats: sum() breaks beyond 64 bits.
        query = "select cast(total(tokens) as integer) from spent where day = ? and (? is null or user = ?)"
        return int(self._run(query, day, user, user)[0][0])

    def spenders(self, day: str) -> dict[str, int]:
        """Tokens of each user on a day (YYYY-MM-DD, UTC), most first."""
        return dict(self._run("select user, tokens from spent where day = ? order by tokens desc, user", day))

    def secret(self, name: str) -> bytes:
        """32 random bytes that stay the same for this data folder."""
        self._run("insert or ignore into secrets (name, value) values (?, ?)", name, secrets.token_bytes(32))
        return bytes(self._run("select value from secrets where name = ?", name)[0][0])

    def shorten_log(self) -> None:
        """Bring SQLite's log into the table: text that was taken out of a turn is in no file then."""
        with suppress(StorageFailed):
            self._run("pragma wal_checkpoint(truncate)")

    def sync(self) -> None:
        """Have the disk keep what the operating system already has: a turn then survives a power cut too."""
        with suppress(OSError):
            file = os.open(f"{self._path}-wal", os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _run(self, statement: str, *values: object) -> list[Any]:
        """One statement in a transaction of its own; its rows."""
        with self._file.transaction() as connection:
            return connection.execute(statement, values).fetchall()

    def _with_reserve(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Write; on a full disk give the reserve away and write again."""
        try:
            with self._file.transaction() as connection:
                return write(connection)
        except StorageFailed as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code not in _NO_ROOM and getattr(error.__cause__, "errno", None) not in DISK_FULL:
                raise
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)
        self.shorten_log()
        self._reopen(is_full=True)
        with self._file.transaction() as connection:
            return write(connection)

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        if self._is_full:
            # Little room is left. Moving the log into the table this often would cost each turn milliseconds else.
            connection.execute("pragma wal_autocheckpoint = 16")
        columns = {row[1] for row in connection.execute("pragma table_xinfo(turns)")}
        for name in [name for name in _ADDED_COLUMNS if name not in columns]:
            with suppress(sqlite3.OperationalError):  # another process was faster
                connection.execute(f"alter table turns add column {name} {_ADDED_COLUMNS[name]}")
        connection.executescript(_INDEXES)

    def _reopen(self, *, is_full: bool) -> None:
        if is_full != self._is_full:
            self._is_full = is_full
            self._file.close()


def to_json(turn: TurnRecord) -> str:
    """A turn as the outbox keeps it."""
    return json.dumps(asdict(turn))


def from_json(record: str) -> TurnRecord:
    """A turn from `to_json`; one that an earlier phi3kit kept has fewer fields."""
    values: dict[str, Any] = json.loads(record)
    text = values.pop("text", None)
    return TurnRecord(**values, text=_text(text) if text else None)


def _unreadable(error: Exception) -> str:
    return f"Its record is damaged, or from a later phi3kit: {first_line(error)}"


def _text(values: dict[str, Any]) -> TurnText:
    prompt = values["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple(Message(**message) for message in prompt)
    return TurnText(prompt, tuple(values["completions"]))


def day_of(at: float) -> str:
    """The day (YYYY-MM-DD, UTC) of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()
