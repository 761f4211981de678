"""The event loop of a worker waits for nobody: not for a long text, not for a locked file, not for a user's many calls."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from fastapi.testclient import TestClient

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import Busy, LimitReached
from phi3kit.core.limits import Limits
from phi3kit.worker import pools
from phi3kit.worker.pools import Present, TakingTurns, ThreadPool, TokenMeter, around_s
from phi3kit.worker.tokenization import decoded, encoded, load_tokenizers
from tests.conftest import Built
from tests.support.worker_app import as_user, worker_app

LONG = "🚀" * 60_000  # 240,000 tokens of one byte each


@pytest.fixture(scope="module")
def client(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with worker_app(built, tmp_path_factory.mktemp("home"), limits=Limits(user_minute_tokens=4000)) as client:
        yield client


class TestLongTexts:
    def test_python_goes_on_while_one_is_cut_and_while_it_is_joined(self) -> None:
        tokenizer, _ = load_tokenizers(MODEL_FOLDER)
        ticks: list[float] = []
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(0.001):
                ticks.append(time.perf_counter())

        clock = threading.Thread(target=tick)
        clock.start()
        began = time.perf_counter()
        ids = encoded(tokenizer, LONG).ids
        cut = time.perf_counter()
        assert decoded(tokenizer, ids) == LONG
        joined = time.perf_counter()
        ended.set()
        clock.join()
        # Python's lock was held until the end: not one tick fell in between.
        assert sum(began < tick < cut for tick in ticks) >= 10
        assert sum(cut < tick < joined for tick in ticks) >= 2

    @pytest.mark.parametrize(
        ("path", "body", "code"),
        [
            ("/tokenize", {"prompt": "a" * 300_000}, "context_length_exceeded"),
            ("/v1/completions", {"prompt": "a" * 300_000}, "context_length_exceeded"),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 300_000}]}, "context_length_exceeded"),
            ("/tokenize", {"prompt": LONG}, "string_above_max_length"),
            ("/tokenize", {"prompt": LONG * 2}, "context_length_exceeded"),
            ("/detokenize", {"tokens": [300] * 40_000}, None),
            ("/detokenize", {"tokens": [[]] * 40_000}, None),
            ("/v1/completions", {"prompt": [[]] * 40_000}, None),
        ],
    )  # fmt: skip
    def test_more_than_can_be_used_is_refused_before_it_costs_anything(
        self, client: TestClient, path: str, body: dict[str, Any], code: str
    ) -> None:
        began = time.perf_counter()
        answer = client.post(path, json=body, headers=as_user("long"))
        assert answer.status_code == 400
        assert code in (None, answer.json()["error"]["code"])
        assert time.perf_counter() - began < 10  # 3.6 MB in pieces took 31 s and 2 GB

    def test_a_body_that_no_prompt_needs_is_not_read(self, client: TestClient) -> None:
        answer = client.post("/tokenize", content=b"[" * (2**20 + 1), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413

    def test_pieces_of_a_whole_context_are_given(self, client: TestClient) -> None:
        answer = client.post("/tokenize", json={"prompt": "a" * 4096, "return_pieces": True}, headers=as_user("whole"))
        assert len(answer.json()["pieces"]) == answer.json()["count"] == 4096

    def test_of_a_longer_text_the_first_pieces_are_given_and_all_are_counted(self, client: TestClient) -> None:
        body = {"prompt": "a" * 40_000, "return_pieces": True}
        answer = client.post("/tokenize", json=body, headers=as_user("longer")).json()
        assert (len(answer["pieces"]), len(answer["tokens"]), answer["count"]) == (8192, 8192, 40_000)


class TestOneUsersCalls:
    def test_text_work_is_metered_by_tokens_and_only_its_user_is_refused(self, client: TestClient) -> None:
        body, minute = {"tokens": [300] * 32_000}, int(time.time() / 60)
        answers = [client.post("/detokenize", json=body, headers=as_user("ada")) for _ in range(8)]
        if minute == int(time.time() / 60):  # else the meter began again
            assert [each.status_code for each in answers] == [200] * 7 + [429]
        assert client.post("/detokenize", json=body, headers=as_user("bob")).status_code == 200

    def test_the_meter_begins_again_each_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 120.0
        monkeypatch.setattr(time, "time", lambda: now)
        meter = TokenMeter(100)
        meter.check("ada")
        meter.add("ada", 100)
        with pytest.raises(
            LimitReached, match="100 tokens tokenized or detokenized in this minute; the limit is 100"
        ) as caught:
            meter.check("ada")
        assert caught.value.retry_after_s == 60
        meter.check("bob")
        now = 180.0
        meter.check("ada")

    def test_many_of_them_stand_in_front_of_no_other_users_call(self) -> None:
        async def order() -> list[str]:
            pool, done = ThreadPool("test", 1, Present()), []
            let_go = threading.Event()

            async def call(user: str) -> None:
                await pool.run(user, let_go.wait)
                done.append(user)

            calls = [asyncio.create_task(call(user)) for user in ["ada"] * 20 + ["bob"]]
            await asyncio.sleep(0)
            let_go.set()
            await asyncio.gather(*calls)
            return done

        assert asyncio.run(order()).index("bob") <= 1

    # A rest of more than a second is told from none by half a second.

    def test_beside_others_a_user_waits_after_long_work_and_nobody_else(self) -> None:
        async def waits() -> tuple[float, float, float]:
            pool = ThreadPool("test", 2, Present(lambda: {"bob"}))
            await pool.run("ada", lambda: _compute(0.4))
            bob = await _timed(pool, "bob")
            same_request = await _timed(pool, "ada", goes_on=True)
            return bob, same_request, await _timed(pool, "ada")

        bob, same_request, ada = asyncio.run(waits())
        assert bob + same_request + ada >= 0.5  # four times as long as it computed, from its end on
        assert max(bob, same_request) < ada

    def test_a_user_alone_waits_for_nothing_and_runs_up_no_debt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pools, "_LONGEST_REST_S", 300.0)

        async def waits() -> tuple[float, float]:
            pool = ThreadPool("test", 2, Present())
            await pool.run("ada", lambda: None, 100.0)
            alone = await _timed(pool, "ada")
            await pool.run("bob", lambda: None)
            return alone, await _timed(pool, "ada")

        alone, beside = asyncio.run(waits())
        assert alone < 30
        assert beside < 30

    def test_a_debt_is_bounded(self) -> None:
        async def waits() -> float:
            pool = ThreadPool("test", 2, Present(lambda: {"bob"}))
            await pool.run("ada", lambda: None, 1000.0)
            return await _timed(pool, "ada")

        assert 0.5 < asyncio.run(waits()) < 30

    def test_a_rest_ends_when_the_others_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pools, "_LONGEST_REST_S", 300.0)

        async def waits() -> float:
            others = {"bob"}
            pool = ThreadPool("test", 2, Present(lambda: others))
            await pool.run("ada", lambda: None, 1000.0)
            asyncio.get_running_loop().call_later(0.2, others.clear)
            return await _timed(pool, "ada")

        assert 0.1 < asyncio.run(waits()) < 30

    def test_pools_know_each_others_users(self) -> None:
        async def waits() -> float:
            present = Present()
            tokenizing, naming = (ThreadPool(name, 2, present) for name in ("tokenizing", "naming"))
            await tokenizing.run("bob", lambda: None)
            await naming.run("ada", lambda: _compute(0.4))
            return await _timed(naming, "ada")

        assert asyncio.run(waits()) >= 0.5

    def test_what_nobody_waits_for_any_more_is_charged_too(self) -> None:
        async def waits() -> float:
            pool = ThreadPool("test", 1, Present(lambda: {"bob"}))
            begun, left = threading.Event(), threading.Event()

            def work() -> None:
                begun.set()
                left.wait(60)
                _compute(0.4)

            call = asyncio.create_task(pool.run("ada", work))
            await asyncio.to_thread(begun.wait)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            left.set()
            await pool.run("bob", lambda: None)  # the one thread has ended hers
            return await _timed(pool, "ada")

        assert asyncio.run(waits()) >= 0.5

    def test_what_the_event_loop_computes_counts_too(self) -> None:
        assert around_s(2**20) > 2 * around_s(0) > 0

        async def waits() -> float:
            pool = ThreadPool("test", 2, Present(lambda: {"bob"}))
            await pool.run("ada", lambda: None, 0.4)
            return await _timed(pool, "ada")

        assert asyncio.run(waits()) >= 0.5

    def test_who_asks_again_at_once_after_a_refusal_waits(self) -> None:
        async def waits() -> float:
            pool = ThreadPool("test", 2, Present(lambda: {"bob"}))
            pool.rest("ada", 1.5)
            return await _timed(pool, "ada")

        assert asyncio.run(waits()) >= 0.5

    def test_too_many_of_them_are_refused_and_the_places_are_free_again(self) -> None:
        async def refused() -> None:
            turns = TakingTurns(most_waiting=1)
            async with turns.turn("ada"):
                waits = asyncio.create_task(_once(turns, "ada"))
                await asyncio.sleep(0)
                with pytest.raises(Busy):
                    await _once(turns, "ada")
                await _once(turns, "bob")
            await waits
            await _once(turns, "ada")

        asyncio.run(refused())


def _compute(seconds: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def _timed(pool: ThreadPool, user: str, *, goes_on: bool = False) -> float:
    began = time.monotonic()
    await pool.run(user, lambda: None, goes_on=goes_on)
    return time.monotonic() - began


async def _once(turns: TakingTurns, user: str) -> None:
    async with turns.turn(user):
        pass
