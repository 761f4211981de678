"""What a worker keeps in memory of one user's prompts tells another user nothing: neither by counts nor by time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from phi3kit.access.keys import KeyStore
from phi3kit.core.records import WrapperName
from phi3kit.worker.kv_cache import KvCache
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.worker_app import as_user, completion, worker_app
from tests.worker.test_kv_cache import ANSWER, BYTES, PROMPT, ScriptedRuntime, acquired, numbers, told

SYSTEM = "You are a stand-up comedian who knows the capitals of every country in the world and likes atoms very much."
SECRET = "My card's number is 4929 1838 1234 5678, and it is good until November. Please remember it for me."


@pytest.fixture(params=["onnx", "transformers"])
def client(request: pytest.FixtureRequest, built: Built, tmp_path: Path) -> Iterator[TestClient]:
    wrapper: WrapperName = request.param
    with worker_app(built, tmp_path, wrapper, PHI3KIT_SHARED_SYSTEM=SYSTEM) as client:
        yield client


def cached(client: TestClient, headers: dict[str, str], path: str = "/v1/completions", **body: Any) -> int:
    """How many tokens of a prompt were found in memory."""
    answer = client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def chat(system: str, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": 2}


class TestAWorker:
    def test_a_users_own_prompt_is_found_again_and_another_users_never(
        self, client: TestClient, tmp_path: Path
    ) -> None:
        assert cached(client, as_user("ada"), **completion(SECRET)) == 0
        assert cached(client, as_user("ada"), **completion(SECRET)) > 40
        # The attack: guesses with the right beginning were counted as cached, digit by digit.
        guesses = [cached(client, as_user(f"eve-{end}"), **completion(SECRET[:end])) for end in (30, 50, len(SECRET))]
        assert guesses == [0, 0, 0]
        # Whoever has a key of their own is its user, and the worker's memory for others is closed to them too.
        _, token = KeyStore(tmp_path).create("eve-by-key", "", ADMIN)
        assert cached(client, {"Authorization": f"Bearer {token}"}, **completion(SECRET)) == 0

    def test_of_others_only_the_system_message_is_found_that_the_operator_shares(self, client: TestClient) -> None:
        path = "/v1/chat/completions"
        assert cached(client, as_user("ada"), path, **chat(SYSTEM, SECRET)) == 0
        shared = cached(client, as_user("eve"), path, **chat(SYSTEM, SECRET))
        assert 20 < shared < client.post("/tokenize", json={"prompt": SYSTEM}).json()["count"] + 3
        assert cached(client, as_user("ada"), path, **chat("Another system message. " * 8, SECRET)) < 5
        assert cached(client, as_user("eve"), path, **chat("Another system message. " * 8, SECRET)) < 5


class TestTheCache:
    def test_one_users_conversation_is_neither_gone_on_with_nor_copied_for_another(self) -> None:
        runtime = ScriptedRuntime()
        cache = KvCache(runtime, 2000 * BYTES)
        slot = told(cache, PROMPT, ANSWER)
        other = cache.acquire(PROMPT, 50, "eve")
        assert other is not None
        assert other is not slot
        assert (other.sequence.ids, cache.extend(other, PROMPT)) == ([], 0)
        cache.release(other)
        assert acquired(cache, PROMPT).sequence.ids == PROMPT[:-1]

    def test_without_room_the_oldest_conversation_is_closed_and_not_read_whoever_had_it(self) -> None:
        runtime = ScriptedRuntime()
        cache = KvCache(runtime, 120 * BYTES, shared_ids=PROMPT[:40])
        told(cache, PROMPT, ANSWER)
        slot = cache.acquire([*PROMPT, 1], 20, "eve")
        assert slot is not None
        assert slot.sequence.ids == PROMPT[: len(slot.sequence.ids)]
        assert len(slot.sequence.ids) <= 40

    def test_of_others_the_shared_beginning_is_copied_and_nothing_behind_it(self) -> None:
        cache = KvCache(ScriptedRuntime(), 2000 * BYTES, shared_ids=PROMPT[:40])
        told(cache, PROMPT, ANSWER)
        slot = cache.acquire(PROMPT, 50, "eve")
        assert slot is not None
        assert (cache.extend(slot, PROMPT), slot.sequence.ids) == (40, PROMPT[:40])
        other = cache.acquire([*PROMPT[:35], *numbers(1, 50)], 50, "eve")
        assert other is not None
        assert cache.extend(other, [*PROMPT[:35], *numbers(1, 50)]) == 35
