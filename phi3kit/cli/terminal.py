"""Terminal: what commands print commands no terminal; a file or a pipe gets it as it is.

Knows text streams. Knows no command.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from phi3kit.core.errors import without_controls


@contextmanager
def cleaned() -> Iterator[None]:
    """Within the block, what is printed to a terminal has no control characters: it may be a model's or a stranger's."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream.isatty():
                stack.enter_context(redirect(cast("TextIO", _Cleaned(stream))))
        yield


class _Cleaned:
    """A text stream; what is not about writing is the terminal's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(without_controls(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
