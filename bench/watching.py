"""Watching: something is looked at in a thread for as long as a block runs."""

import threading
from typing import Self


class Watching:
    """A context manager; what is looked at, and what is kept of it, is the subclass's: `_watch`."""

    def __init__(self) -> None:
        self._over = threading.Event()  # set when the block has ended
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        """Look until it is over."""
        raise NotImplementedError
