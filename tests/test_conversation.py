"""Conversation: what the next turn sends of what was said."""

from phi3kit.client import Answer, Request
from phi3kit.conversation import ChatTurn, Conversation
from phi3kit.errors import WorkerFailed
from phi3kit.records import FinishReason, Message
from tests.samples import turn

BROKE = WorkerFailed("The answer broke off.", "The worker is gone.", "Send it again.")


def said(text: str, answer: str, finish_reason: FinishReason = "stop") -> ChatTurn:
    error = BROKE if finish_reason == "error" else None
    return ChatTurn(text, Answer(answer, finish_reason), Request(text), "models:/m-1", "onnx", f"id of {text}", error)


class TestMessages:
    def test_a_first_message_is_sent_alone(self):
        assert Conversation().messages("", "Hi") == (Message("user", "Hi"),)

    def test_the_system_prompt_comes_first_and_as_it_was_written(self):
        assert Conversation().messages(" Be brief.\n", "Hi")[0] == Message("system", " Be brief.\n")

    def test_a_system_prompt_of_white_space_is_none(self):
        assert Conversation().messages(" \n\t", "Hi") == (Message("user", "Hi"),)

    def test_earlier_turns_are_sent_in_their_order_and_the_system_prompt_once(self):
        chat = Conversation(turns=[said("Capital of Spain?", "Madrid."), said("And of France?", "Paris.", "length")])
        assert chat.messages("Be brief.", "And of Greece?") == (
            Message("system", "Be brief."),
            Message("user", "Capital of Spain?"),
            Message("assistant", "Madrid."),
            Message("user", "And of France?"),
            Message("assistant", "Paris."),
            Message("user", "And of Greece?"),
        )

    def test_a_turn_without_a_token_is_left_out(self):
        chat = Conversation(turns=[said("One", "", "error"), said("Two", "", "cancelled"), said("Three", "3")])
        assert chat.messages("", "Four") == (
            Message("user", "Three"),
            Message("assistant", "3"),
            Message("user", "Four"),
        )

    def test_what_a_cancelled_or_failed_answer_had_said_is_kept(self):
        chat = Conversation(turns=[said("One", "Once upon", "cancelled"), said("Two", "It bro", "error")])
        assert [each.content for each in chat.messages("", "On")] == ["One", "Once upon", "Two", "It bro", "On"]

    def test_asking_does_not_change_the_conversation(self):
        chat = Conversation(turns=[said("One", "1")])
        assert chat.messages("", "Two") == chat.messages("", "Two")
        assert chat.turns == [said("One", "1")]


class TestSettle:
    def test_a_cancelled_turn_takes_the_counts_of_its_record_and_keeps_its_text(self):
        chat = Conversation(turns=[said("One", "Once upon", "cancelled")])
        chat.settle({"id of One": turn(completion_tokens=9, cached_prompt_tokens=3, duration_s=2.5)}.get)
        assert chat.turns[0].answer == Answer(
            "Once upon", "cancelled", prompt_tokens=10, cached_prompt_tokens=3, completion_tokens=9,
            time_to_first_token_s=0.5, duration_s=2.5, tokens_per_second=4.0,
        )  # fmt: skip

    def test_other_turns_and_turns_without_a_record_stay_as_they_are(self):
        chat = Conversation(turns=[said("One", "1"), said("Two", "It bro", "error"), said("Three", "3", "cancelled")])
        chat.settle({"id of One": turn(), "id of Two": turn()}.get)
        assert [turn.answer for turn in chat.turns] == [
            turn.answer for turn in (said("One", "1"), said("Two", "It bro", "error"), said("Three", "3", "cancelled"))
        ]


class TestConversation:
    def test_two_conversations_share_neither_id_nor_turns(self):
        one, two = Conversation(), Conversation()
        one.turns.append(said("One", "1"))
        assert one.id != two.id
        assert two.turns == []
