"""Saved conversations: kept per user, found again, and the union of what two tabs did."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from phi3kit.conversations.chat_settings import ChatSettings
from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.conversations.saved import SavedConversations
from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.records import Message
from phi3kit.endpoints.records import Answer

HOSTILE = "Ελλάδα 日本 \0 <script>alert(1)</script> ' \" ; drop table turns; -- \u2028"


@pytest.fixture
def store(tmp_path: Path) -> SavedConversations:
    return SavedConversations(tmp_path, "ada")


def add(chat: Conversation, text: str, answer: str = "yes", parent: str | None = "leaf", **values: object) -> ChatTurn:
    """A turn as the page makes one; its id is its text."""
    at = chat.leaf if parent == "leaf" else parent
    settings = ChatSettings("Be brief.", temperature=0.5, seed=7, stop=("END",), max_tokens=64)
    prompt = chat.messages(settings.system_prompt, text, at)
    made = ChatTurn(text, Answer(answer, "stop", 0, 10, 2, 5, 0.1, 0.5, 40.0), settings.request(prompt), "models:/m-1",
                    "onnx", text, parent=at)  # fmt: skip
    chat.add(replace(made, **values))  # type: ignore[arg-type]
    return chat.turns[-1]


def opened(store: SavedConversations, chat: Conversation) -> Conversation:
    """The same conversation in another tab."""
    found = store.open(chat.id)
    assert found is not None
    return found


class TestRoundTrip:
    def test_everything_of_every_branch_comes_back(self, store: SavedConversations):
        chat = Conversation()
        add(chat, "One", HOSTILE)
        add(chat, HOSTILE)
        error = Phi3KitError("What.", "Why.", "Next.")
        add(chat, "Deux", parent="One", error=error, settled=True, continues=HOSTILE, begun="It was")
        store.save(chat)
        found = opened(store, chat)
        assert [replace(each, error=None) for each in found.turns][:2] == chat.turns[:2]
        third, ours = found.turns[2], chat.turns[2]
        assert (third.error.what, third.error.why, third.error.next_step) == ("What.", "Why.", "Next.")  # type: ignore[union-attr]
        assert (third.begun, third.continues, third.settled, third.at) == ("It was", HOSTILE, True, ours.at)
        assert third.request.continues
        assert third.request.prompt == (*ours.request.prompt, Message("assistant", "It was"))
        assert (found.leaf, found.name, found.id) == ("Deux", "One", chat.id)

    def test_the_messages_before_a_turn_are_kept_once(self, store: SavedConversations, tmp_path: Path):
        chat = Conversation()
        add(chat, "first " * 2000)
        for number in range(50):
            add(chat, f"turn {number}")
        store.save(chat)
        assert (tmp_path / "conversations.db").stat().st_size < 150_000
        assert opened(store, chat).turns[-1].request.prompt == chat.turns[-1].request.prompt

    def test_an_unknown_one_is_none(self, store: SavedConversations):
        assert store.open("../../etc/passwd") is None

    def test_another_user_neither_finds_nor_opens_nor_deletes_it(self, store: SavedConversations, tmp_path: Path):
        chat = Conversation()
        add(chat, "One")
        store.save(chat)
        other = SavedConversations(tmp_path, "bob")
        other.delete(chat.id)
        other.rename(chat.id, "Mine")
        assert other.find() == ([], 0)
        assert other.open(chat.id) is None
        assert opened(store, chat).name == "One"

    def test_among_some_ids_those_of_saved_ones_are_known_and_no_other_users(
        self, store: SavedConversations, tmp_path: Path
    ):
        kept, deleted = Conversation(), Conversation()
        for chat in (kept, deleted):
            add(chat, "One")
            store.save(chat)
        store.delete(deleted.id)
        ids = [kept.id, deleted.id, "a batch"]
        assert store.among(ids) == {kept.id}
        assert store.among([]) == set()
        assert SavedConversations(tmp_path, "bob").among(ids) == set()

    def test_the_file_is_for_its_owner_alone(self, store: SavedConversations, tmp_path: Path):
        store.find()
        assert (tmp_path / "conversations.db").stat().st_mode & 0o077 == 0


class TestFind:
    def test_the_newest_is_first_and_pages_add_up(self, store: SavedConversations):
        for number in range(7):
            chat = Conversation()
            add(chat, f"chat {number}")
            store.save(chat)
        first, total = store.find(limit=5)
        rest, _ = store.find(limit=5, offset=5)
        assert total == 7
        assert [each.name for each in first + rest] == [f"chat {number}" for number in range(6, -1, -1)]

    @pytest.mark.parametrize("text", ["madrid", "MADRID", "ισπανία", "スペイン", "%", "title"])
    def test_name_messages_and_answers_are_searched_whatever_the_case(self, store: SavedConversations, text: str):
        chat, other = Conversation(title="A Title"), Conversation()
        add(chat, "Capital of ΙΣΠΑΝΊΑ, スペイン? 100 %", "It is Madrid.")
        add(other, "Something else")
        store.save(chat)
        store.save(other)
        found, total = store.find(f" {text} ")
        assert ([each.id for each in found], total) == ([chat.id], 1)

    def test_a_deleted_turn_is_not_found(self, store: SavedConversations):
        chat = Conversation()
        add(chat, "One")
        add(chat, "Secret")
        store.save(chat)
        store.remove(chat, "Secret")
        assert store.find("secret") == ([], 0)
        assert [(each.name, each.turns) for each in store.find()[0]] == [("One", 1)]


class TestTwoTabs:
    def test_both_tabs_turns_are_kept_as_branches_and_each_is_told(self, store: SavedConversations):
        here = Conversation()
        add(here, "One")
        store.save(here)
        there = opened(store, here)
        add(here, "Here")
        store.save(here)
        add(there, "There")
        store.save(there)  # knows nothing of "Here"
        assert store.refresh(here).new_turns == 1
        assert store.refresh(there).new_turns == 1
        assert {each.text for each in here.turns} == {each.text for each in there.turns} == {"One", "Here", "There"}
        assert [each.text for each in here.shown] == ["One", "Here"]
        assert store.refresh(here).new_turns == 0
        assert {each.text for each in opened(store, here).turns} == {"One", "Here", "There"}

    def test_a_turn_that_was_deleted_elsewhere_goes_and_is_not_brought_back_by_a_save(self, store: SavedConversations):
        here = Conversation()
        add(here, "One")
        add(here, "Two")
        store.save(here)
        there = opened(store, here)
        store.remove(here, "Two")
        assert store.save(there) is False
        assert store.refresh(there).deleted_turns == 1
        assert [each.text for each in there.turns] == ["One"]

    def test_who_goes_on_from_a_deleted_turn_brings_it_back(self, store: SavedConversations):
        here = Conversation()
        add(here, "One")
        add(here, "Two")
        store.save(here)
        there = opened(store, here)
        store.remove(here, "Two")
        add(there, "Three")
        assert store.refresh(there).deleted_turns == 0  # nothing unsaved is lost
        assert store.save(there) is True
        assert [each.text for each in opened(store, here).shown] == ["One", "Two", "Three"]

    def test_a_conversation_that_was_deleted_elsewhere_is_told_and_saved_again_by_going_on(
        self, store: SavedConversations
    ):
        here = Conversation()
        add(here, "One")
        store.save(here)
        there = opened(store, here)
        store.delete(here.id)
        assert store.open(here.id) is None
        assert store.refresh(there).deleted
        assert not store.refresh(there).deleted  # told once
        add(there, "Two")
        assert store.save(there) is True
        assert [each.text for each in opened(store, here).shown] == ["One", "Two"]

    def test_a_new_title_is_seen_by_the_other_tab_and_not_undone_by_its_save(self, store: SavedConversations):
        here = Conversation()
        add(here, "One")
        store.save(here)
        there = opened(store, here)
        store.rename(here.id, "  A new\ntitle ")
        store.refresh(there)
        add(there, "Two")
        store.save(there)
        assert there.name == "A new title"
        assert [each.name for each in store.find()[0]] == ["A new title"]

    def test_counts_that_came_later_are_kept(self, store: SavedConversations):
        chat = Conversation()
        made = add(chat, "One", answer="Once")
        store.save(chat)
        chat.turns[0] = replace(made, settled=True, answer=replace(made.answer, completion_tokens=9))
        store.save(chat)
        assert opened(store, chat).turns[0].answer.completion_tokens == 9


class TestDelete:
    def test_the_text_is_gone_from_the_file(self, store: SavedConversations, tmp_path: Path):
        chat = Conversation()
        add(chat, "a very secret question", "a very secret answer")
        store.save(chat)
        store.delete(chat.id)
        with sqlite3.connect(tmp_path / "conversations.db") as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
        assert b"very secret" not in (tmp_path / "conversations.db").read_bytes()

    def test_deleting_twice_or_what_is_not_there_is_nothing(self, store: SavedConversations):
        store.delete("nothing")
        store.delete("nothing")
        assert store.find() == ([], 0)


class TestBroken:
    def test_a_file_that_is_no_database_is_explained(self, store: SavedConversations, tmp_path: Path):
        (tmp_path / "conversations.db").write_text("not a database, whatever it says" * 100)
        with pytest.raises(StorageFailed, match=r"conversations\.db: file is not a database"):
            store.find()

    @pytest.mark.parametrize("record", ["{}", "[" * 100_000], ids=len)
    def test_a_damaged_turn_is_explained(self, store: SavedConversations, tmp_path: Path, record: str):
        chat = Conversation()
        add(chat, "One")
        store.save(chat)
        with sqlite3.connect(tmp_path / "conversations.db") as connection:
            connection.execute("update turns set record = ?", (record,))
        with pytest.raises(StorageFailed, match="damaged"):
            store.open(chat.id)
