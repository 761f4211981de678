"""Live processes: which of the processes that are making turns still live.

A process holds a lock for as long as it lives, and the operating system lets go of it however the process ends. Its id
would not do: it is given again, and means nothing to a process in another container that shares the data folder.
"""

import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_YOUNG_S = 3600.0  # a lock's file that is younger may be about to be locked


class LiveProcesses:
    """The locks in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._lock: FileLock | None = None

    def own_name(self) -> str:
        """The name of the lock that this process holds from now on. Raises OSError or Timeout."""
        with self._guard:
            if self._lock is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(self._folder / f"{os.getpid()}-{secrets.token_hex(8)}")
                lock.acquire(timeout=0)
                self._lock = lock
            return Path(self._lock.lock_file).name

    def is_gone(self, owner: str) -> bool:
        """Whether the process behind a name has ended."""
        path = self._folder / owner
        if self._lock is not None and owner == Path(self._lock.lock_file).name:
            return False
        if not path.exists():
            return True
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return False
        lock.release()
        return True

    def forget(self, owner: str) -> None:
        """Take away the lock's file of a process that has ended."""
        with suppress(OSError):
            (self._folder / owner).unlink()

    def tidy(self) -> None:
        """Take away what processes that ended have left."""
        for path in self._folder.glob("*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _YOUNG_S and self.is_gone(path.name):
                    path.unlink()
