"""Waiting jobs: each is a live process, so that all of them, and one person's, are bounded, whatever their kind."""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from phi3kit.access.actor import Actor
from phi3kit.batch.jobs import BatchJobs
from phi3kit.batch.request import BatchRequest
from phi3kit.core.errors import LimitReached, StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.evaluation.jobs import EvaluationJobs
from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
from phi3kit.jobs.kinds import BATCHES
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.sources.find import EMBEDDED
from tests.conftest import settings_for

ADA, BOB = Actor("ada", "user"), Actor("bob", "user")
BATCH = BatchRequest("models:/m-x", Path("in.csv"), Path("out.csv"))
EVALUATION = EvaluationRequest("models:/m-x", EMBEDDED_QUESTIONS)
BUILD = BuildRequest(("onnx",), EMBEDDED, "int4")

Start = Callable[[Settings, Actor], Any]
KINDS: dict[str, tuple[dict[str, Any], Start]] = {
    "batches": (
        {"model_uri": "models:/m-x", "input": "in.csv", "output": "out.csv"},
        lambda settings, actor: BatchJobs(settings).start(BATCH, actor),
    ),
    "evaluations": (
        {"model_uri": "models:/m-x", "data": "embedded"},
        lambda settings, actor: EvaluationJobs(settings).start(EVALUATION, actor),
    ),
    "builds": (
        {"wrappers": ["onnx"], "source": "embedded", "precision": "int4"},
        lambda settings, actor: BuildJobs(settings).start(BUILD, actor),
    ),
}


def under_way(home: Path, kind: str, user: str) -> None:
    """A job whose process lives: this one."""
    folder = home / kind / f"20261129-{time.time_ns():020d}"
    folder.mkdir(parents=True)
    owner = {"pid": os.getpid(), "started": psutil.Process().create_time(), "request": KINDS[kind][0], "user": user}
    (folder / "job.json").write_text(json.dumps(owner))


@pytest.mark.parametrize("kind", list(KINDS))
class TestEveryKind:
    def test_one_person_has_a_third_of_the_places(self, tmp_path: Path, kind: str) -> None:
        settings = settings_for(tmp_path, PHI3KIT_WAITING_JOBS="6")
        for _ in range(2):
            under_way(tmp_path, kind, "ada")
        with pytest.raises(LimitReached) as caught:
            KINDS[kind][1](settings, ADA)
        assert caught.value.why == f"2 of your {kind} are running or queued; the limit per user is 2."
        assert len(list((tmp_path / kind).iterdir())) == 2, "what was refused leaves no folder"

    def test_all_together_have_no_more_than_the_places(self, tmp_path: Path, kind: str) -> None:
        settings = settings_for(tmp_path, PHI3KIT_WAITING_JOBS="6")
        for user in ("ada", "ada", "eve", "eve", "dan", "dan"):
            under_way(tmp_path, kind, user)
        with pytest.raises(LimitReached) as caught:
            KINDS[kind][1](settings, BOB)
        assert caught.value.why == f"6 {kind} are running or queued; the limit is 6."
        assert len(list((tmp_path / kind).iterdir())) == 6


def test_a_team_has_bounds_without_being_asked(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, PHI3KIT_PROFILE="team")
    for _ in range(3):
        under_way(tmp_path, "batches", "ada")
    with pytest.raises(LimitReached, match="3 of your batches are running or queued; the limit per user is 3"):
        BatchJobs(settings).start(BATCH, ADA)


def test_another_person_has_a_place_when_one_has_filled_theirs(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, PHI3KIT_WAITING_JOBS="3")
    under_way(tmp_path, "batches", "ada")
    jobs = BatchJobs(settings)
    job = jobs.start(BATCH, BOB)
    try:
        assert [each.user for each in jobs.all()] == ["bob", "ada"]
    finally:
        jobs.cancel(job, BOB)


def test_the_last_place_is_given_once_to_many_that_ask_at_the_same_moment(tmp_path: Path) -> None:
    jobs = BuildJobs(settings_for(tmp_path, PHI3KIT_WAITING_JOBS="1"))

    def start(number: int) -> bool:
        try:
            jobs.start(BUILD, Actor(f"visitor-{number}", "user"))
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        started = list(threads.map(start, range(8)))
    try:
        assert started.count(True) == 1
        assert len(jobs.all()) == 1
    finally:
        jobs.close()


def test_a_table_that_cannot_be_kept_leaves_no_folder(tmp_path: Path) -> None:
    gone = BATCHES.home(settings_for(tmp_path)) / "uploads" / "gone" / "in.csv"
    with pytest.raises(StorageFailed):
        BatchJobs(settings_for(tmp_path)).start(BatchRequest("models:/m-x", gone, Path("out.csv")), ADA)
    assert list(BATCHES.home(settings_for(tmp_path)).iterdir()) == []
