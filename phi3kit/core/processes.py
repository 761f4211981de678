"""Processes: the log and the end of a child process. Knows nothing of what a child does."""

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def log_tail(log_file: Path, lines: int) -> list[str]:
    """The last lines of a log."""
    try:
        with log_file.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, maxlen=lines)]
    except OSError:
        return []


@contextmanager
def killed_after(seconds: float, kill: Callable[[], object]) -> Iterator[None]:
    """Kill a child whose work within the block takes longer. kill: does it."""
    timer = threading.Timer(seconds, kill)
    timer.daemon = True  # a process that is told to end at this moment does not wait for it
    try:
        timer.start()
        yield
    finally:
        timer.cancel()


def tell_to_end(process: subprocess.Popen[str]) -> None:
    """Close its pipes: a child that reads its stdin then ends."""
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def end(process: subprocess.Popen[str], grace_s: float = 5.0) -> None:
    """End a child and wait until it is gone."""
    tell_to_end(process)
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
