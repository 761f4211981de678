"""Batch, Evaluate and Tour in a real browser: a file goes up, the page shows how far it is by itself, a file comes down."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.settings import Settings
from phi3kit.evaluation.results import list_evaluations
from phi3kit.tracking.model_uris import canonical
from phi3kit.ui.tour.chapter import STEPS
from phi3kit.usage.reader import read_turns
from tests.conftest import Built
from tests.support.in_browser import (
    go,
    idle,
    main_text,
    needs_browser,
    open_popover,
    running_app,
    tab_on,
    wait_for_text,
)
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for

pytestmark = needs_browser

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def store(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return copy_of_store(built.settings, tmp_path_factory.mktemp("browser-hand-over"))


@pytest.fixture(scope="module")
def page(store: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    profile = tmp_path_factory.mktemp("profile")
    with running_app(store.home) as app, tab_on(app.url, profile, 1280, 1000, accept_downloads=True) as tab:
        yield tab


def test_1_a_table_is_answered_and_taken_away(page: "playwright.Page", store: Settings, tmp_path: Path) -> None:
    before = _batch_turns(store)  # other tests answer batches on the store that this one is a copy of
    (tmp_path / "in.csv").write_text(
        "id,message\n1,What is the capital of Spain?\n2,\n3,Ποια είναι η πρωτεύουσα της Ισπανίας;\n"
    )
    go(page, "Batch")
    page.locator("input[type=file]").set_input_files(tmp_path / "in.csv")
    page.get_by_role("button", name="Answer 3 rows").click()
    wait_for_text(page, re.compile("Done · in.csv"))
    page.get_by_role("button", name="Download in-completions.csv").wait_for()
    idle(page)
    assert "Failed\n\n1" in main_text(page)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download in-completions.csv").click()
    downloading.value.save_as(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["completion"] == "The capital of Spain is Madrid."
    assert rows[1]["error"].startswith("The message is empty.")
    assert "Μαδρίτη" in rows[2]["completion"]
    wait_for("the batch's turns in the store", lambda: _batch_turns(store) == before + 2)


def _batch_turns(store: Settings) -> int:
    return list(read_turns(store)["origin"]).count("batch")


def test_2_a_turn_that_was_not_made_in_chat_opens_there_from_its_text(page: "playwright.Page") -> None:
    go(page, "Usage")
    page.wait_for_function("document.querySelectorAll('[data-testid=stPlotlyChart] .barlayer').length >= 7")
    idle(page)
    turns = page.get_by_test_id("stDataFrame").last
    turns.scroll_into_view_if_needed()
    box = turns.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 20, box["y"] + 53)  # the newest turn's box
    page.get_by_role("dialog").get_by_role("button", name="Open in Chat").click()
    page.get_by_role("heading", name="Chat", exact=True, level=1).wait_for()
    wait_for_text(page, re.compile("Madrid|Μαδρίτη"))
    wait_for_text(page, "imported")


def test_3_an_evaluation_shows_its_scores_and_promotes(page: "playwright.Page", store: Settings) -> None:
    go(page, "Evaluate")
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name=re.compile("onnx")).click()  # the one that answers sooner
    idle(page)
    page.get_by_role("button", name="Evaluate", exact=True).click()
    wait_for_text(page, "Exact, A")
    idle(page)
    (evaluation,) = list_evaluations(store)
    assert evaluation.questions == 60
    assert f"Exact, A\n\n{evaluation.exact:.1%}" in main_text(page)
    point = page.get_by_role("button", name="Point phi3@champion to it")
    open_popover(page, "Promote", point)
    point.click()
    wait_for_text(page, "phi3@champion now points to this model.")
    assert canonical("models:/phi3@champion", store) == evaluation.model_uri


def test_4_the_tour_is_walked_to_its_end_and_asks_both_wrappers(page: "playwright.Page") -> None:
    go(page, "Tour")
    answers = {"Ask with messages": "Madrid", "Ask with a raw prompt": "atom"}
    for step, after in zip(STEPS, [*STEPS[1:], None], strict=True):
        page.get_by_role("heading", name=step.title, exact=True).wait_for()
        if step.title in answers:
            idle(page)  # the step before has a button of this name
            page.get_by_role("button", name="Run this step: ask it").click()
            page.get_by_test_id("stText").filter(has_text=answers[step.title]).last.wait_for()
        if after:  # by its whole name: that of the step before may still stand there, and do nothing
            page.get_by_test_id("stMain").get_by_role("button", name=f"Next: {after.title}").click()
            idle(page)
    page.get_by_role("link", name="Take it to Azure").or_(page.get_by_role("link", name="Serve it")).first.wait_for()
