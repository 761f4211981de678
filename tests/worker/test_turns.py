"""Turns whose reader goes away while what was written is being put together: recorded whole, and the engine told at once."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from phi3kit.core.limits import Limits
from phi3kit.formats.openai_schema import CompletionRequest
from phi3kit.tracking.logged_models import resolve
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder
from phi3kit.worker.engine import Engine
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.loading import load_runtime
from phi3kit.worker.turns import Caller, Turn, turn_of
from tests.conftest import Built
from tests.support.waiting import wait_for

R = TypeVar("R")


@pytest.fixture
def engine(built: Built) -> Iterator[Engine]:
    runtime = load_runtime(resolve(built.uri("onnx"), built.settings).folder, "onnx", threads=1)
    engine = Engine(lambda: (runtime, KvCache(runtime, 2**28)), 8)
    engine.start()
    wait_for("a loaded model", lambda: engine.state == "ready")
    yield engine
    engine.close()


def a_turn(engine: Engine, max_tokens: int) -> Turn:
    request = CompletionRequest.model_validate(
        {"prompt": "Hi", "max_tokens": max_tokens, "logprobs": 5, "temperature": 0, "ignore_eos": True}
    )
    return turn_of(request, Caller("t1", "c1", "ada", "api"), engine, "onnx", "models:/m-1")


async def cancelled_again_and_again(task: "asyncio.Task[None]") -> None:
    """As anyio cancels: anew in each round of the loop until the task ends."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


def left(engine: Engine, outbox: Outbox, max_tokens: int, *, written_whole: bool) -> None:
    """A turn whose reader goes away while the first outputs are being put together, and until they may be.

    written_whole: the engine has written everything by then. Returns once the engine is idle and the work was done.
    """

    recorder = OutboxRecorder(outbox, Limits(), log_text=True)

    async def leave() -> None:
        turn, taking, may_go_on = a_turn(engine, max_tokens), asyncio.Event(), asyncio.Event()

        async def rests(work: Callable[[], R]) -> R:
            taking.set()
            await may_go_on.wait()
            return work()

        async def read() -> None:
            async for _ in turn.parts(recorder, rests):
                pass

        def is_idle() -> bool:
            return not engine.active

        task = asyncio.create_task(read())
        await taking.wait()
        if written_whole:
            await asyncio.to_thread(wait_for, "the whole answer", is_idle)
        await cancelled_again_and_again(task)
        await asyncio.to_thread(wait_for, "an idle engine", is_idle)
        may_go_on.set()
        await asyncio.to_thread(wait_for, "the turn's record", lambda: outbox.find("t1"))

    asyncio.run(leave())


def test_the_last_outputs_are_counted_though_their_reader_went_away_meanwhile(engine: Engine, tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    left(engine, outbox, 20, written_whole=True)
    record = outbox.find("t1")
    assert record is not None
    assert record.completion_tokens == 20
    assert record.text is not None
    assert record.text.completions[0] == written_by(engine, tmp_path / "whole", 20)


def test_the_engine_is_told_at_once(engine: Engine, tmp_path: Path) -> None:
    """Else the engine would not be idle before the outputs are put together."""
    outbox = Outbox(tmp_path)
    left(engine, outbox, 3000, written_whole=False)
    assert outbox.find("t1") is not None


def written_by(engine: Engine, home: Path, max_tokens: int) -> str:
    """The same answer, read to its end."""
    recorder = OutboxRecorder(Outbox(home), Limits(), log_text=False)

    async def read() -> str:
        turn = a_turn(engine, max_tokens)
        async for _ in turn.parts(recorder):
            pass
        return turn.choices[0].text

    return asyncio.run(read())
