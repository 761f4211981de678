"""Growing answer: one that is being written, whichever page is open; its turn is handed over once, however it ends.

Knows lanes and turns, and which conversation an answer belongs to. Draws nothing; a page looks at it from time to time.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from phi3kit.conversations.conversation import ChatTurn, Conversation
from phi3kit.endpoints.lanes import Lane, stop_all
from phi3kit.endpoints.targets import Target


class GrowingAnswer:
    """An answer and the thread that reads it."""

    def __init__(
        self, lane: Lane, target: Target, text: str, on_end: Callable[[ChatTurn], None], begun: str = ""
    ) -> None:
        """text: what the person wrote. on_end: gets the turn, from whichever thread ends it. begun: what it goes on from."""
        self.lane, self.target = lane, target
        self._text, self._on_end, self._begun = text, on_end, begun
        self._guard = threading.Lock()
        self.ended = False  # then the turn has been handed over

    @property
    def shown(self) -> str:
        """The whole answer so far, with what it goes on from; empty until there is something new."""
        return self._begun + self.lane.answer.text if self.lane.answer.text else ""

    def start(self) -> None:
        """Begin."""
        self.lane.start(self._end)

    def stop(self) -> None:
        """End it; what came so far is kept. Waits a moment for its end, but not for a model that is being loaded."""
        stop_all([self.lane])
        self._end()

    def _end(self) -> None:
        with self._guard:
            if self.ended:
                return
            try:
                self._on_end(turn_of(self.lane, self._text, self.target))
            finally:
                self.ended = True


@dataclass
class Pending:
    """A question to be sent by the next run of the page, and the answer that grows.

    A run that is ended before it sends, or before the answer has ended, leaves it to the next.
    """

    text: str
    parent: str | None  # the turn that it goes on from
    continues: ChatTurn | None = None  # the cut answer to complete
    model_uri: str | None = None  # another model than the chosen one
    answer: GrowingAnswer | None = None  # since it was sent
    answered: bool = False


class Growing(NamedTuple):
    """A conversation, and its question whose answer grows."""

    conversation: Conversation
    question: Pending


class GrowingAnswers:
    """The answers that grow, by user and conversation: a tab that is loaded anew finds its own. Safe from several threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._found: dict[tuple[str, str], Growing] = {}

    def keep(self, user: str, growing: Growing) -> None:
        """Remember one until it has ended."""
        with self._guard:
            self._found = {key: each for key, each in self._found.items() if not each.question.answered}
            self._found[user, growing.conversation.id] = growing

    def find(self, user: str, conversation_id: str) -> Growing | None:
        """The one of a user's conversation; None when nothing grows there."""
        with self._guard:
            found = self._found.get((user, conversation_id))
        return None if found is None or found.question.answered else found


def turn_of(lane: Lane, text: str, target: Target) -> ChatTurn:
    """What a lane has come to. text: what the person wrote."""
    return ChatTurn(
        text, lane.settled_answer(), lane.request, target.model_uri, target.wrapper, lane.context.turn_id, lane.error,
        settled=not lane.sent,  # a request that was not sent has recorded nothing to wait for
    )  # fmt: skip
