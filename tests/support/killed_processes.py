"""Processes that make, keep and write turns, and are killed while they do: python -m tests.support.killed_processes HOME KILLS SEED.

One process makes turns, as a worker does; two write them, as two apps that share a data folder do. Everything is
imported before they are forked, so that a kill costs milliseconds and not the seconds of MLflow's import.
"""

import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable

from phi3kit.core.settings import Settings, read_settings
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.writer import write_waiting
from tests.support.samples import turn


def make_turns(settings: Settings) -> None:
    """Begin and keep turns for ever; the id of each that was kept goes into a file that outlives the process."""
    outbox = Outbox(settings.home)
    kept = os.open(settings.home / "kept.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        made = turn(uuid.uuid4().hex, at=time.time())
        outbox.begin(made)
        time.sleep(0.01)
        assert outbox.add(made)
        os.write(kept, f"{made.turn_id}\n".encode())
        time.sleep(0.12)


def write_turns(settings: Settings) -> None:
    """Write turns for ever."""
    while True:
        write_waiting(settings)
        time.sleep(0.02)


def fork(work: Callable[[Settings], None], settings: Settings) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work(settings)
        finally:
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main(home: str, kills: str, seed: str) -> None:
    settings = read_settings({"PHI3KIT_HOME": home})
    chance = random.Random(int(seed))
    works = (make_turns, write_turns, write_turns)
    pids = [fork(work, settings) for work in works]
    for _ in range(int(kills)):
        time.sleep(chance.uniform(0.005, 0.3))
        killed = chance.randrange(3)
        ended, _ = os.waitpid(pids[killed], os.WNOHANG)
        assert not ended, f"{works[killed].__name__} ended by itself"
        kill(pids[killed])
        pids[killed] = fork(works[killed], settings)
    kept = settings.home / "kept.txt"
    while not kept.exists() or len(kept.read_text().splitlines()) < int(kills):
        time.sleep(0.05)
    for pid in pids:
        kill(pid)


if __name__ == "__main__":
    main(*sys.argv[1:])
