"""Limits hold: what is refused counts and is not logged, and each route that computes is metered by tokens."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from phi3kit.core.errors import BudgetSpent, LimitReached
from phi3kit.core.limits import Limits
from phi3kit.usage.allowances import everybody
from phi3kit.usage.budgets import today
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder
from phi3kit.usage.request_counts import RequestCounts
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.samples import turn
from tests.support.worker_app import as_user, completion, worker_app


class TestRefusals:
    LIMITS = Limits(user_daily_tokens=1, user_minute_turns=3)

    def test_a_spent_budget_writes_no_turn_and_its_refusals_keep_to_the_rate(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        recorder = OutboxRecorder(outbox, self.LIMITS, log_text=False)
        refused_by: list[type[Exception]] = []
        for number in range(8):
            with pytest.raises((BudgetSpent, LimitReached)) as caught:
                recorder.admit(turn(f"t{number}", user="ada"))
            refused_by.append(caught.type)
        assert (
            refused_by == [BudgetSpent] * 3 + [LimitReached] * 5
        )  # all eight were the budget's, a run and a trace each
        assert (outbox.waiting(), outbox.refusals(today())) == (0, {"ada": 8})
        counts = RequestCounts(tmp_path).of("ada")
        assert (counts.minute_turns, counts.at_once) == (3, 0)

    def test_they_are_summed_by_user_and_administrators_see_the_sums(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        recorder = OutboxRecorder(outbox, Limits(daily_tokens=1), log_text=False)
        for user in ("ada", "bob", "ada"):
            with pytest.raises(BudgetSpent):
                recorder.admit(turn(user=user))
        assert {each.counts.user: each.refused_today for each in everybody(ADMIN, Limits(), outbox)} == {
            "ada": 2,
            "bob": 1,
        }

    def test_calls_that_are_no_turns_are_refused_alike(self, tmp_path: Path) -> None:
        outbox = Outbox(tmp_path)
        recorder = OutboxRecorder(outbox, Limits(user_daily_tokens=20), log_text=False)
        recorder.admit_call("c1", "ada", 5)
        recorder.end_call("c1", "ada", 15)
        with pytest.raises(BudgetSpent):
            recorder.admit_call("c2", "ada", 6)
        recorder.admit_call("c3", "ada", 5)
        assert (outbox.spent_tokens(today(), "ada"), outbox.refusals(today())) == (15, {"ada": 1})


@pytest.fixture(scope="class")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="class")
def client(built: Built, home: Path) -> Iterator[TestClient]:
    limits = Limits(user_daily_tokens=60, user_minute_turns=50, prompt_characters=5_000)
    with worker_app(built, home, limits=limits) as client:
        yield client


class TestInvocations:
    def test_its_tokens_are_spent_and_a_spent_budget_refuses_it(self, client: TestClient, home: Path) -> None:
        body = completion("What is the capital of Spain?")
        native = {"prompt": body["prompt"]}
        answer = client.post("/invocations", json=native, headers=as_user("ada"))
        assert (answer.status_code, answer.json()) == (200, ["The capital of Spain is Madrid."])
        spent = Outbox(home).spent_tokens(today(), "ada")
        assert 10 < spent <= 60
        while client.post("/invocations", json=native, headers=as_user("ada")).status_code == 200:
            before, spent = spent, Outbox(home).spent_tokens(today(), "ada")
            assert before < spent
        longer = completion("What is the capital of Spain? " * 5)
        for path, sent in (("/invocations", native), ("/v1/completions", longer)):
            refused = client.post(path, json=sent, headers=as_user("ada"))
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert client.post("/v1/completions", json=body, headers=as_user("bob")).status_code == 200
        assert Outbox(home).waiting() == 1  # bob's turn alone

    def test_a_prompt_of_more_than_the_allowed_characters_is_refused_here_too(self, client: TestClient) -> None:
        refused = client.post("/invocations", json={"prompt": "x" * 5_001}, headers=as_user("carol"))
        assert refused.json()["error"]["code"] == "string_above_max_length"

    def test_a_locked_file_of_counts_holds_up_its_own_call_alone(self, client: TestClient, home: Path) -> None:
        answers = []

        def call() -> None:
            body = {"prompt": "<|user|>\nHello<|end|>\n<|assistant|>\n"}
            answers.append(client.post("/invocations", json=body, headers=as_user("dora")).status_code)

        with _locked(home / "asked.db"):
            calling = threading.Thread(target=call)
            calling.start()
            # The event loop itself waited for the file: /health came after 7 s and more, with the call's own answer.
            for _ in range(20):
                assert client.get("/health").status_code == 200
            assert answers == []
        calling.join(60)
        assert answers == [200]


class TestASharedKey:
    def test_headers_buy_no_turn_beyond_the_limit(self, built: Built, tmp_path: Path) -> None:
        with worker_app(built, tmp_path, limits=Limits(user_minute_turns=3), managed=False) as client:
            tricks = [
                as_user("ada", **{"X-Phi3kit-Turn-Id": "one"}),
                as_user("ada", **{"X-Phi3kit-Turn-Id": "one"}),  # six requests with one id were counted once
                as_user("bob"),
                as_user("carol"),
                as_user("ada", **{"X-Phi3kit-Origin": "batch"}),  # a batch's rows are not counted by the minute
                as_user("dora", **{"X-Phi3kit-Origin": "batch", "X-Phi3kit-Turn-Id": "two"}),
            ]
            asked = [client.post("/v1/completions", json=completion("Hi"), headers=each).status_code for each in tricks]
        assert asked == [200] * 3 + [429] * 3
        assert [each.user for each in RequestCounts(tmp_path).all()] == ["api"]


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Another process writes and does not end."""
    RequestCounts(database.parent).of("nobody")
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("begin exclusive")
    try:
        yield
    finally:
        connection.close()
