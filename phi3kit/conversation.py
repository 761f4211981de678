"""Conversation: the turns of one chat, and the messages that the next turn sends.

Knows what belongs to the history. Sends nothing, draws nothing.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from phi3kit.client import Answer, Request
from phi3kit.errors import Phi3KitError
from phi3kit.records import Message, Served, TurnRecord


@dataclass(frozen=True)
class ChatTurn:
    """What was said, and what came of it."""

    text: str  # the user's message, or the raw prompt
    answer: Answer
    request: Request
    model_uri: str
    wrapper: Served
    turn_id: str
    error: Phi3KitError | None = None
    settled: bool = False  # a cancelled turn that has the counts of its record


@dataclass
class Conversation:
    """A list of turns that grows at its end."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[ChatTurn] = field(default_factory=list)

    def settle(self, find: Callable[[str], TurnRecord | None]) -> None:
        """Give cancelled turns the counts of their record.

        The page stops reading before the worker stops writing, by a token or two; what was logged is what it cost.
        find: a turn's record by its id, None when it is not there (yet).
        """
        for index, turn in enumerate(self.turns):
            if turn.answer.finish_reason != "cancelled" or turn.settled:
                continue
            answer = turn.answer
            if record := find(turn.turn_id):
                answer = replace(
                    answer,
                    prompt_tokens=record.prompt_tokens,
                    cached_prompt_tokens=record.cached_prompt_tokens,
                    completion_tokens=record.completion_tokens,
                    time_to_first_token_s=record.time_to_first_token_s,
                    duration_s=record.duration_s,
                    tokens_per_second=record.tokens_per_second,
                )
            self.turns[index] = replace(turn, answer=answer, settled=True)

    def messages(self, system_prompt: str, text: str) -> tuple[Message, ...]:
        """The messages to send with the next `text`. A turn that failed before its first token is left out."""
        messages = [Message("system", system_prompt)] if system_prompt.strip() else []
        for turn in self.turns:
            if turn.answer.text:
                messages += [Message("user", turn.text), Message("assistant", turn.answer.text)]
        return (*messages, Message("user", text))
