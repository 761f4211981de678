"""Jobs on pages: whose build can be ended where, and whose evaluation is spoken of."""

import dataclasses
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.evaluation import results
from phi3kit.ui.shared import resources
from tests.pages.test_access import BOB, TEAM, page_of
from tests.support.in_app import app_on, errors, label_of, open_page, words
from tests.support.samples import new_store

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
        assert sorted(each.key for each in app.button if label_of(each) == "Cancel") == [
            "cancel_build",
            "cancel_in_builds",
        ]
        assert not any(each.disabled for each in app.button if label_of(each) == "Cancel")


@pytest.mark.parametrize(
    ("user", "lines", "off"),
    [
        ("local", [], True),
        ("local", [{"event": "queued", "ahead": 2}], True),
        ("local", [FAILED], False),
        ("ada", [], False),
    ],
    ids=["running", "queued", "ended", "another's"],
)
def test_the_button_is_off_while_ones_own_equal_build_is_under_way(
    tmp_path: Path, user: str, lines: list[object], off: bool
) -> None:
    with app_on(tmp_path):
        job(tmp_path, "builds", BUILD | {"wrappers": ["transformers", "onnx"]}, user, *lines)
        app = open_page("build")
        assert app.button(key="build_start").disabled == off
        assert ("This build waits for its turn." in words(app)) == (off and bool(lines))
        assert ("This build is under way." in words(app)) == (off and not lines)
        app = app.segmented_control(key="build_precision").set_value("int8").run()  # another build
        assert not app.button(key="build_start").disabled


@pytest.mark.parametrize(("user", "told"), [("ada", []), ("local", ["It broke. x\n\ny"])])
def test_only_ones_own_evaluation_is_told_to_have_failed(tmp_path: Path, user: str, told: list[str]) -> None:
    with app_on(tmp_path):
        job(tmp_path, "evaluations", EVALUATION, user, FAILED)
        assert errors(open_page("evaluate")) == told


BATCH = {"model_uri": "models:/m-x", "input": "in.csv", "output": "out.csv"}
STOPPED = {"event": "end", "state": "cancelled", "seconds": 1.0, "error": None}
STOPPED_ON = {
    "builds": (BUILD, "build", "Unfinished models are not listed."),
    "batches": (BATCH, "batch", "Finished rows are kept."),
    "evaluations": (EVALUATION, "evaluate", "Nothing was logged."),
}


@pytest.mark.parametrize("kind", STOPPED_ON)
@pytest.mark.parametrize(
    ("by", "said"),
    [("local", "You stopped it."), ("ada", "ada stopped it."), (None, "It was stopped.")],
    ids=["oneself", "another", "unknown"],
)
def test_a_run_that_was_stopped_is_no_error_and_says_by_whom_and_what_is_kept(
    tmp_path: Path, kind: str, by: str | None, said: str
) -> None:
    request, page, kept = STOPPED_ON[kind]
    with app_on(tmp_path):
        job(tmp_path, kind, request, "local", *([{"event": "stop", "by": by}] if by else []), STOPPED)
        app = open_page(page)
        assert errors(app) == []
        assert f"{said} {kept}" in words(app)


PRIVATE = "merger-with-initech"
PRIVATE_BUILD = {"wrappers": ["onnx"], "source": f"acme/{PRIVATE}", "precision": "int4", "register": PRIVATE}
PRIVATE_EVALUATION = {"model_uri": "models:/m-x", "data": f"{PRIVATE}.csv"}
PRIVATE_BATCH = {"model_uri": "models:/m-x", "input": f"{PRIVATE}.csv", "output": "out.csv"}
PRIVATE_END = FAILED | {"error": {"what": f"{PRIVATE} is not there.", "why": "x", "next_step": "y"}}
OF_A_KIND = {
    "builds": (PRIVATE_BUILD, ("home", "build", "tour")),
    "batches": (PRIVATE_BATCH, ("batch",)),
    "evaluations": (PRIVATE_EVALUATION, ("evaluate",)),
}


def drawn(app: AppTest) -> str:
    """All that a page draws: words, labels, errors and tables."""
    tables = [str(each.value.to_dict("records")) for each in app.dataframe]
    return "\n".join([words(app), *errors(app), *tables, *(each.label for each in app.status)])


@pytest.mark.parametrize("kind", OF_A_KIND)
@pytest.mark.parametrize("over", [True, False], ids=["ended", "under way"])
def test_what_a_job_does_is_drawn_to_its_own_person_and_to_admins_alone(tmp_path: Path, kind: str, over: bool) -> None:
    new_store(tmp_path)
    request, pages = OF_A_KIND[kind]
    name = job(tmp_path, kind, request, BOB, *([PRIVATE_END] if over else []))
    (tmp_path / kind / name / "log.txt").write_text(PRIVATE)
    with app_on(tmp_path, **TEAM):
        for who in ("vera", "eve"):  # a viewer, and another user
            for page in pages:
                app = page_of(who, page)
                app.session_state[f"{kind}_chosen"] = name
                assert PRIVATE not in drawn(app.run())
        if over or kind != "evaluations":  # of which the page shows only how far it is
            assert any(PRIVATE in drawn(page_of("bob", page)) for page in pages)


@pytest.mark.parametrize(
    ("kind", "page", "word"), [("builds", "home", "build"), ("evaluations", "evaluate", "evaluation")]
)
def test_anothers_job_under_way_is_told_without_what_it_does(tmp_path: Path, kind: str, page: str, word: str) -> None:
    new_store(tmp_path)
    job(tmp_path, kind, OF_A_KIND[kind][0], BOB)
    with app_on(tmp_path, **TEAM):
        assert f"Another user's {word} is running" in words(page_of("vera", page))
        assert "Another user's" not in words(page_of("bob", page))


@pytest.mark.parametrize("kept", [True, False])
def test_an_evaluation_without_texts_is_shown_with_its_scores_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    text = "Madrid" if kept else ""
    answers = pd.DataFrame(
        [{"question": text, "expected": text, "answer": text, "exact": 0.0, "contains": 0.0, "word_f1": 0.25}]
    )
    known = {"run_id": "r", "at": datetime.now(UTC), "model_uri": "models:/m-x", "asked_as": "models:/m-x"}
    named = {"wrapper": "onnx", "data": "in.csv", "digest": "d", "user": "local"}
    counted = {"questions": 1, "failed": 0, "at_once": 1}
    measured = dict.fromkeys(("exact", "contains", "word_f1", "completion_tokens", "latency_s", "latency_p95_s"), 0.25)
    fields = {each.name for each in dataclasses.fields(results.Evaluation)}
    values = {name: value for name, value in {**known, **named, **counted, **measured}.items() if name in fields}
    monkeypatch.setattr(resources, "evaluations", lambda: [results.Evaluation(**values)])  # type: ignore[arg-type]
    monkeypatch.setattr(results, "answers_of", lambda run_id, settings: answers)
    new_store(tmp_path)
    with app_on(tmp_path):
        app = open_page("evaluate")
        assert ("questions and answers were not logged" in words(app)) is not kept
        columns = [*app.dataframe[-1].proto.column_order] or list(app.dataframe[-1].value)
        assert columns == (["question", "expected", "answer_a"] if kept else ["exact_a", "word_f1_a"])
