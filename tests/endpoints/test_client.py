"""Client: whole and streamed answers of real workers, what they cost, and every way in which they fail."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from phi3kit.core.errors import Busy, RequestInvalid, WorkerFailed
from phi3kit.core.records import Message, TurnRecord
from phi3kit.endpoints.client import ask, stream, tokenize
from phi3kit.endpoints.records import Answer, Request, TurnContext
from phi3kit.endpoints.workers import Endpoint, WorkerPool
from phi3kit.usage.outbox import Outbox
from tests.conftest import CHAPTER_PROMPT, Built, settings_for
from tests.support.actors import admin
from tests.support.waiting import wait_for

CAPITAL = (Message("user", "What is the capital of Spain?"),)
CAPITAL_RAW = "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"
LONG = Request((Message("user", "List the capitals of the world."),), max_tokens=1800)


def a_context(user: str = "maria") -> TurnContext:
    return TurnContext(admin(user), "ui")


def recorded(built: Built, context: TurnContext) -> TurnRecord:
    return wait_for("the turn in the outbox", lambda: Outbox(built.home).find(context.turn_id))


@pytest.fixture
def own_pool(built: Built) -> Iterator[WorkerPool]:
    """Workers that a test may kill or fill."""
    pool = WorkerPool(settings_for(built.home, PHI3KIT_MAX_QUEUE="1"))
    yield pool
    pool.close()


class TestAsk:
    @pytest.mark.parametrize("prompt", [CAPITAL, CAPITAL_RAW], ids=["messages", "raw prompt"])
    def test_it_answers_and_the_same_numbers_are_recorded(
        self, endpoint: Endpoint, built: Built, prompt: tuple[Message, ...] | str
    ) -> None:
        context = a_context()
        answer = ask(endpoint, Request(prompt), context, built.settings)
        assert (answer.text, answer.finish_reason) == ("The capital of Spain is Madrid.", "stop")
        turn = recorded(built, context)
        assert (turn.prompt_tokens, turn.completion_tokens) == (answer.prompt_tokens, answer.completion_tokens)
        assert answer.total_tokens == answer.prompt_tokens + answer.completion_tokens > 10
        assert (turn.duration_s, turn.time_to_first_token_s) == (answer.duration_s, answer.time_to_first_token_s)
        assert turn.tokens_per_second == answer.tokens_per_second
        assert turn.interface == ("raw" if isinstance(prompt, str) else "openai")
        assert (turn.user, turn.origin, turn.conversation_id) == ("maria", "ui", context.conversation_id)
        assert (turn.wrapper, turn.model_uri) == (endpoint.wrapper, endpoint.model_uri)

    def test_what_is_asked_for_reaches_the_model(self, endpoint: Endpoint, built: Built) -> None:
        context = a_context()
        request = Request(CHAPTER_PROMPT, temperature=1.5, max_tokens=30, top_p=0.9, seed=5, stop=("zebra",))
        answer = ask(endpoint, request, context, built.settings)
        assert answer.text == ask(endpoint, request, a_context(), built.settings).text
        turn = recorded(built, context)
        assert (turn.temperature, turn.max_tokens, turn.top_p, turn.seed) == (1.5, 30, 0.9, 5)

    def test_a_stop_string_is_not_in_the_answer(self, onnx_endpoint: Endpoint, built: Built) -> None:
        answer = ask(onnx_endpoint, Request(CAPITAL, stop=(" Madrid",)), a_context(), built.settings)
        assert (answer.text, answer.finish_reason) == ("The capital of Spain is", "stop")

    @pytest.mark.parametrize("user", ["Μαρία", "太郎", "Zoë 100 %", "a\r\nX-Evil: 1"])
    def test_a_user_may_be_called_anything(self, onnx_endpoint: Endpoint, built: Built, user: str) -> None:
        context = a_context(user=user)
        assert ask(onnx_endpoint, Request(CAPITAL, max_tokens=2), context, built.settings).completion_tokens == 2
        assert recorded(built, context).user == user


class TestStream:
    @pytest.mark.parametrize("prompt", [CAPITAL, CAPITAL_RAW], ids=["messages", "raw prompt"])
    def test_answers_grow_up_to_the_whole_one(
        self, endpoint: Endpoint, built: Built, prompt: tuple[Message, ...] | str
    ) -> None:
        context = a_context()
        whole = ask(endpoint, Request(prompt), a_context(), built.settings)
        answers = list(stream(endpoint, Request(prompt), context, built.settings))
        for shorter, longer in pairwise(answers):
            assert longer.text.startswith(shorter.text)
            assert longer.completion_tokens >= shorter.completion_tokens
        last = answers[-1]
        assert (last.text, last.finish_reason) == (whole.text, "stop")
        assert (last.prompt_tokens, last.completion_tokens) == (whole.prompt_tokens, whole.completion_tokens)
        assert len({answer.text for answer in answers}) > 4
        turn = recorded(built, context)
        assert (turn.completion_tokens, turn.finish_reason) == (last.completion_tokens, "stop")
        assert (turn.duration_s, turn.time_to_first_token_s) == (last.duration_s, last.time_to_first_token_s)

    def test_tokens_are_counted_while_the_answer_grows(self, endpoint: Endpoint, built: Built) -> None:
        counts = [
            answer.completion_tokens
            for answer in stream(endpoint, replace(LONG, max_tokens=40), a_context(), built.settings)
            if answer.finish_reason is None
        ]
        assert set(range(1, 41)) <= set(counts)

    def test_closing_it_cancels_the_turn_and_records_what_was_written(self, endpoint: Endpoint, built: Built) -> None:
        context = a_context()
        answers = stream(endpoint, LONG, context, built.settings)
        answer = Answer()
        while answer.completion_tokens < 10:
            answer = next(answers)
        answers.close()
        turn = recorded(built, context)
        assert turn.finish_reason == "cancelled"
        assert turn.prompt_tokens == answer.prompt_tokens
        assert answer.completion_tokens <= turn.completion_tokens < 900  # uncut it would be 1,800
        assert ask(endpoint, Request(CAPITAL, max_tokens=2), a_context(), built.settings).completion_tokens == 2

    def test_a_worker_that_dies_in_mid_answer_is_an_error_and_one_failed_turn(
        self, own_pool: WorkerPool, built: Built
    ) -> None:
        endpoint = own_pool.endpoint(built.uri("onnx"))
        waiting_before = Outbox(built.home).waiting()
        context = a_context()
        answers = stream(endpoint, LONG, context, built.settings)
        read = [next(answers) for _ in range(12)]
        os.kill(own_pool.statuses()[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed) as caught:
            read.extend(answers)
        assert caught.value.next_step
        turn = recorded(built, context)
        assert (turn.finish_reason, turn.interface, turn.user) == ("error", "openai", "maria")
        assert (turn.prompt_tokens, turn.completion_tokens) == (read[-1].prompt_tokens, read[-1].completion_tokens)
        assert turn.completion_tokens >= 10
        assert Outbox(built.home).waiting() == waiting_before + 1

    def test_a_dead_worker_is_an_error_and_the_next_one_answers(self, own_pool: WorkerPool, built: Built) -> None:
        endpoint = own_pool.endpoint(built.uri("onnx"))
        own_pool.close()
        with pytest.raises(WorkerFailed, match="worker"):
            ask(endpoint, Request(CAPITAL), a_context(), built.settings)
        with pytest.raises(WorkerFailed, match="worker"):
            tokenize(endpoint, CAPITAL)
        again = own_pool.endpoint(built.uri("onnx"))
        assert ask(again, Request(CAPITAL), a_context(), built.settings).text == "The capital of Spain is Madrid."


class TestRefusal:
    @pytest.mark.parametrize(
        ("request_", "param"),
        [
            (Request(CAPITAL, temperature=-1), "temperature"),
            (Request(CAPITAL, max_tokens=0), "max_tokens"),
            (Request((Message("user", " "),)), "messages[0].content"),
            (Request((Message("robot", "Hi"),)), "messages[0].role"),  # type: ignore[arg-type]
            (Request(()), "messages"),
            (Request("", top_p=0.5), "prompt"),
            (Request(CAPITAL_RAW, top_p=2), "top_p"),
        ],
        ids=["temperature", "max_tokens", "empty message", "unknown role", "no messages", "empty prompt", "top_p"],
    )
    def test_a_wrong_value_is_named(self, onnx_endpoint: Endpoint, built: Built, request_: Request, param: str) -> None:
        context = a_context()
        with pytest.raises(RequestInvalid) as whole:
            ask(onnx_endpoint, request_, context, built.settings)
        with pytest.raises(RequestInvalid) as streamed:
            list(stream(onnx_endpoint, request_, context, built.settings))
        assert (whole.value.param, streamed.value.param) == (param, param)
        assert param in whole.value.why
        assert Outbox(built.home).find(context.turn_id) is None

    def test_a_prompt_over_the_context_says_both_numbers(self, onnx_endpoint: Endpoint, built: Built) -> None:
        with pytest.raises(RequestInvalid, match="4096 tokens") as caught:
            ask(onnx_endpoint, Request("<|end|>" * 5000), a_context(), built.settings)
        assert caught.value.code == "context_length_exceeded"
        assert "5,000" in caught.value.why

    def test_a_wrong_key_is_a_failed_worker_that_says_so(self, onnx_endpoint: Endpoint, built: Built) -> None:
        with pytest.raises(WorkerFailed, match="401"):
            ask(replace(onnx_endpoint, api_key="wrong"), Request(CAPITAL), a_context(), built.settings)

    def test_a_full_queue_is_busy_for_those_who_come_last(self, own_pool: WorkerPool, built: Built) -> None:
        endpoint = own_pool.endpoint(built.uri("onnx"))
        request = replace(LONG, max_tokens=400)
        replies: list[Answer | Busy] = []

        def one() -> None:
            try:
                replies.append(ask(endpoint, request, a_context(), built.settings))
            except Busy as error:
                replies.append(error)

        for _ in range(8):  # one is answered, one waits
            threading.Thread(target=one, daemon=True).start()
        wait_for("eight replies", lambda: len(replies) == 8)
        refused = [reply for reply in replies if isinstance(reply, Busy)]
        answered = [reply for reply in replies if isinstance(reply, Answer)]
        assert refused
        assert all(reply.retry_after_s >= 1 for reply in refused)
        assert {reply.completion_tokens for reply in answered} == {400}


class TestCountTokens:
    def test_messages_and_their_raw_prompt_count_as_the_turn_does(self, endpoint: Endpoint, built: Built) -> None:
        answer = ask(endpoint, Request(CAPITAL, max_tokens=1), a_context(), built.settings)
        assert tokenize(endpoint, CAPITAL).count == tokenize(endpoint, CAPITAL_RAW).count == answer.prompt_tokens

    def test_special_tokens_are_text_in_a_message_and_structure_in_a_raw_prompt(self, endpoint: Endpoint) -> None:
        assert tokenize(endpoint, "<|end|>").count == 1
        empty = tokenize(endpoint, (Message("user", ""),)).count
        assert tokenize(endpoint, (Message("user", "<|end|>"),)).count > empty + 1

    def test_a_wrong_role_is_invalid(self, endpoint: Endpoint) -> None:
        with pytest.raises(RequestInvalid) as caught:
            tokenize(endpoint, (Message("robot", "Hi"),))  # type: ignore[arg-type]
        assert caught.value.param == "messages[0].role"
