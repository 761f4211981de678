"""Output queue: carries what the engine's thread writes to the event loop, many outputs at a time.

Knows threads and pauses. Knows no requests.
"""

import asyncio
import contextlib
import time
from collections import deque

from phi3kit.worker.engine import Output

_SEND_EVERY_S = 0.005  # a small model writes thousands of tokens a second; what comes meanwhile is sent together


class OutputQueue:
    """From the engine's thread to the event loop; each output with the index of its choice."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outputs: deque[tuple[int, Output]] = deque()
        self._filled = asyncio.Event()
        self._told = False  # the loop will look without being told again
        self._sent_at = 0.0

    def put(self, index: int, output: Output) -> None:
        """On the engine's thread."""
        self._outputs.append((index, output))
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker ends, nobody reads
                self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> list[tuple[int, Output]]:
        """On the event loop: the outputs since the last time; waits for one."""
        await self._filled.wait()
        if (wait_s := self._sent_at + _SEND_EVERY_S - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        self._filled.clear()
        self._told = False  # before the first is taken: what comes from here on tells the loop again
        self._sent_at = time.monotonic()
        return [self._outputs.popleft() for _ in range(len(self._outputs))]
