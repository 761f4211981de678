"""Live processes: which of the processes that make turns are still alive.

Each holds a lock, which the operating system releases however the process ends. A process id would not do: ids are
reused, and mean nothing in another container that shares the data folder. Knows no turns.
"""

import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

_YOUNG_S = 3600.0  # the file of a younger lock may be about to be locked


class LiveProcesses:
    """The locks of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._own: FileLock | None = None  # held until this process ends

    def own_name(self) -> str:
        """The name of the lock that this process holds from now on. Raises OSError."""
        with self._guard:
            if self._own is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self._folder / f"{os.getpid()}-{secrets.token_hex(8)}")
                lock.acquire(timeout=0)
                self._own = lock
            return Path(self._own.lock_file).name

    def is_gone(self, name: str) -> bool:
        """Whether the process with the lock of this name has ended."""
        if self._own is not None and name == Path(self._own.lock_file).name:
            return False
        try:
            if (self._folder / name).exists():
                FileLock(self._folder / name).acquire(timeout=0).lock.release()
        except OSError:  # also filelock's Timeout
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove the lock file of a process that has ended."""
        with suppress(OSError):
            (self._folder / name).unlink()

    def tidy(self) -> None:
        """Remove the lock files of processes that have ended."""
        for path in self._folder.glob("*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _YOUNG_S and self.is_gone(path.name):
                    path.unlink()
