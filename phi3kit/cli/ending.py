"""Ending: a command that is told to end, by Ctrl-C or SIGTERM, takes back what it half did and keeps what it has.

Knows signals. What is taken back or kept, each command's own clean-up knows.
"""

import signal
import sys


class Ending:
    """Both signals become exceptions, which every clean-up sees; the first one is not interrupted by a second."""

    def __init__(self) -> None:
        self._told: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)
        self._others = sys.unraisablehook
        sys.unraisablehook = self._swallowed

    def _swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """The signal came inside a destructor or a callback of C: `again` raises it, and no traceback is printed."""
        if not isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)):
            self._others(unraisable)

    def _tell(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        self._told = number
        self.again()

    def again(self) -> None:
        """Raise what was told, if anything was: a destructor or a callback from C may have swallowed it."""
        if self._told == signal.SIGINT:
            raise KeyboardInterrupt
        if self._told is not None:
            sys.exit(128 + self._told)
