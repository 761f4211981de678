"""No turn is lost and none is written twice, whatever is killed, full or slow."""

import subprocess
import sys
import time
from pathlib import Path

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.traces import trace_id_of
from phi3kit.usage.writer import write_waiting
from tests.support.samples import new_store
from tests.support.stored import written

KILLS = 50


def test_processes_killed_at_random_points_50_times_lose_no_turn_and_write_none_twice(tmp_path: Path) -> None:
    settings = new_store(tmp_path)
    experiment_id(settings, USAGE_EXPERIMENT)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_processes", str(tmp_path), str(KILLS), "1"],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outbox = Outbox(tmp_path)
    outbox.adopt_orphans()
    outbox.adopt_orphans(time.time() + 60)  # the turns that were in the making when their process was killed
    while outbox.waiting():
        write_waiting(settings)
    kept = set((tmp_path / "kept.txt").read_text().split())
    runs, traces = written(settings)
    assert len(kept) >= KILLS
    assert kept <= runs.keys()
    assert set(runs.values()) == {1}
    assert runs == traces
    assert {trace_id_of(turn_id) for turn_id in runs} == {trace_id_of(turn_id) for turn_id in traces}
    # What was begun and not kept is there too, once each: it was killed between the two.
    assert 0 <= len(runs) - len(kept) <= KILLS
