"""The open conversation: an answer that another tab asked for is taken up, and a question that was not sent is taken back."""

from streamlit.testing.v1 import AppTest

from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.growing_answer import Growing, GrowingAnswer, Pending
from phi3kit.core.records import Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints.lanes import Lane
from phi3kit.endpoints.records import Request, TurnContext
from phi3kit.endpoints.targets import Target
from phi3kit.ui.shared import resources
from tests.conversations.test_shared import turn
from tests.support.actors import ADMIN


def opener() -> None:
    import streamlit as st

    from phi3kit.ui.chat import open_conversation

    st.session_state["opened"] = open_conversation.current()
    st.session_state["growing"] = open_conversation.pending()
    if st.button("New"):
        open_conversation.new()
    open_conversation.name_in_address(st.session_state["conversation"])


def stopper() -> None:
    import streamlit as st

    from phi3kit.conversations.growing_answer import Pending
    from phi3kit.ui.chat import open_conversation

    st.session_state["chat_pending"] = Pending("What is MLflow?", None)
    st.session_state["stopped"] = open_conversation.stop_answer()
    st.session_state["left"] = open_conversation.pending()


def growing_in(settings: Settings) -> tuple[Growing, list[str]]:
    """An answer that grows in an app's other tab, and whether somebody stopped it."""
    stopped: list[str] = []

    class Watched(GrowingAnswer):
        def stop(self) -> None:
            stopped.append("stopped")

    request = Request((Message("user", "What is MLflow?"),))
    lane = Lane(lambda wait: None, request, TurnContext(actor=ADMIN, origin="ui"), settings)  # type: ignore[arg-type,return-value]
    target = Target("a model", "onnx", "models:/m-1", 4096)
    answer = Watched(lane, target, "What is MLflow?", lambda turn: None)
    growing = Growing(Conversation(), Pending("What is MLflow?", None, answer=answer))
    resources.kit().growing.keep(resources.settings().user, growing)
    return growing, stopped


class TestAnotherTabsAnswer:
    def test_is_taken_up_and_when_it_has_ended_each_tab_has_a_conversation_of_its_own(self, store: Settings) -> None:
        growing, stopped = growing_in(store)
        app = AppTest.from_function(opener, default_timeout=300)
        app.query_params["conversation"] = growing.conversation.id
        app.run()
        assert (app.session_state["opened"], app.session_state["growing"]) == growing
        growing.conversation.add(turn("What is MLflow?"))
        growing.question.answered = True
        app.run()
        mine = app.session_state["opened"]
        assert mine is not growing.conversation
        assert ([each.text for each in mine.turns], app.session_state["growing"]) == (["What is MLflow?"], None)
        mine.add(turn("two", "turn What is MLflow?"))
        assert len(growing.conversation.turns) == 1
        assert stopped == []

    def test_goes_on_when_this_tab_begins_a_new_chat(self, store: Settings) -> None:
        growing, stopped = growing_in(store)
        app = AppTest.from_function(opener, default_timeout=300)
        app.query_params["conversation"] = growing.conversation.id
        app.run()
        app.button[0].click().run()
        app.run()
        assert app.session_state["growing"] is None
        assert stopped == []


class TestStop:
    def test_before_a_question_is_sent_it_goes_back_into_the_composer(self, store: Settings) -> None:
        app = AppTest.from_function(stopper, default_timeout=300).run()
        assert not app.exception, app.exception
        assert (app.session_state["stopped"], app.session_state["left"]) == (False, None)
        assert app.session_state["chat_text"] == "What is MLflow?"
