"""In process: rows through an engine in this process, answered as a worker answers them over HTTP.

Spark's executors run it. Engine, checks and counts are the worker's own, and so are the answers.
Knows the worker's parts. Knows no Spark.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from phi3kit.batch.request import AT_ONCE, RowResult, failed
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Message, TurnRecord, WrapperName
from phi3kit.formats.openai_schema import ChatRequest, CompletionRequest, error_body
from phi3kit.usage.outbox import to_json
from phi3kit.worker.engine import Engine
from phi3kit.worker.loading import load_model
from phi3kit.worker.turns import Caller, turn_of

_LOOK_S = 0.02


class _MemoryRecorder:
    """Keeps turns in memory: an executor has no data folder, and the driver knows budgets and outbox."""

    log_text = False

    def __init__(self) -> None:
        self.turns: list[TurnRecord] = []

    def admit(self, turn: TurnRecord, answers: int = 1) -> None:
        """See Recorder."""

    def withdraw(self, turn: TurnRecord) -> None:
        """See Recorder."""

    def begin(self, turn: TurnRecord) -> None:
        """See Recorder."""

    def end(self, turn: TurnRecord) -> None:
        """See Recorder."""
        self.turns.append(turn)

    def prompt_key(self, prompt: Sequence[Message] | str) -> str | None:
        """See Recorder: there is no secret to make one of."""
        return None


class InProcess:
    """One loaded model that answers rows."""

    def __init__(self, folder: Path, wrapper: WrapperName, model_uri: str, threads: int, user: str, home: Path) -> None:
        """Load the model. threads: that compute one step. home: as in loading.copy_known. Raises ModelNotFound."""
        self._wrapper, self._model_uri, self._user = wrapper, model_uri, user
        load = partial(load_model, folder, wrapper, threads, None, home=home)
        self._engine = Engine(load, max_queue=AT_ONCE)
        self._engine.start()
        while self._engine.state == "loading":
            time.sleep(_LOOK_S)
        if self._engine.failure:
            raise self._engine.failure

    def close(self) -> None:
        """End the engine, and with it the model."""
        self._engine.close()

    def answer(
        self, rows: Sequence[tuple[int, Mapping[str, Any]]], batch_id: str
    ) -> list[tuple[RowResult, str | None]]:
        """A result a row, in their order, each with its turn's record as JSON; None for a row that was refused.

        rows: (row, request body) pairs, bodies as a client would send them.
        """

        async def all_of_them() -> list[tuple[RowResult, str | None]]:
            room = asyncio.Semaphore(AT_ONCE)

            async def one(row: int, body: Mapping[str, Any]) -> tuple[RowResult, str | None]:
                async with room:
                    return await self._one(row, body, batch_id)

            return await asyncio.gather(*(one(row, body) for row, body in rows))

        return asyncio.run(all_of_them())

    async def _one(self, row: int, body: Mapping[str, Any], batch_id: str) -> tuple[RowResult, str | None]:
        kept = _MemoryRecorder()
        caller = Caller.from_headers({"x-phi3kit-conversation-id": batch_id, "x-phi3kit-origin": "batch"}, self._user)
        try:
            kind = ChatRequest if "messages" in body else CompletionRequest
            turn = turn_of(kind.model_validate(body), caller, self._engine, self._wrapper, self._model_uri)
            async for _ in turn.parts(kept):
                pass
        except (Phi3KitError, ValidationError) as error:
            _, told = error_body(error)
            return failed(row, told["error"]["message"], final=True), None
        choice, record = turn.choices[0], to_json(kept.turns[0])
        if choice.done is None or choice.done.error:
            broke = (
                choice.done.error if choice.done and choice.done.error else RuntimeError("The answer was interrupted.")
            )
            return failed(row, broke, final=False), record
        tokens = (turn.prompt_tokens, choice.completion_tokens)
        reason, duration_s = choice.done.finish_reason, choice.done.duration_s
        return RowResult(row, choice.text, *tokens, reason, duration_s=duration_s), record
