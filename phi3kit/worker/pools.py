"""Pools: threads for work that would hold up the event loop, and how much of it one user may have.

Tokenizing has a pool here. Bookkeeping in SQLite has the event loop's own (asyncio.to_thread), and nothing else uses that.
Scoring has a process (see invocations). Knows users. Knows no work.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from phi3kit.core.errors import Busy, LimitReached, panicked, seconds_to_wait

Result = TypeVar("Result")

_MOST_WAITING = 64  # calls of one user
_MINUTE_S = 60
_REST = 4  # times as long as a call computed
_AROUND_S = 0.003  # of the event loop's time that a small request takes
_READ_BYTES_A_S = 200e6  # of a body, by the event loop
_LONGEST_REST_S = 2.0
_LOOK_S = 0.1  # so often a user who rests looks whether others are still there
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


class Present:
    """Which users are there: who called lately, and whose answers are under way."""

    def __init__(self, answering: Callable[[], set[str]] = set) -> None:
        """answering: whose answers are being written or wait."""
        self._answering = answering
        self._called: dict[str, float] = {}  # when (monotonic) a user called last

    def note(self, user: str) -> None:
        """A user calls."""
        now = time.monotonic()
        self._called = {other: at for other, at in self._called.items() if at > now - _BESIDE_S} | {user: now}

    def others(self, user: str) -> bool:
        """Whether somebody else is there."""
        soon = time.monotonic() - _BESIDE_S
        called = {other for other, at in self._called.items() if at > soon}
        return bool((called | self._answering()) - {user})


class ThreadPool:
    """Threads for one kind of work; users take turns. To be used on the event loop.

    Beside others a user's next call waits four times as long as the last one took of Python's lock, in a thread and around it on
    the event loop. So one user has a fifth of the lock at most. A user alone waits for nothing.
    """

    def __init__(self, name: str, threads: int, present: Present, most_waiting: int | None = _MOST_WAITING) -> None:
        """present: shared by pools whose users are beside each other. most_waiting: calls of one user; None: any number."""
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._present = present
        self._turns = TakingTurns(most_waiting)
        self._rests: dict[str, float] = {}  # until when (monotonic) a user's next call waits beside others

    async def run(
        self, user: str, work: Callable[[], Result], around_s: float = 0.0, *, goes_on: bool = False
    ) -> Result:
        """The result of `work`, done in a thread. Raises Busy, or what it raises.

        around_s: what the event loop computes before and behind it. goes_on: it belongs to a request that has waited already;
        the user's next one waits for it.
        """
        loop = asyncio.get_running_loop()

        def timed() -> Result:
            began_s = time.thread_time()
            try:
                return work()
            except Exception:
                raise
            except BaseException as panic:
                raise panicked(panic) from panic
            finally:
                spent_s = time.thread_time() - began_s + around_s
                with suppress(RuntimeError):  # the loop is closed: the worker ends
                    # Also when nobody waits for the result any more.
                    loop.call_soon_threadsafe(self.rest, user, _REST * spent_s)

        self._present.note(user)
        async with self._turns.turn(user):
            if not goes_on:
                await self._rested(user)
            return await loop.run_in_executor(self._threads, timed)

    def rest(self, user: str, seconds: float) -> None:
        """Let a user's next call wait so much longer, where others are there."""
        now = time.monotonic()
        self._rests = {other: until for other, until in self._rests.items() if until > now}
        if self._present.others(user):
            self._rests[user] = min(max(self._rests.get(user, 0.0), now) + seconds, now + _LONGEST_REST_S)

    async def _rested(self, user: str) -> None:
        # Looked at: no event tells that the others have gone.
        while (left_s := self._rests.get(user, 0.0) - time.monotonic()) > 0 and self._present.others(user):  # noqa: ASYNC110
            await asyncio.sleep(min(left_s, _LOOK_S))


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
                "Too many requests.",
                f"You had {self._tokens[user]:,} tokens tokenized or detokenized in this minute; the limit is {self._most:,}.",
                f"Try again in {_MINUTE_S - second} s.",
                retry_after_s=_MINUTE_S - second,
            )

    def add(self, user: str, tokens: int) -> None:
        """Count tokens."""
        self._tokens[user] += tokens
