"""Growing answers: each turn is handed over once, whoever ends it."""

import threading
from collections.abc import Callable

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.growing_answer import Growing, GrowingAnswer, GrowingAnswers, Pending
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints.lanes import FindEndpoint, Lane
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.targets import Target
from tests.conftest import Built
from tests.endpoints.test_remote import to
from tests.support.actors import admin
from tests.support.scripted_server import scripted
from tests.support.waiting import wait_for

TEXT = "What is the capital of Spain?"
REQUEST = Request((Message("user", TEXT),))
TARGET = Target("a model", "onnx", "models:/m-1", 4096)


def growing(find: FindEndpoint, settings: Settings, kept: list[ChatTurn], begun: str = "") -> GrowingAnswer:
    context = TurnContext(actor=admin("maria"), origin="ui")
    return GrowingAnswer(Lane(find, REQUEST, context, settings), TARGET, TEXT, kept.append, begun)


class TestGrowingAnswer:
    def test_its_turn_is_there_when_it_ends_by_itself(self, built: Built, onnx_endpoint: Endpoint):
        kept: list[ChatTurn] = []
        answer = growing(lambda wait: onnx_endpoint, built.settings, kept)
        answer.start()
        wait_for("its end", lambda: answer.ended)
        answer.stop()
        (turn,) = kept
        assert (turn.text, turn.answer.text, turn.answer.finish_reason, turn.wrapper) == (
            TEXT, "The capital of Spain is Madrid.", "stop", "onnx",
        )  # fmt: skip
        assert turn.turn_id == answer.lane.context.turn_id

    def test_a_stop_does_not_wait_for_a_model_that_is_loaded(self, built: Built, onnx_endpoint: Endpoint):
        kept: list[ChatTurn] = []
        loaded = threading.Event()

        def find(wait: Callable[[str], None]) -> Endpoint:
            wait("Loading the model")
            loaded.wait(120)
            return onnx_endpoint

        answer = growing(find, built.settings, kept)
        answer.start()
        wait_for("the wait", lambda: answer.lane.waits_for == "Loading the model")
        answer.stop()
        assert (answer.ended, loaded.is_set()) == (True, False)
        loaded.set()
        wait_for("the thread's end", lambda: answer.lane.done)
        (turn,) = kept
        assert (turn.answer.finish_reason, turn.answer.text, turn.settled) == ("cancelled", "", True)

    def test_an_error_is_kept_with_its_turn(self, built: Built):
        kept: list[ChatTurn] = []

        def fail(wait: Callable[[str], None]) -> Endpoint:
            raise WorkerFailed("It did not start.", "There is no memory.", "Close something.")

        answer = growing(fail, built.settings, kept)
        answer.start()
        wait_for("its end", lambda: answer.ended)
        (turn,) = kept
        assert (turn.error and turn.error.what, turn.answer.finish_reason) == ("It did not start.", "error")

    def test_nothing_is_shown_before_there_is_something_new(self, built: Built):
        with scripted(b"", hold_open_s=20) as server:
            answer = growing(lambda wait: to(server.url), built.settings, [], begun="One, two,")
            answer.start()
            wait_for("the request", lambda: server.requests)
            assert answer.shown == ""
            answer.stop()


class TestGrowingAnswers:
    def test_one_is_found_by_its_own_user_until_it_has_ended(self):
        answers, conversation = GrowingAnswers(), Conversation()
        question = Pending(TEXT, None)
        answers.keep("ada", Growing(conversation, question))
        assert answers.find("ada", conversation.id) == (conversation, question)
        assert answers.find("bob", conversation.id) is None
        assert answers.find("ada", "another") is None
        question.answered = True
        assert answers.find("ada", conversation.id) is None
