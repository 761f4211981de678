"""Pools: threads for work that would hold up the event loop, and how much of it one user may have.

Tokenizing has a pool here. Bookkeeping in SQLite has the event loop's own (asyncio.to_thread), and nothing else uses that.
Scoring has a process (see invocations). Knows users. Knows no work.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from phi3kit.core.errors import Busy, LimitReached, panicked, seconds_to_wait

Result = TypeVar("Result")

_MOST_WAITING = 64  # calls of one user
_MINUTE_S = 60
_REST = 4  # times as long as a call computed
_AROUND_S = 0.003  # of the event loop's time that a small request takes
_READ_BYTES_A_S = 200e6  # of a body, by the event loop
_BESIDE_S = 10.0  # for so long a user who called is there


def around_s(body_bytes: int) -> float:
    """What the event loop computes for a request with such a body."""
    return _AROUND_S + body_bytes / _READ_BYTES_A_S


class TakingTurns:
    """One call of each user at a time: many calls of one user are slow for that user alone."""

    def __init__(self, most_waiting: int | None = _MOST_WAITING) -> None:
        """most_waiting: of one user; None: as many as there are."""
        self._most_waiting = most_waiting
        self._locks: dict[str, asyncio.Lock] = {}
        self._calls: Counter[str] = Counter()
        self._last_s = 0.0  # how long the last call took

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for the user's earlier calls. Raises Busy when too many wait already."""
        if self._most_waiting is not None and self._calls[user] > self._most_waiting:
            raise Busy(waiting=self._most_waiting, retry_after_s=seconds_to_wait(self._last_s))
        self._calls[user] += 1
        try:
            async with self._locks.setdefault(user, asyncio.Lock()):
                began_s = time.monotonic()
                yield
                self._last_s = time.monotonic() - began_s
        finally:
            self._calls[user] -= 1
            if not self._calls[user]:
                del self._calls[user], self._locks[user]


class ThreadPool:
    """Threads for one kind of work; users take turns.

    Beside others a user's next call waits four times as long as the last one took of Python's lock, in a thread and around it on
    the event loop. So one user has a fifth of the lock at most. A user alone waits for nothing.
    """

    def __init__(self, name: str, threads: int, most_waiting: int | None = _MOST_WAITING) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._turns = TakingTurns(most_waiting)
        self._rests: dict[str, float] = {}  # until when (monotonic) a user's next call waits beside others
        self._called: dict[str, float] = {}  # when (monotonic) a user called last

    async def run(
        self, user: str, work: Callable[[], Result], around_s: float = 0.0, *, goes_on: bool = False
    ) -> Result:
        """The result of `work`, done in a thread. Raises Busy, or what it raises.

        around_s: what the event loop computes before and behind it. goes_on: it belongs to a request that has waited already;
        the user's next one waits for it.
        """
        now = time.monotonic()
        self._called = {other: at for other, at in self._called.items() if at > now - _BESIDE_S} | {user: now}
        async with self._turns.turn(user):
            if len(self._called) > 1 and not goes_on:
                await asyncio.sleep(self._rests.get(user, 0.0) - time.monotonic())
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, user, work, around_s)

    def rest(self, user: str, seconds: float) -> None:
        """Let a user's next call wait so long, beside others."""
        self._rests[user] = max(self._rests.get(user, 0.0), time.monotonic() + seconds)

    def _timed(self, user: str, work: Callable[[], Result], around_s: float) -> Result:
        began_s = time.thread_time()
        try:
            return work()
        except Exception:
            raise
        except BaseException as panic:
            raise panicked(panic) from panic
        finally:
            now = time.monotonic()
            self._rests = {other: until for other, until in self._rests.items() if until > now}
            rests_s = _REST * (time.thread_time() - began_s + around_s)
            self._rests[user] = max(self._rests.get(user, 0.0), now) + rests_s


class TokenMeter:
    """Tokens of work that is no turn, by user, within the present minute."""

    def __init__(self, most: int | None) -> None:
        """most: tokens of one user in a minute; None: no bound."""
        self._most = most
        self._minute = 0
        self._tokens: Counter[str] = Counter()

    def check(self, user: str) -> None:
        """Raises LimitReached when the user's minute is used up."""
        minute, second = divmod(int(time.time()), _MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            self._tokens.clear()
        if self._most is not None and self._tokens[user] >= self._most:
            raise LimitReached(
                "That is too fast.",
                f"You had {self._tokens[user]:,} tokens cut or joined in this minute, and {self._most:,} are allowed.",
                f"Try again in {_MINUTE_S - second} s.",
                retry_after_s=_MINUTE_S - second,
            )

    def add(self, user: str, tokens: int) -> None:
        """Count tokens."""
        self._tokens[user] += tokens
