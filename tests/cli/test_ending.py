"""Ending: a command that is told to end, wherever the signal comes."""

import os
import signal
import subprocess
import sys

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
