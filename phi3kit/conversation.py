"""Conversation: the turns of one chat, and the messages that the next turn sends.

Knows what belongs to the history. Sends nothing, draws nothing.
"""

import uuid
from dataclasses import dataclass, field

from phi3kit.client import Answer, Request
from phi3kit.errors import Phi3KitError
from phi3kit.records import Message, WrapperName


@dataclass(frozen=True)
class ChatTurn:
    """What was said, and what came of it."""

    text: str  # the user's message, or the raw prompt
    answer: Answer
    request: Request
    model_uri: str
    wrapper: WrapperName
    turn_id: str
    error: Phi3KitError | None = None


@dataclass
class Conversation:
    """A list of turns that grows at its end."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turns: list[ChatTurn] = field(default_factory=list)

    def messages(self, system_prompt: str, text: str) -> tuple[Message, ...]:
        """The messages to send with the next `text`. A turn that failed before its first token is left out."""
        messages = [Message("system", system_prompt)] if system_prompt.strip() else []
        for turn in self.turns:
            if turn.answer.text:
                messages += [Message("user", turn.text), Message("assistant", turn.answer.text)]
        return (*messages, Message("user", text))
