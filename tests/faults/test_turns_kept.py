"""Turns of a real worker: kept while it dies, while the disk takes nothing, and refused beyond a budget."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI, RateLimitError

from phi3kit.core.errors import BudgetSpent
from phi3kit.core.records import Endpoint, Message
from phi3kit.endpoints.client import ask as client_ask
from phi3kit.endpoints.client import stream as client_stream
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.budgets import today
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built, settings_for
from tests.support.actors import admin
from tests.support.samples import new_store
from tests.support.waiting import wait_for


@contextmanager
def worker(built: Built, home: Path, **values: str) -> Iterator[tuple[Endpoint, WorkerPool]]:
    """A worker of the onnx wrapper that keeps its turns in a data folder of its own."""
    settings = settings_for(home, MLFLOW_TRACKING_URI=built.settings.tracking_uri.reveal(), **values)
    pool = WorkerPool(settings)
    try:
        yield pool.endpoint(built.uri("onnx")), pool
    finally:
        pool.close()


def client_of(endpoint: Endpoint, **how: Any) -> OpenAI:
    return OpenAI(base_url=f"{endpoint.base_url}/v1", api_key=endpoint.api_key, **how)


def ask(client: OpenAI, text: str = "What is the capital of Spain?", **how: Any) -> Any:
    message: Any = {"role": "user", "content": text}
    return client.chat.completions.create(model="m", messages=[message], **how)


class TestBudget:
    def test_beyond_it_a_turn_is_refused_as_openai_does_once_and_counted_and_not_logged(
        self, built: Built, tmp_path: Path
    ):
        with worker(built, tmp_path, PHI3KIT_DAILY_TOKENS_PER_USER="20") as (endpoint, _):
            client = client_of(endpoint)  # with the client's own retries
            assert ask(client, user="ada").usage.total_tokens > 0
            with pytest.raises(RateLimitError) as caught:
                ask(client, user="ada")
            assert ask(client, user="bob").usage.total_tokens > 0, "another user has a budget of their own"
            client.close()
            outbox = Outbox(tmp_path)
            wait_for("all are kept", lambda: outbox.waiting() >= 2)
        body: Any = caught.value.body
        assert (caught.value.status_code, body["type"], body["code"]) == (
            429,
            "insufficient_quota",
            "insufficient_quota",
        )
        assert "The daily token budget of ada is spent" in body["message"]
        assert 0 < int(caught.value.response.headers["Retry-After"]) <= 86_400
        own = new_store(tmp_path)
        write_waiting(own)
        turns = read_turns(own)
        assert sorted(turns["user"]) == ["ada", "bob"]
        assert outbox.refusals(today()) == {"ada": 1}, "the client did not try again"

    def test_the_app_says_that_the_budget_is_spent_and_when_it_renews(self, built: Built, tmp_path: Path):
        with worker(built, tmp_path, PHI3KIT_DAILY_TOKENS="20") as (endpoint, _):
            settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=built.settings.tracking_uri.reveal())
            request = Request((Message("user", "What is the capital of Spain?"),))
            client_ask(endpoint, request, TurnContext(admin("ada"), "ui"), settings)
            for asking in (client_ask, lambda *how: list(client_stream(*how))):
                with pytest.raises(BudgetSpent, match="It resets at 00:00 UTC") as caught:
                    asking(endpoint, request, TurnContext(admin("ada"), "ui"), settings)
                assert 0 < caught.value.retry_after_s <= 86_400


class TestADeadWorker:
    def test_a_turn_that_its_worker_did_not_live_to_end_is_logged_as_broken(self, built: Built, tmp_path: Path):
        with worker(built, tmp_path) as (endpoint, pool):
            client = client_of(endpoint, max_retries=0)
            stream = ask(client, "List the capitals of the world.", stream=True)
            next(iter(stream))
            (status,) = pool.statuses()
            os.kill(status.pid, signal.SIGKILL)
            with pytest.raises(Exception, match=r"."):
                for _ in stream:
                    pass
            client.close()
        outbox = Outbox(tmp_path)
        assert outbox.waiting() == 0
        outbox.adopt_orphans()
        assert outbox.adopt_orphans(time.time() + 60) == 1
        turn, _ = outbox.claim_next() or pytest.fail("nothing waits")
        assert (turn.finish_reason, turn.error_code, turn.completion_tokens) == ("error", "worker_died", 0)
        assert turn.prompt_tokens > 0


class TestADiskThatTakesNothing:
    def test_answers_are_given_and_turns_are_kept_when_it_takes_them_again(self, built: Built, tmp_path: Path):
        (tmp_path / "outbox.db").mkdir()
        with worker(built, tmp_path) as (endpoint, _):
            client = client_of(endpoint)
            assert "Madrid" in ask(client).choices[0].message.content
            key = {"Authorization": f"Bearer {endpoint.api_key}"}
            health = httpx2.get(f"{endpoint.base_url}/health", headers=key).json()
            assert health["turns_in_memory_only"] == 1
            (tmp_path / "outbox.db").rmdir()
            outbox = Outbox(tmp_path)
            wait_for("the turn is kept", outbox.waiting, 40)
            assert "turns_in_memory_only" not in httpx2.get(f"{endpoint.base_url}/health", headers=key).json()
            client.close()
