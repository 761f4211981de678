"""A shared conversation in a team: its owner switches the link on, the others read it, a stranger does not."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from phi3kit.access.actor import Actor
from phi3kit.conversations.conversation import Conversation
from phi3kit.conversations.saved import SavedConversations
from phi3kit.conversations.shared import SharedConversations
from tests.conftest import Built
from tests.conversations.test_shared import turn
from tests.pages.test_access import BOB, TEAM, page_of
from tests.support.in_app import app_on, click, errors, label_of, open_page, words
from tests.support.samples import copy_of_store


def chat_of(app: AppTest, **link: str) -> AppTest:
    for name, value in link.items():
        app.query_params[name] = value
    app = app.switch_page("pages/chat.py").run()
    assert not app.exception, app.exception
    return app


def test_its_owner_switches_it_on_and_whoever_has_a_role_reads_it(built: Built, tmp_path: Path) -> None:
    home = copy_of_store(built.settings, tmp_path).home
    conversation = Conversation()
    conversation.add(turn("What is the capital of Spain?"))
    SavedConversations(home, BOB).save(conversation)
    with app_on(home, **TEAM):
        bobs = chat_of(page_of("bob", "home"), conversation=conversation.id)
        switch = next(each for each in bobs.toggle if "can read this conversation" in each.label)
        switch.set_value(True).run()
        token = SharedConversations(home).token(conversation.id, Actor(BOB, "user"))
        assert token is not None
        assert any(each.value.endswith(f"?shared={token}") for each in bobs.code)

        veras = chat_of(page_of("vera", "home"), shared=token)
        assert "Answer to What is the capital of Spain?" in words(veras)
        assert "What is the capital of Spain?" in [each.value for each in veras.text]
        assert [label_of(each) for each in veras.main.button] == ["Open your own chat"]
        assert len(veras.chat_input) == 0
        assert "Ask Phi-3" in [each.placeholder for each in click(veras, "Open your own chat").chat_input]

        switch.set_value(False).run()
        gone = chat_of(page_of("vera", "home"), shared=token)
        assert [each.value for each in gone.warning] == [
            "The conversation in this link does not exist or is no longer shared."
        ]


def test_a_stranger_is_refused(built: Built, tmp_path: Path) -> None:
    home = copy_of_store(built.settings, tmp_path).home
    with app_on(home, PHI3KIT_PROFILE="public"):
        app = chat_of(open_page("home"), shared="a token")
        assert [each.split(".")[0] for each in errors(app)] == [
            "You may not read conversations that others shared here"
        ]


def test_on_ones_own_machine_nothing_is_offered(built: Built, tmp_path: Path) -> None:
    settings = copy_of_store(built.settings, tmp_path)
    conversation = Conversation()
    conversation.add(turn("one"))
    SavedConversations(settings.home, settings.user).save(conversation)
    with app_on(settings.home):
        app = chat_of(open_page("home"), conversation=conversation.id)
        assert not [each for each in app.toggle if "can read this conversation" in each.label]
