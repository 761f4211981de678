"""Waiting for what another process or thread does; a test that waits says what for."""

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

Found = TypeVar("Found")


def wait_for(what: str, find: Callable[[], Found | None], seconds: float = 60) -> Found:
    """What `find` gives once it is neither None nor False."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {seconds} s still not: {what}")


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has reaped yet has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
