"""Ending: Ctrl-C and SIGTERM become exceptions, so that a command's clean-up runs.

Knows signals, and that a statement of SQLAlchemy's is not to be left in its middle. Does not know what a command takes back or keeps.
"""

import signal
import sys
import time
from types import FrameType

_PAUSE_S, _PATIENCE_S = 0.02, 5.0  # between two looks, and altogether: what waits for a locked database is left


class Ending:
    """Raises KeyboardInterrupt or SystemExit at the first signal, and ignores a second one.

    A signal that comes while a statement of a database runs is raised behind it: SQLite's would stay open, and its lock keep the
    clean-up from writing. Where the system has no timer (Windows), it is raised at once.
    """

    def __init__(self) -> None:
        self._told: int | None = None
        self._latest = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)
        self._others = sys.unraisablehook
        sys.unraisablehook = self._swallowed

    def _swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Print no traceback when the signal came inside a destructor or a callback of C; `again` raises it."""
        if not isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)):
            self._others(unraisable)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        self._told, self._latest = number, time.monotonic() + _PATIENCE_S
        self._behind_a_statement(number, frame)

    def _behind_a_statement(self, _: int, frame: FrameType | None) -> None:
        if sys.platform != "win32" and time.monotonic() < self._latest and _in_a_statement(frame):
            signal.signal(signal.SIGALRM, self._behind_a_statement)
            signal.setitimer(signal.ITIMER_REAL, _PAUSE_S)
        else:
            self.again()

    def again(self) -> None:
        """Raise the signal that came, if any: a destructor or a callback of C may have swallowed it."""
        if sys.platform != "win32" and self._told is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._told == signal.SIGINT:
            raise KeyboardInterrupt
        if self._told is not None:
            sys.exit(128 + self._told)


def _in_a_statement(frame: FrameType | None) -> bool:
    """Whether SQLAlchemy runs in a frame, or has called what does."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith("sqlalchemy."):
            return True
        frame = frame.f_back
    return False
