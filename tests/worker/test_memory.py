"""Sequences that are kept between turns: the text is the same with and without them, and only new tokens are computed."""

from collections.abc import Iterator

import httpx2
import pytest

from phi3kit.core.records import WRAPPERS, Endpoint, Message, WrapperName
from phi3kit.embedded.corpus import questions
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.formats.chat_template import prompt_ids
from phi3kit.tracking.logged_models import resolve
from phi3kit.worker.engine import Done, Engine, Generation, Output, Piece
from phi3kit.worker.kv_cache import KvCache
from phi3kit.worker.loading import load_runtime
from phi3kit.worker.runtime import Runtime
from phi3kit.worker.sampling import Sampling
from tests.conftest import Built, settings_for
from tests.support.greedy import greedy
from tests.support.waiting import wait_for

QUESTIONS = [question.text for question in questions("en") if question.kind == "capital" and question.text[0] == "W"]
MAX_TOKENS = 40


class Talker:
    """Compares an engine with a sequence that is computed anew."""

    def __init__(self, runtime: Runtime, engine: Engine) -> None:
        self._runtime, self._engine = runtime, engine
        self.cached = 0  # prompt tokens of the last answer that were not computed
        self.prompt_tokens = 0

    def ask(self, messages: list[Message]) -> str:
        """The answer, which is the same when computed anew."""
        prompt = prompt_ids(messages, self._ids, self._ids)
        outputs: list[Output] = []
        self._engine.submit(Generation(prompt, MAX_TOKENS, Sampling(), (), outputs.append))
        done = wait_for("an answer", lambda: next((output for output in outputs if isinstance(output, Done)), None))
        assert done.error is None
        self.cached, self.prompt_tokens = done.cached_prompt_tokens, len(prompt)
        text = "".join(output.text for output in outputs if isinstance(output, Piece))
        assert text == self._without_memory(prompt)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._runtime.tokenizer.encode(text, add_special_tokens=False).ids)

    def _without_memory(self, prompt: list[int]) -> str:
        sequence = self._runtime.open(len(prompt) + MAX_TOKENS)
        text = greedy(self._runtime, sequence, prompt, MAX_TOKENS)
        sequence.close()
        return text


@pytest.fixture(scope="module", params=WRAPPERS)
def talker(request: pytest.FixtureRequest, built: Built) -> Iterator[Talker]:
    """Each wrapper's real model, with room for many conversations."""
    wrapper: WrapperName = request.param
    runtime = load_runtime(resolve(built.uri(wrapper), built.settings).folder, wrapper, threads=2)
    engine = Engine(lambda: (runtime, KvCache(runtime, 2**30)), max_queue=4)
    engine.start()
    wait_for("a loaded model", lambda: engine.state == "ready")
    yield Talker(runtime, engine)
    engine.close()


class TestConversation:
    def test_20_turns_compute_only_what_is_new(self, talker: Talker) -> None:
        messages: list[Message] = []
        known = 0
        for question in QUESTIONS[:20]:
            messages.append(Message("user", question))
            answer = talker.ask(messages)
            # The end token was written and never computed; all before it is there.
            assert talker.cached >= known - 1
            known = talker.prompt_tokens + len(talker._ids(answer))
            messages.append(Message("assistant", answer))
        assert known > 400

    def test_the_same_question_again_computes_one_token(self, talker: Talker) -> None:
        messages = [Message("system", "Answer briefly."), Message("user", QUESTIONS[21])]
        first = talker.ask(messages)
        assert talker.ask(messages) == first
        assert talker.cached == talker.prompt_tokens - 1

    def test_an_edit_computes_from_the_change_on(self, talker: Talker) -> None:
        messages: list[Message] = []
        for question in QUESTIONS[30:36]:
            messages.append(Message("user", question))
            messages.append(Message("assistant", talker.ask(messages)))
        before = messages[:6]
        kept = (
            len(prompt_ids(before, talker._ids, talker._ids)) - 1
        )  # all but the assistant's token, which ends a prompt
        talker.ask([*before, Message("user", QUESTIONS[40])])
        assert kept <= talker.cached < talker.prompt_tokens

    def test_two_conversations_by_turns_keep_their_own(self, talker: Talker) -> None:
        talks: list[list[Message]] = [[Message("user", QUESTIONS[50])], [Message("user", QUESTIONS[60])]]
        for turn in range(5):
            for number, messages in enumerate(talks):
                answer = talker.ask(messages)
                if turn:
                    assert talker.cached > talker.prompt_tokens / 2
                more = Message("user", QUESTIONS[70 + 10 * number + turn])
                messages += [Message("assistant", answer), more]


class TestBudget:
    @pytest.fixture
    def tight(self, built: Built) -> Iterator[Endpoint]:
        """A worker whose conversations may take 8 MB: 1,024 tokens."""
        pool = WorkerPool(settings_for(built.home, PHI3KIT_KV_BUDGET_MB="8"))
        yield pool.endpoint(built.uri("onnx"))
        pool.close()

    def test_a_request_that_could_never_fit_is_a_400_and_a_smaller_one_is_answered(self, tight: Endpoint) -> None:
        headers = {"Authorization": f"Bearer {tight.api_key}"}
        with httpx2.Client(base_url=tight.base_url, headers=headers, timeout=300) as http:
            body = {"prompt": "<|user|>What is the capital of Spain?<|end|><|assistant|>", "max_tokens": 2000}
            refused = http.post("/v1/completions", json=body)
            assert refused.status_code == 400
            assert refused.json()["error"]["code"] == "kv_budget_exceeded"
            answered = http.post("/v1/completions", json=body | {"max_tokens": 100})
            assert answered.json()["choices"][0]["text"] == "The capital of Spain is Madrid."
            memory = http.get("/health").json()["kv_cache"]
            assert 0 < memory["reserved_bytes"] <= memory["budget_bytes"] == 8 * 2**20

    def test_waiting_turns_learn_their_place(self, tight: Endpoint) -> None:
        headers = {"Authorization": f"Bearer {tight.api_key}"}
        body = {"prompt": "<|user|>List the capitals of the world.<|end|><|assistant|>", "max_tokens": 900}
        with httpx2.Client(base_url=tight.base_url, headers=headers, timeout=300) as http:
            streams = [http.stream("POST", "/v1/completions", json=body | {"stream": True}) for _ in range(3)]
            answers = [stream.__enter__() for stream in streams]
            places = [int(answer.headers["X-Phi3kit-Queue-Place"]) for answer in answers]
            for stream in streams:
                stream.__exit__(None, None, None)
            assert places[0] == 0
            assert places == sorted(places)
            assert places[2] >= 1
            wait_for("an idle worker", lambda: http.get("/health").json()["active"] == 0)
