"""Inbox: what the engine's thread wrote, on its way to the event loop, many steps at a time.

Knows threads and pauses. Knows no requests.
"""

import asyncio
import contextlib
import time
from collections import deque

from phi3kit.worker.engine import Done, Piece

_SEND_EVERY_S = 0.005  # a small model writes thousands of tokens a second; what comes meanwhile is sent together

Step = tuple[int, Piece | Done]  # choice index, what happened


class Inbox:
    """From the engine's thread to the event loop, many steps at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._steps: deque[Step] = deque()
        self._filled = asyncio.Event()
        self._told = False  # the loop will look without being told again
        self._sent_at = 0.0

    def put(self, index: int, step: Piece | Done) -> None:
        """On the engine's thread."""
        self._steps.append((index, step))
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends, nobody reads
                self._loop.call_soon_threadsafe(self._filled.set)

    async def steps(self) -> list[Step]:
        """On the event loop: the steps since the last time; waits for one."""
        await self._filled.wait()
        if (wait_s := self._sent_at + _SEND_EVERY_S - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        self._filled.clear()
        self._told = False  # before the first is taken: what comes from here on tells the loop again
        self._sent_at = time.monotonic()
        return [self._steps.popleft() for _ in range(len(self._steps))]
