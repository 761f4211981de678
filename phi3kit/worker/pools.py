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
_REST = 2  # times as long as a call computed


class TakingTurns:
    """One call of each user at a time: many calls of one user are slow for that user alone."""

    def __init__(self, most_waiting: int = _MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._locks: dict[str, asyncio.Lock] = {}
        self._calls: Counter[str] = Counter()
        self._last_s = 0.0  # how long the last call took

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for the user's earlier calls. Raises Busy when too many wait already."""
        if self._calls[user] > self._most_waiting:
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

    After a call its user's next one waits twice as long as the call computed. So nobody has more than a third of Python's
    lock, which much of the work holds, and other users' turns are not twice as slow.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._turns = TakingTurns()
        self._rests: dict[str, float] = {}  # until when (monotonic) a user's next call waits

    async def run(self, user: str, work: Callable[[], Result]) -> Result:
        """The result of `work`, done in a thread. Raises Busy, or what it raises."""
        async with self._turns.turn(user):
            await asyncio.sleep(self._rests.get(user, 0.0) - time.monotonic())
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, user, work)

    def _timed(self, user: str, work: Callable[[], Result]) -> Result:
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
            self._rests[user] = now + _REST * (time.thread_time() - began_s)


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
