"""Growing answer: one that is being written, whichever page is open; its turn is handed over once, however it ends.

Knows lanes and turns. Draws nothing; a page looks at it from time to time.
"""

import threading
from collections.abc import Callable

from phi3kit.conversations.conversation import ChatTurn
from phi3kit.endpoints.lanes import Lane, stop_all
from phi3kit.endpoints.targets import Target


class GrowingAnswer:
    """An answer and the thread that reads it."""

    def __init__(
        self, lane: Lane, target: Target, text: str, on_end: Callable[[ChatTurn], None], begun: str = ""
    ) -> None:
        """text: what the person wrote. on_end: gets the turn, from whichever thread ends it. begun: what it goes on from."""
        self.lane = lane
        self._target, self._text, self._on_end, self._begun = target, text, on_end, begun
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
                self._on_end(turn_of(self.lane, self._text, self._target))
            finally:
                self.ended = True


def turn_of(lane: Lane, text: str, target: Target) -> ChatTurn:
    """What a lane has come to. text: what the person wrote."""
    return ChatTurn(
        text, lane.settled_answer(), lane.request, target.model_uri, target.wrapper, lane.context.turn_id, lane.error,
        settled=not lane.sent,  # a request that was not sent has recorded nothing to wait for
    )  # fmt: skip
