"""Jobs on pages: whose build can be ended where, and whose evaluation is spoken of."""

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import PROJECT_ROOT
from tests.support.in_app import app_on, errors, open_page

BUILD = {"wrappers": ["onnx"], "source": "embedded", "precision": "int4"}
EVALUATION = {"model_uri": "models:/m-x", "data": "embedded"}
FAILED = {
    "event": "end",
    "state": "failed",
    "seconds": 1.0,
    "error": {"what": "It broke.", "why": "x", "next_step": "y"},
}


def job(home: Path, kind: str, request: dict[str, Any], user: str, *lines: object) -> str:
    """A job under way, of this process, or one that has ended if its lines say so."""
    folder = home / kind / f"20261129-{time.time_ns():020d}"
    folder.mkdir(parents=True)
    owner = {"pid": os.getpid(), "started": psutil.Process().create_time(), "request": request, "user": user}
    (folder / "job.json").write_text(json.dumps(owner))
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder.name


def test_a_second_build_of_ones_own_can_be_ended_while_the_first_one_runs(tmp_path: Path) -> None:
    with app_on(tmp_path):
        for user in ("ada", "local"):
            job(tmp_path, "builds", BUILD, user)
        queued = job(tmp_path, "builds", BUILD, "local", {"event": "queued", "ahead": 2})
        app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=120)
        app.session_state["builds_chosen"] = queued
        app = app.run().switch_page("pages/build.py").run()
        assert not app.exception
        assert sorted(each.key for each in app.button if each.label == "Cancel") == ["cancel_build", "cancel_in_builds"]
        assert not any(each.disabled for each in app.button if each.label == "Cancel")


@pytest.mark.parametrize(("user", "told"), [("ada", []), ("local", ["It broke. x\n\ny"])])
def test_only_ones_own_evaluation_is_told_to_have_failed(tmp_path: Path, user: str, told: list[str]) -> None:
    with app_on(tmp_path):
        job(tmp_path, "evaluations", EVALUATION, user, FAILED)
        assert errors(open_page("evaluate")) == told
