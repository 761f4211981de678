"""Lanes: several real answers at once, each ending in its own way."""

import threading
from collections.abc import Callable
from functools import partial

import pytest

from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import Endpoint, Message
from phi3kit.endpoints.lanes import Lane, stop_all
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.outbox import Outbox
from tests.conftest import Built
from tests.endpoints.test_remote import to
from tests.support.actors import admin
from tests.support.scripted_server import scripted
from tests.support.waiting import wait_for

CAPITAL = Request((Message("user", "What is the capital of Spain?"),))
LONG = Request((Message("user", "List the capitals of the world."),), max_tokens=1800)
Wait = Callable[[str], None]


def lane(find: Callable[[Wait], Endpoint], built: Built, request: Request = CAPITAL) -> Lane:
    return Lane(find, request, TurnContext(actor=admin("maria"), origin="ui"), built.settings)


class TestLanes:
    def test_two_answers_grow_at_the_same_time_and_end_together_when_stopped(
        self, built: Built, pool: WorkerPool
    ) -> None:
        # Of one worker, so that neither ends before the other begins: the onnx wrapper may need less than a second.
        lanes = [lane(partial(pool.endpoint, built.uri("transformers")), built, LONG) for _ in range(2)]
        for each in lanes:
            each.start()
        wait_for("both at work", lambda: all(each.answer.text and not each.done for each in lanes))
        stop_all(lanes)
        wait_for("both ends", lambda: all(each.done for each in lanes))  # on a busy machine later than its patience
        assert [each.settled_answer().finish_reason for each in lanes] == ["cancelled", "cancelled"]
        for each in lanes:
            record = wait_for("the record", lambda each=each: Outbox(built.home).find(each.context.turn_id))
            assert record.finish_reason == "cancelled"
            assert record.completion_tokens < 1700

    def test_one_that_fails_leaves_the_other_alone(self, built: Built, onnx_endpoint: Endpoint) -> None:
        def fail(wait: Wait) -> Endpoint:
            raise WorkerFailed("It did not start.", "There is no memory.", "Close something.")

        bad, good = lane(fail, built), lane(lambda wait: onnx_endpoint, built)
        bad.start()
        good.start()
        wait_for("both ends", lambda: bad.done and good.done)
        assert bad.error
        assert (bad.settled_answer().finish_reason, bad.sent) == ("error", False)
        assert (good.settled_answer().text, good.error) == ("The capital of Spain is Madrid.", None)

    def test_one_that_is_stopped_while_its_model_loads_asks_nothing(
        self, built: Built, onnx_endpoint: Endpoint
    ) -> None:
        loaded = threading.Event()

        def find(wait: Wait) -> Endpoint:
            wait("Loading the model")
            loaded.wait(120)
            return onnx_endpoint

        slow = lane(find, built)
        slow.start()
        wait_for("the wait", lambda: slow.waits_for == "Loading the model")
        stop_all([slow], patience_s=0.2)
        assert not loaded.is_set(), "the page does not wait for a model"
        assert (slow.settled_answer().finish_reason, slow.done) == ("cancelled", False)
        loaded.set()
        wait_for("its end", lambda: slow.done)
        assert not slow.sent
        assert Outbox(built.home).find(slow.context.turn_id) is None

    def test_a_silent_endpoint_is_left_at_once(self, built: Built) -> None:
        with scripted(b"", hold_open_s=20) as server:
            waiting = lane(lambda wait: to(server.url), built)
            waiting.start()
            wait_for("the request", lambda: server.requests)
            stop_all([waiting])
            wait_for("its end", lambda: waiting.done, 10)  # the server says nothing for 20 s
        assert waiting.error is None

    def test_a_bug_is_raised_where_it_is_seen(self, built: Built) -> None:
        def broken(wait: Wait) -> Endpoint:
            raise KeyError("oops")

        wrong = lane(broken, built)
        wrong.start()
        wait_for("its end", lambda: wrong.done)
        assert wrong.settled_answer().finish_reason == "error"
        with pytest.raises(KeyError, match="oops"):
            wrong.raise_bug()
