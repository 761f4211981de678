"""/invocations: the logged model as plain MLflow serves it, its signature enforced, in a process of its own.

A process, because onnxruntime-genai holds Python's lock while it computes: turns and /health would wait for it. It starts
with the first call, as MLflow and a second copy of the model cost memory that a chat does not need.
Knows the process and users' turns at it. Knows neither MLflow nor HTTP.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phi3kit.core.child_environment import worker_environment
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import Settings
from phi3kit.worker.pools import TakingTurns

_LONGEST_CALL_S = 600.0
_LONGEST_ANSWER_BYTES = 2**26


@dataclass(frozen=True)
class Scored:
    """A response, as `mlflow models serve` gives it."""

    status: int
    media_type: str
    content: str


class Scoring:
    """Answers one call at a time; users take turns."""

    def __init__(self, folder: Path, wrapper: WrapperName, settings: Settings) -> None:
        self._folder, self._wrapper, self._settings = folder, wrapper, settings
        self._turns, self._one_at_a_time = TakingTurns(), asyncio.Lock()
        self._process: Process | None = None

    async def answer(self, user: str, data: str, content_type: str) -> Scored:
        """Raises Busy, or WorkerFailed when the process ends or takes too long."""
        call = json.dumps({"data": data, "content_type": content_type}).encode() + b"\n"
        async with self._turns.turn(user), self._one_at_a_time:
            try:
                async with asyncio.timeout(_LONGEST_CALL_S):
                    return Scored(**json.loads(await self._answered(call)))
            except asyncio.CancelledError:
                await self.close()  # its answer would be taken for that of the next call
                raise
            except (OSError, ValueError, TimeoutError) as error:
                await self.close()
                raise WorkerFailed(
                    "The call was not answered.",
                    "The scoring process ended, or the call took too long or gave too much.",
                    "Send fewer rows, or look into the worker's log.",
                ) from error

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()  # closes its pipes

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
