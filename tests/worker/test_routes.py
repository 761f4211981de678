"""A worker's routes in this process: when it is idle, and what a stream leaves out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from phi3kit.worker.request_checks import LastRequest
from tests.conftest import Built
from tests.support.worker_app import worker_app


def test_a_request_under_way_is_no_idleness_and_its_end_begins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    last = LastRequest()
    with last.under_way():
        now = 900.0
        assert last.idle_s == 0
        with last.under_way():
            pass
        assert last.idle_s == 0
    now = 905.0
    assert last.idle_s == 5


@pytest.fixture
def client(built: Built, tmp_path: Path) -> Iterator[TestClient]:
    with worker_app(built, tmp_path) as client:
        yield client


def test_log_probabilities_of_tokens_without_text_are_streamed_too(client: TestClient) -> None:
    rocket = "🚀"  # four tokens of a byte each: the first three give no text
    ids = client.post("/tokenize", json={"prompt": f"a{rocket}"}).json()["tokens"][1:5]
    body = {
        "prompt": f"{rocket} {rocket}", "max_tokens": 12, "logprobs": 0,
        "temperature": 1, "seed": 1, "logit_bias": dict.fromkeys(map(str, ids), 100),
    }  # fmt: skip
    whole = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    streamed: list[float] = []
    for line in client.post("/v1/completions", json=body | {"stream": True}).text.splitlines():
        if line.startswith("data: {") and (logprobs := json.loads(line[6:])["choices"][0]["logprobs"]):
            streamed += logprobs["token_logprobs"]
    assert len(streamed) == 12
    assert streamed == whole["token_logprobs"]
