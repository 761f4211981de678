"""Supervisor: a process that runs one command, and ends it with all its descendants when stdin closes.

    python -m phi3kit.deployment.supervisor COMMAND…

Stdin closes however the app ends, so a server that knows nothing of the app does not outlive it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import psutil

from phi3kit.core.operating_system import end_group

_LOOK_S = 0.1
_GRACE_S = 4.0


def main(command: list[str]) -> int:
    """Run the command until it ends, stdin closes or SIGTERM comes. Returns its exit code."""
    to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: to_end.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 -- a list of our own making
    threading.Thread(target=_wait_for_parent, args=(to_end,), daemon=True).start()
    while child.poll() is None and not to_end.wait(_LOOK_S):
        pass
    _end_all(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait_for_parent(to_end: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    to_end.set()


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """Ask the command and its descendants to end, kill those that do not, and wait for them."""
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(child.pid).children(recursive=True)
    end_group(child.pid, kill=False)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    psutil.wait_procs(started, timeout=_GRACE_S)
    end_group(child.pid, kill=True)
    child.wait()
    psutil.wait_procs(started, timeout=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
