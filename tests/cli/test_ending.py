"""Ending: a command that is told to end, wherever the signal comes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from phi3kit.core.settings import PROJECT_ROOT

IN_A_DESTRUCTOR = """
import os, signal, sys
from phi3kit.cli.ending import Ending
ending = Ending()
class Last:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
Last()
print("went on", flush=True)
ending.again()
print("was not told")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_in_a_destructor_ends_at_the_next_report_and_prints_no_traceback_for_it(number: int, code: int):
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DESTRUCTOR, str(int(number))],
        cwd=PROJECT_ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "went on\n"
    assert done.returncode == code
    assert "Exception ignored" not in done.stderr


IN_A_STATEMENT = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from phi3kit.cli.ending import Ending
from phi3kit.core.settings import read_settings
from phi3kit.tracking.store import experiment_id, open_store
from tests.support.samples import new_store
settings = new_store(Path(sys.argv[2]))
client = open_store(settings)
run = client.create_run(experiment_id(settings, "builds")).info.run_id
Ending()
told = []
@event.listens_for(Engine, "after_cursor_execute")
def tell(connection, cursor, statement, *rest):
    if not told and "FROM runs" in statement:
        told.append(statement)
        os.kill(os.getpid(), int(sys.argv[1]))
try:
    client.get_run(run)
    signal.pause()
finally:
    client.set_terminated(run, "FAILED")
    print(len(told), client.get_run(run).info.status)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_what_is_told_in_the_middle_of_a_statement_may_still_write_to_the_store(number: int, code: int, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", IN_A_STATEMENT, str(int(number)), str(tmp_path)],
        cwd=PROJECT_ROOT, env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "1 FAILED\n", done.stderr
    assert done.returncode == code
    assert "database is locked" not in done.stderr
