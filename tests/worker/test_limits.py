"""Limits of a real worker: what is refused, in which words, and that no header gets around it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from phi3kit.core.errors import LimitReached, RequestInvalid
from phi3kit.core.limits import Limits
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints.client import ask
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.request_counts import RequestCounts
from tests.conftest import Built
from tests.support.actors import admin
from tests.support.samples import copy_of_store

CAPITAL = (Message("user", "What is the capital of Spain?"),)
LIMITS = Limits(user_minute_turns=3, user_turns_at_once=2, prompt_characters=200, workers=1)


@pytest.fixture(scope="module")
def settings(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return replace(copy_of_store(built.settings, tmp_path_factory.mktemp("limits")), limits=LIMITS)


@pytest.fixture(scope="module")
def workers(settings: Settings) -> Iterator[WorkerPool]:
    pool = WorkerPool(settings)
    yield pool
    pool.close()


@pytest.fixture
def worker(workers: WorkerPool, built: Built) -> Endpoint:
    return workers.endpoint(built.uri("onnx"))


def posted(worker: Endpoint, path: str, body: object, user: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {worker.api_key}", "X-Phi3kit-User": user}
    return httpx2.post(f"{worker.base_url}{path}", json=body, headers=headers, timeout=300)


class TestTurns:
    def test_the_fourth_of_a_minute_is_refused_in_openais_shape_and_other_users_go_on(self, worker: Endpoint):
        body = {"model": "phi3", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
        answers = [posted(worker, "/v1/chat/completions", body, "ada") for _ in range(4)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429]
        error = answers[-1].json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert error["message"].startswith("Too many requests. You had 3 turns in the last minute")
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert posted(worker, "/v1/chat/completions", body, "bob").status_code == 200

    def test_the_client_says_what_the_worker_said(self, worker: Endpoint, settings: Settings):
        for _ in range(3):
            ask(worker, Request(CAPITAL), TurnContext(admin("carol"), "ui"), settings)
        with pytest.raises(LimitReached, match="in the last minute; the limit is 3"):
            ask(worker, Request(CAPITAL), TurnContext(admin("carol"), "ui"), settings)

    def test_n_answers_are_n_at_once(self, worker: Endpoint):
        body = {"model": "phi3", "prompt": "<|user|>\nhello<|end|>\n<|assistant|>\n", "max_tokens": 4, "n": 3}
        refused = posted(worker, "/v1/completions", body, "dora")
        assert refused.status_code == 429
        assert "asked for 3 more; the limit is 2 at once" in refused.json()["error"]["message"]
        assert posted(worker, "/v1/completions", body | {"n": 2}, "dora").status_code == 200

    def test_calls_of_mlflows_kind_count_too(self, worker: Endpoint, settings: Settings):
        for _ in range(3):
            assert posted(worker, "/invocations", {"prompt": "hello"}, "eve").status_code == 200
        assert posted(worker, "/invocations", {"prompt": "hello"}, "eve").status_code == 429
        assert RequestCounts(settings.home).of("eve").daily_turns == 3

    def test_a_refused_request_takes_no_place(self, worker: Endpoint, settings: Settings):
        body = {"model": "phi3", "prompt": "x" * 201}
        answer = posted(worker, "/v1/completions", body, "fay")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "string_above_max_length"
        assert posted(worker, "/tokenize", {"prompt": "x" * 201}, "fay").status_code == 400
        with pytest.raises(RequestInvalid, match="201 characters; the limit here is 200"):
            ask(worker, Request("x" * 201), TurnContext(admin("fay"), "ui"), settings)
        assert RequestCounts(settings.home).of("fay").daily_turns == 0


def test_where_one_worker_may_be_loaded_the_idle_one_makes_room(
    workers: WorkerPool, worker: Endpoint, built: Built, tmp_path: Path
):
    assert workers.endpoint(built.uri("transformers")).wrapper == "transformers"
    assert [status.wrapper for status in workers.statuses()] == ["transformers"]
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{worker.base_url}/health")
