"""/invocations: the logged model as plain MLflow serves it, its signature enforced, in a process of its own.

A process, because onnxruntime-genai holds Python's lock while it computes: turns and /health would wait for it. It starts
with the first call, as MLflow and a second copy of the model cost memory that a chat does not need.
Knows the process and users' turns at it. Knows neither MLflow nor HTTP.
"""

import asyncio
import json
import math
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from phi3kit.core.child_environment import worker_environment
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import Settings
from phi3kit.worker.pools import TakingTurns

_LONGEST_CALL_S = 600.0
_LONGEST_BESIDE_OTHERS_S = 60.0  # from when a call of another user waits
_TOKENS_A_SECOND = 50  # of computing that gave no answer to count
_LONGEST_ANSWER_BYTES = 2**26


@dataclass(frozen=True)
class Scored:
    """A response, as `mlflow models serve` gives it."""

    status: int
    media_type: str
    content: str


@dataclass(eq=False)
class Call:
    """A body to answer, whose it is, and how long that took."""

    user: str
    data: str
    content_type: str
    _began: float | None = field(default=None, init=False)

    def begin(self) -> None:
        """It has the process now."""
        self._began = time.monotonic()

    @property
    def computed_tokens(self) -> int:
        """Tokens that stand for the time that it has had the process."""
        return 0 if self._began is None else math.ceil((time.monotonic() - self._began) * _TOKENS_A_SECOND)


class Scoring:
    """Answers one call at a time; users take turns, and a call has little time left once another user's waits."""

    def __init__(self, folder: Path, wrapper: WrapperName, settings: Settings) -> None:
        self._folder, self._wrapper, self._settings = folder, wrapper, settings
        self._turns, self._one_at_a_time = TakingTurns(), asyncio.Lock()
        self._process: Process | None = None
        self._waiting: list[Call] = []
        self._running: tuple[Call, asyncio.Timeout] | None = None

    async def answer(self, call: Call) -> Scored:
        """Raises Busy, or WorkerFailed when the process ends or takes too long."""
        line = json.dumps({"data": call.data, "content_type": call.content_type}).encode() + b"\n"
        async with self._turns.turn(call.user), self._place(call):
            try:
                async with asyncio.timeout(_LONGEST_CALL_S) as limit:
                    self._running = (call, limit)
                    self._hurry()
                    return Scored(**json.loads(await self._answered(line)))
            except asyncio.CancelledError:
                await self.close()  # its answer would be taken for that of the next call
                raise
            except (OSError, ValueError, TimeoutError) as error:
                await self.close()
                raise WorkerFailed(
                    "The call was not answered.",
                    "The scoring process ended, the call took too long or kept others waiting, or its output was too large.",
                    "Send fewer rows, or check the worker's log.",
                ) from error
            finally:
                self._running = None

    @asynccontextmanager
    async def _place(self, call: Call) -> AsyncIterator[None]:
        """Wait for the process."""
        self._waiting.append(call)
        self._hurry()
        try:
            await self._one_at_a_time.acquire()
        finally:
            self._waiting.remove(call)
        try:
            call.begin()
            yield
        finally:
            self._one_at_a_time.release()

    def _hurry(self) -> None:
        """Shorten the time of the call that is answered where another user waits."""
        if self._running is None:
            return
        call, limit = self._running
        end = asyncio.get_running_loop().time() + _LONGEST_BESIDE_OTHERS_S
        if any(each.user != call.user for each in self._waiting) and end < (limit.when() or end):
            limit.reschedule(end)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()  # not communicate(): a call may be reading its answer

    async def _answered(self, call: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None:
            command = [sys.executable, "-m", "phi3kit.worker.scoring", str(self._folder), self._wrapper]
            self._process = await asyncio.create_subprocess_exec(
                *command, env=worker_environment(self._settings), stdin=PIPE, stdout=PIPE, limit=_LONGEST_ANSWER_BYTES
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(call)
        await self._process.stdin.drain()
        return await self._process.stdout.readline()  # nothing, which is no JSON, when the process has ended
