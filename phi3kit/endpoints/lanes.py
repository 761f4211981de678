"""Lanes: several answers side by side, each read by a thread of its own into a plain object.

Knows threads and the client. Draws nothing; a page polls the lanes.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import Endpoint
from phi3kit.core.settings import Settings
from phi3kit.endpoints import client
from phi3kit.endpoints.records import Answer, Request, TurnContext
from phi3kit.endpoints.transport import Cancellation

_log = logging.getLogger(__name__)
FindEndpoint = Callable[[Callable[[str], None]], Endpoint]


class Lane:
    """One request. Its attributes are written by its thread alone and may be read at any time."""

    def __init__(self, find: FindEndpoint, request: Request, context: TurnContext, settings: Settings) -> None:
        """find: gives the endpoint; it calls its argument with what is being waited for."""
        self.request, self.context = request, context
        self.answer = Answer()
        self.waits_for: str | None = "Starting"  # None once there is text, or an end
        self.sent = False  # then there is, or will be, a record of it
        self.error: Phi3KitError | None = None
        self._bug: Exception | None = None
        self._find, self._settings = find, settings
        self._cancellation = Cancellation()
        self._thread: threading.Thread | None = None

    def start(self, on_end: Callable[[], None] = lambda: None) -> None:
        """Begin. on_end: called by the thread, as the last thing that it does."""
        self._thread = threading.Thread(target=self._read, args=(on_end,), name="lane", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether nothing is under way: it has ended, well or not, or has not begun."""
        return self._thread is None or not self._thread.is_alive()

    def stop(self) -> None:
        """End it now; `answer` keeps what came."""
        self._cancellation.cancel()

    def settled_answer(self) -> Answer:
        """The answer with a finish reason, whatever ended it."""
        failed = self.error or self._bug
        return (
            self.answer
            if self.answer.finish_reason
            else replace(self.answer, finish_reason="error" if failed else "cancelled")
        )

    def raise_bug(self) -> None:
        """Raise what ended it, where that is a bug, in the thread that shows it."""
        if self._bug:
            raise self._bug

    def _read(self, on_end: Callable[[], None]) -> None:
        try:
            endpoint = self._find(self._wait_for)
            if self._cancellation.cancelled:
                return
            self.sent = True
            self._wait_for("Asking")
            for answer in client.stream(endpoint, self.request, self.context, self._settings, self._cancellation):
                self.answer = answer
                if answer.text or answer.completion_tokens:
                    self.waits_for = None
                elif answer.queue_place:
                    self._wait_for(f"Queued at position {answer.queue_place}")
                else:
                    self._wait_for("Reading the prompt")
                if self._cancellation.cancelled:  # perhaps before there was a connection
                    return
        except Phi3KitError as error:
            self.error = error
        except Exception as error:
            _log.exception("An answer was ended by a mistake of phi3kit.")  # its reader may be on another page
            self._bug = error
        finally:
            self.waits_for = None
            on_end()

    def _wait_for(self, what: str) -> None:
        self.waits_for = what


def stop_all(lanes: Sequence[Lane], patience_s: float = 2.0) -> None:
    """Stop the lanes, and wait so long for their ends."""
    for lane in lanes:
        lane.stop()
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and not all(lane.done for lane in lanes):
        time.sleep(0.01)
