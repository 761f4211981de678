"""Ending: Ctrl-C and SIGTERM become exceptions, so that a command's clean-up runs.

Knows signals. Does not know what a command takes back or keeps.
"""

import signal
import sys


class Ending:
    """Raises KeyboardInterrupt or SystemExit at the first signal, and ignores a second one."""

    def __init__(self) -> None:
        self._told: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._tell)
        self._others = sys.unraisablehook
        sys.unraisablehook = self._swallowed

    def _swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Print no traceback when the signal came inside a destructor or a callback of C; `again` raises it."""
        if not isinstance(unraisable.exc_value, (KeyboardInterrupt, SystemExit)):
            self._others(unraisable)

    def _tell(self, number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        self._told = number
        self.again()

    def again(self) -> None:
        """Raise the signal that came, if any: a destructor or a callback of C may have swallowed it."""
        if self._told == signal.SIGINT:
            raise KeyboardInterrupt
        if self._told is not None:
            sys.exit(128 + self._told)
