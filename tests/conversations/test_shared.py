"""Shared conversations: links that lead to whose words they are, as long as their owner wants."""

from pathlib import Path

import pytest

from phi3kit.access.actor import Actor
from phi3kit.access.people import People
from phi3kit.access.sign_in_claims import Person
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.saved import SavedConversations
from phi3kit.conversations.shared import SharedConversations
from phi3kit.core.errors import NotAllowed
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Answer, Request

ADAS, BOBS = (Person("https://id.example", name, None, ()) for name in ("ada", "bob"))
ADA, BOB, VERA = Actor(ADAS.name, "user"), Actor(BOBS.name, "user"), Actor("vera", "viewer")
OUTSIDE = [Actor("eve", "visitor"), Actor("", "nobody")]


def turn(text: str, parent: str | None = None) -> ChatTurn:
    request = Request((Message("user", text),))
    answer = Answer(text=f"Answer to {text}", finish_reason="stop")
    return ChatTurn(text, answer, request, "models:/m-1", "onnx", f"turn {text}", parent=parent)


@pytest.fixture
def conversation(tmp_path: Path) -> Conversation:
    """One of Ada's, saved."""
    for person in (ADAS, BOBS):
        People(tmp_path).note(person, "user")
    made = Conversation()
    made.add(turn("one"))
    SavedConversations(tmp_path, ADA.name).save(made)
    return made


@pytest.fixture
def shared(tmp_path: Path) -> SharedConversations:
    return SharedConversations(tmp_path)


class TestShared:
    def test_who_has_a_role_reads_it_as_it_is_now(
        self, tmp_path: Path, shared: SharedConversations, conversation: Conversation
    ):
        token = shared.share(conversation.id, ADA)
        assert shared.share(conversation.id, ADA) == token == shared.token(conversation.id, ADA)
        assert len(token) >= 32
        conversation.add(turn("two", "turn one"))
        SavedConversations(tmp_path, ADA.name).save(conversation)
        for reader in (BOB, VERA):
            found = shared.open(token, reader)
            assert found is not None
            assert (found.owner, [each.text for each in found.conversation.shown]) == (ADA.name, ["one", "two"])
        for stranger in OUTSIDE:
            with pytest.raises(NotAllowed):
                shared.open(token, stranger)

    def test_a_link_that_was_ended_leads_nowhere_and_a_new_one_is_another(
        self, shared: SharedConversations, conversation: Conversation
    ):
        token = shared.share(conversation.id, ADA)
        shared.end(conversation.id, ADA)
        assert (shared.open(token, BOB), shared.token(conversation.id, ADA)) == (None, None)
        assert shared.share(conversation.id, ADA) != token
        assert shared.open(token, BOB) is None

    def test_nobody_shares_or_ends_what_is_anothers(self, shared: SharedConversations, conversation: Conversation):
        token = shared.share(conversation.id, ADA)
        bobs = shared.share(conversation.id, BOB)  # a conversation of this id that Bob does not have
        assert shared.open(bobs, VERA) is None
        shared.end(conversation.id, BOB)
        assert shared.open(token, VERA) is not None
        with pytest.raises(NotAllowed):
            shared.share(conversation.id, VERA)

    def test_what_was_deleted_is_read_by_nobody(
        self, tmp_path: Path, shared: SharedConversations, conversation: Conversation
    ):
        token = shared.share(conversation.id, ADA)
        SavedConversations(tmp_path, ADA.name).delete(conversation.id)
        assert shared.open(token, BOB) is None
        for nonsense in ("", "%", token[:-1], conversation.id):
            assert shared.open(nonsense, BOB) is None

    def test_whoever_lost_the_role_shares_nothing(
        self, tmp_path: Path, shared: SharedConversations, conversation: Conversation
    ):
        token = shared.share(conversation.id, ADA)
        for role in ("viewer", "nobody"):
            People(tmp_path).note(ADAS, role)
            assert shared.open(token, BOB) is None
        People(tmp_path).note(ADAS, "user")
        assert shared.open(token, BOB) is not None
