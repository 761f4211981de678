"""Waiting for what another process or thread does; a test that waits says what for."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
import psutil

Found = TypeVar("Found")


def wait_for(what: str, find: Callable[[], Found | None], seconds: float = 300) -> Found:
    """What `find` gives once it is neither None nor False."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := find():
            return found
        time.sleep(0.05)
    raise AssertionError(f"after {seconds} s still not: {what}")


# One for all questions: making a client reads all certificates of the machine, and a wait asks 20 times a second.
_client = httpx2.Client(timeout=5, limits=httpx2.Limits(max_keepalive_connections=0))


def answers(url: str) -> bool:
    """Whether a server answers there, and with 200."""
    try:
        return _client.get(url).status_code == 200
    except httpx2.HTTPError:
        return False


def wait_for_server(
    url: str, process: "subprocess.Popen[str] | subprocess.Popen[bytes]", said: Callable[[], str] = lambda: ""
) -> None:
    """Wait until a server answers at a URL; its process must not end before. said: what it wrote, if it did."""

    def ready() -> bool:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}: {said()}"
        return answers(url)

    wait_for(f"an answer from {url}", ready)


def has_ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has reaped yet has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
