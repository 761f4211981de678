"""Request counts: turns and tokens of each user within the last day, so that limits hold across processes.

Checking and noting are one transaction: simultaneous requests cannot all take the last free place.
Knows no MLflow and no HTTP.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from phi3kit.core.errors import LimitReached, seconds_to_wait
from phi3kit.core.limits import Limits
from phi3kit.core.sqlite_file import OpenFile

MINUTE_S, DAY_S = 60.0, 86_400.0
_LONGEST_TURN_S = 600.0  # a turn that has not ended by then was lost with its process
_SCHEMA = """
create table if not exists asked (
    turn_id text primary key,
    user text not null,
    at real not null,          -- seconds since the epoch
    answers integer not null,  -- being written; 0 once the turn has ended
    tokens integer not null default 0
);
create index if not exists asked_by on asked (user, at);
"""


@dataclass(frozen=True)
class UserCounts:
    """Turns and tokens of one user."""

    user: str
    minute_turns: int = 0
    minute_tokens: int = 0
    daily_turns: int = 0
    at_once: int = 0  # answers that are being written now
    minute_began_at: float | None = None  # the first turn of the last minute
    writing_since: float | None = None  # the oldest turn of those answers


class RequestCounts:
    """The turns of the last day, by user. Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = OpenFile(home / "asked.db", _SCHEMA, "The list of recent turns cannot be used.")
        self._clock = clock

    def begin(self, turn_id: str, user: str, answers: int, limits: Limits) -> None:
        """Count a turn that asks for so many answers at once. Raises LimitReached."""
        now = self._clock()
        with self._file.transaction(writes=True) as connection:
            # After the clock was set back, turns of the future would stay for ever.
            connection.execute("delete from asked where at < ? or at > ?", (now - DAY_S, now + MINUTE_S))
            _check(_counts(connection, user, now), answers, limits, now)
            connection.execute(
                "insert or ignore into asked (turn_id, user, at, answers) values (?, ?, ?, ?)",
                (turn_id, user, now, answers),
            )

    def end(self, turn_id: str, tokens: int) -> None:
        """A counted turn has ended; another one changes nothing."""
        with self._file.transaction() as connection:
            connection.execute("update asked set answers = 0, tokens = ? where turn_id = ?", (tokens, turn_id))

    def withdraw(self, turn_id: str) -> None:
        """A counted turn could not begin: it does not count."""
        with self._file.transaction() as connection:
            connection.execute("delete from asked where turn_id = ?", (turn_id,))

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self._file.close()

    def all(self) -> list[UserCounts]:
        """Counts of every user of the last day, most turns first."""
        now = self._clock()
        with self._file.transaction() as connection:
            query = "select user from asked where at > ? group by user order by count(*) desc, user"
            users = [row[0] for row in connection.execute(query, (now - DAY_S,))]
            return [_counts(connection, user, now) for user in users]

    def of(self, user: str) -> UserCounts:
        """Counts of one user."""
        with self._file.transaction() as connection:
            return _counts(connection, user, self._clock())


def _counts(connection: Connection, user: str, now: float) -> UserCounts:
    day, minute = now - DAY_S, now - MINUTE_S
    row = connection.execute(
        """select count(*) filter (where at > :minute), cast(total(tokens) filter (where at > :minute) as integer), count(*),
        coalesce(sum(answers) filter (where at > :lost), 0), min(at) filter (where at > :minute),
        min(at) filter (where at > :lost and answers > 0)
        from asked where user = :user and at > :day""",
        {"user": user, "minute": minute, "day": day, "lost": now - _LONGEST_TURN_S},
    ).fetchone()
    return UserCounts(user, *row)


def _check(counts: UserCounts, answers: int, limits: Limits, now: float) -> None:
    until_s = (
        int(MINUTE_S - (now - counts.minute_began_at)) + 1 if counts.minute_began_at is not None else int(MINUTE_S)
    )
    if (most := limits.user_turns_at_once) is not None and counts.at_once + answers > most:
        raise LimitReached(
            "Too many answers at once.",
            f"You have {counts.at_once} answers in progress and asked for {answers} more; the limit is {most} at once.",
            "Wait until one has finished, or ask for fewer.",
            # The oldest one's end is not known: it may take as long again.
            retry_after_s=seconds_to_wait(now - (counts.writing_since or now)),
        )
    if (most := limits.user_minute_turns) is not None and counts.minute_turns >= most:
        raise _slower(f"{counts.minute_turns} turns in the last minute; the limit is {most}", until_s)
    if (most := limits.user_minute_tokens) is not None and counts.minute_tokens >= most:
        raise _slower(f"{counts.minute_tokens:,} tokens in the last minute; the limit is {most:,}", until_s)
    if (most := limits.user_daily_turns) is not None and counts.daily_turns >= most:
        raise LimitReached(
            "Your turns for today are used up.",
            f"You asked {counts.daily_turns:,} times within 24 hours; the limit is {most:,}.",
            "Try again in a few hours.",
            retry_after_s=3600,
        )


def _slower(what: str, until_s: int) -> LimitReached:
    return LimitReached("Too many requests.", f"You had {what}.", f"Try again in {until_s} s.", retry_after_s=until_s)
