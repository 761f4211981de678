"""Conversation: a tree of turns, the shown branch, and the messages that the next turn sends."""

from dataclasses import replace

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import FinishReason, Message
from phi3kit.endpoints.records import Answer, Request
from tests.support.samples import turn

BROKE = WorkerFailed("The answer was interrupted.", "The worker is gone.", "Send it again.")


def said(
    text: str, answer: str, finish_reason: FinishReason = "stop", parent: str | None = None, **values: object
) -> ChatTurn:
    """A turn whose id is its text."""
    error = BROKE if finish_reason == "error" else None
    made = ChatTurn(text, Answer(answer, finish_reason), Request(text), "models:/m-1", "onnx", text, error)
    return replace(made, parent=parent, **values)  # type: ignore[arg-type]


def chain(*turns: ChatTurn) -> Conversation:
    """A conversation in which each turn follows the one before."""
    chat = Conversation()
    for each in turns:
        chat.add(replace(each, parent=chat.leaf))
    return chat


def sent(chat: Conversation, system_prompt: str, text: str) -> tuple[Message, ...]:
    return chat.messages(system_prompt, text, chat.leaf)


def texts(turns: list[ChatTurn]) -> list[str]:
    return [each.text for each in turns]


class TestMessages:
    def test_a_first_message_is_sent_alone(self):
        assert sent(Conversation(), "", "Hi") == (Message("user", "Hi"),)

    def test_the_system_prompt_comes_first_and_as_it_was_written(self):
        assert sent(Conversation(), " Be brief.\n", "Hi")[0] == Message("system", " Be brief.\n")

    def test_a_system_prompt_of_white_space_is_none(self):
        assert sent(Conversation(), " \n\t", "Hi") == (Message("user", "Hi"),)

    def test_earlier_turns_are_sent_in_their_order_and_the_system_prompt_once(self):
        chat = chain(said("Capital of Spain?", "Madrid."), said("And of France?", "Paris.", "length"))
        assert sent(chat, "Be brief.", "And of Greece?") == (
            Message("system", "Be brief."),
            Message("user", "Capital of Spain?"),
            Message("assistant", "Madrid."),
            Message("user", "And of France?"),
            Message("assistant", "Paris."),
            Message("user", "And of Greece?"),
        )

    def test_a_turn_without_a_token_is_left_out(self):
        chat = chain(said("One", "", "error"), said("Two", "", "cancelled"), said("Three", "3"))
        assert sent(chat, "", "Four") == (Message("user", "Three"), Message("assistant", "3"), Message("user", "Four"))

    def test_an_imported_message_without_an_answer_is_sent(self):
        chat = chain(said("One", "", wrapper=None), said("Two", "2"))
        assert [each.content for each in sent(chat, "", "Three")] == ["One", "Two", "2", "Three"]

    def test_what_a_cancelled_or_failed_answer_had_said_is_kept(self):
        chat = chain(said("One", "Once upon", "cancelled"), said("Two", "It bro", "error"))
        assert [each.content for each in sent(chat, "", "On")] == ["One", "Once upon", "Two", "It bro", "On"]

    def test_only_the_branch_is_sent_that_the_message_goes_on_from(self):
        chat = chain(said("One", "1"), said("Two", "2"))
        chat.add(said("Deux", "II", parent="One"))
        assert [each.content for each in chat.messages("", "Three", "Two")] == ["One", "1", "Two", "2", "Three"]
        assert [each.content for each in chat.messages("", "Three", "Deux")] == ["One", "1", "Deux", "II", "Three"]
        assert [each.content for each in chat.messages("", "Uno", None)] == ["Uno"]

    def test_a_continued_answer_is_sent_whole_and_once(self):
        chat = chain(said("One", "Once upon", "length"))
        chat.add(said("One again", " a time.", continues="One", begun="Once upon"))
        assert [each.content for each in sent(chat, "", "Two")] == ["One again", "Once upon a time.", "Two"]

    def test_asking_does_not_change_the_conversation(self):
        chat = chain(said("One", "1"))
        assert sent(chat, "", "Two") == sent(chat, "", "Two")
        assert texts(chat.turns) == ["One"]


class TestBranches:
    def tree(self) -> Conversation:
        """One - Two - Three, and beside Two: Deux - Trois."""
        chat = chain(said("One", "1"), said("Two", "2"), said("Three", "3"))
        chat.add(said("Deux", "II", parent="One"))
        chat.add(said("Trois", "III", parent="Deux"))
        return chat

    def test_what_was_made_last_is_shown(self):
        assert texts(self.tree().shown) == ["One", "Deux", "Trois"]

    def test_switching_shows_the_other_branch_to_its_end(self):
        chat = self.tree()
        chat.show("Two")
        assert texts(chat.shown) == ["One", "Two", "Three"]
        chat.show("Deux")
        assert texts(chat.shown) == ["One", "Deux", "Trois"]

    def test_siblings_stand_in_the_order_of_their_making(self):
        chat = self.tree()
        assert texts(chat.siblings(chat.shown[1])) == ["Two", "Deux"]
        assert texts(chat.siblings(chat.shown[0])) == ["One"]

    def test_what_another_tab_made_earlier_stands_before(self):
        chat = chain(said("One", "1", at=1.0), said("Later", "2", at=3.0))
        chat.merge([said("Earlier", "3", parent="One", at=2.0)])
        assert texts(chat.siblings(chat.shown[1])) == ["Earlier", "Later"]
        chat.show("One")
        assert texts(chat.shown) == ["One", "Later"]

    def test_an_answer_that_was_completed_steps_back_until_the_completion_is_gone(self):
        chat = chain(said("One", "Once upon", "length"))
        chat.add(said("Whole", " a time.", continues="One", begun="Once upon"))
        assert texts(chat.siblings(chat.shown[0])) == ["Whole"]
        chat.remove(["Whole"])
        assert texts(chat.shown) == ["One"]
        assert texts(chat.siblings(chat.shown[0])) == ["One"]

    def test_a_completed_answer_that_was_gone_on_from_stays_a_branch(self):
        chat = chain(said("One", "Once upon", "length"), said("Two", "2"))
        chat.add(said("Whole", " a time.", continues="One", begun="Once upon"))
        assert texts(chat.siblings(chat.shown[0])) == ["One", "Whole"]

    def test_removing_takes_all_that_goes_on_from_it_and_shows_the_branch_beside(self):
        chat = self.tree()
        chat.remove(["Deux"])
        assert texts(chat.turns) == ["One", "Two", "Three"]
        assert texts(chat.shown) == ["One", "Two", "Three"]

    def test_removing_the_only_branch_shows_what_was_before(self):
        chat = chain(said("One", "1"), said("Two", "2"))
        chat.remove(["Two"])
        assert texts(chat.shown) == ["One"]
        chat.remove(["One"])
        assert (chat.shown, chat.leaf, chat.turns) == ([], None, [])

    def test_removing_a_branch_that_is_not_shown_changes_nothing_on_the_page(self):
        chat = self.tree()
        chat.remove(["Two"])
        assert texts(chat.shown) == ["One", "Deux", "Trois"]

    def test_a_circle_of_parents_does_not_hang(self):
        chat = Conversation(turns=[said("A", "1", parent="B"), said("B", "2", parent="A")], leaf="B")
        assert texts(chat.shown) == ["A", "B"]


class TestMerge:
    def test_the_union_of_both_is_there_and_the_shown_branch_stays(self):
        here, there = chain(said("One", "1")), chain(said("One", "1"))
        here.add(said("Here", "h", parent="One"))
        there.add(said("There", "t", parent="One"))
        assert here.merge(there.turns) == 1
        assert texts(here.turns) == ["One", "Here", "There"]
        assert texts(here.shown) == ["One", "Here"]

    def test_a_settled_turn_takes_the_place_of_the_same_one(self):
        here = chain(said("One", "Once upon", "cancelled"))
        there = replace(here.turns[0], settled=True, answer=replace(here.turns[0].answer, completion_tokens=9))
        assert here.merge([there]) == 0
        assert here.turns == [there]
        assert here.merge([said("One", "Once upon", "cancelled")]) == 0
        assert here.turns == [there]


class TestName:
    def test_the_first_message_stands_for_it_on_one_line(self):
        assert chain(said("  What is\nMLflow? ", "…")).name == "What is MLflow?"

    def test_a_long_one_is_shortened(self):
        name = chain(said("word " * 40, "…")).name
        assert len(name) <= 60
        assert name.endswith("word…")

    def test_a_given_title_wins(self):
        chat = chain(said("One", "1"))
        chat.title = "Counting"
        assert chat.name == "Counting"

    def test_an_empty_one_has_a_name_too(self):
        assert Conversation().name == "New chat"


class TestSettle:
    def test_a_cancelled_turn_takes_the_counts_of_its_record_and_keeps_its_text(self):
        chat = chain(said("One", "Once upon", "cancelled"))
        assert chat.settle({"One": turn(completion_tokens=9, cached_prompt_tokens=3, duration_s=2.5)}.get)
        assert chat.turns[0].answer == Answer(
            "Once upon", "cancelled", prompt_tokens=10, cached_prompt_tokens=3, completion_tokens=9,
            time_to_first_token_s=0.5, duration_s=2.5, tokens_per_second=4.0,
        )  # fmt: skip

    def test_other_turns_and_turns_without_a_record_stay_as_they_are(self):
        made = [said("One", "1"), said("Two", "It bro", "error"), said("Three", "3", "cancelled")]
        chat = chain(*made)
        chat.settle({"One": turn(), "Two": turn()}.get)
        assert [each.answer for each in chat.turns] == [each.answer for each in made]

    def test_a_turn_whose_record_comes_late_takes_its_counts_then(self):
        chat = chain(said("One", "", "cancelled"))
        assert not chat.settle(lambda turn_id: None)  # the worker still reads its prompt
        assert chat.settle({"One": turn(prompt_tokens=3000, completion_tokens=0)}.get)
        assert (chat.turns[0].answer.prompt_tokens, chat.turns[0].settled) == (3000, True)

    def test_a_settled_turn_is_not_looked_up_again(self):
        chat = chain(replace(said("One", "1", "cancelled"), at=1.0))  # long ago: there will be no record
        assert chat.settle(lambda turn_id: None)
        assert not chat.settle(lambda turn_id: 1 / 0)


class TestCut:
    def test_an_answer_that_has_a_beginning_and_no_end_is_cut(self):
        reasons: tuple[FinishReason, ...] = ("stop", "length", "cancelled", "error")
        assert [said("One", "1", reason).cut for reason in reasons] == [False, True, True, True]
        assert not said("One", "", "cancelled").cut


class TestConversation:
    def test_two_conversations_share_neither_id_nor_turns(self):
        one, two = Conversation(), Conversation()
        one.turns.append(said("One", "1"))
        assert one.id != two.id
        assert two.turns == []

    def test_what_is_added_is_unsaved(self):
        assert not Conversation().unsaved
        assert chain(said("One", "1")).unsaved
