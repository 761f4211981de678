"""Models and Deploy in a real browser: what AppTest cannot see: a dialog, a drawn table, a download."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.settings import Settings
from phi3kit.tracking import registry as registry
from phi3kit.tracking.logged_models import list_models
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_browser import go, idle, needs_browser, open_popover, running_app, tab_on, wait_for_text
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for

pytestmark = needs_browser

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def store(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = copy_of_store(built.settings, tmp_path_factory.mktemp("browser-models"))
    # The newest of the two: the page chooses it.
    registry.register(built.uri("transformers"), "phi3", ADMIN, settings, aliases=["champion"])
    return settings


@pytest.fixture(scope="module")
def page(store: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    profile = tmp_path_factory.mktemp("profile")
    with running_app(store.home) as app, tab_on(app.url, profile, 1280, 1000, accept_downloads=True) as tab:
        yield tab


def test_1_a_loaded_model_shows_its_worker(page: "playwright.Page") -> None:
    go(page, "Models")
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("button", name="Unload", exact=True).wait_for()
    page.get_by_role("radio", name="Workers").click()
    wait_for_text(page, "Uptime")
    assert "Memory" in page.get_by_test_id("stMetric").first.inner_text()


def test_2_the_zip_for_azure_is_downloaded_whole(page: "playwright.Page", tmp_path: Path) -> None:
    go(page, "Deploy")
    page.get_by_role("radio", name="Azure ML").click()
    idle(page)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download the zip").click()
    file = tmp_path / "bundle.zip"
    downloading.value.save_as(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = {name.partition("/")[2] for name in archive.namelist()}
        assert {"model/MLmodel", "score/score.py", "endpoint.yml", "deployment.yml", "README.md"} <= names


def test_3_mlflows_server_runs_and_answers_and_ends_with_the_app(page: "playwright.Page") -> None:
    page.get_by_role("radio", name="mlflow models serve").click()
    idle(page)
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name=re.compile("onnx")).click()  # the one that is loaded sooner
    idle(page)
    page.get_by_text('{"prompt"').first.wait_for()  # the page is that of the chosen one
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Send", exact=True).click()  # offered when the server is ready
    wait_for_text(page, "The capital of Spain is Madrid.")


def test_4_a_click_acts_on_the_row_that_is_shown_when_others_have_come_above_it(
    page: "playwright.Page", store: Settings, built: Built
) -> None:
    registry.register(built.uri("onnx"), "phi3", ADMIN, store)
    go(page, "Models")
    page.get_by_role("radio", name="Registered").click()
    idle(page)

    def is_listed() -> bool:  # the app reads its lists anew every few seconds
        page.reload()
        page.get_by_text("phi3, version").first.wait_for()
        idle(page)
        return page.get_by_text("phi3, version 2").count() == 1

    wait_for("the new version in the app's list", is_listed)
    table = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert table is not None
    page.mouse.click(table["x"] + 200, table["y"] + 53 + 35)  # a cell of the second row
    wait_for_text(page, "phi3, version 1")
    idle(page)
    registry.register(built.uri("onnx"), "phi3", ADMIN, store)  # another person's, above both
    page.get_by_role("button", name="Make challenger").click()
    wait_for_text(page, "phi3@challenger points to version 1")
    idle(page)
    wait_for_text(page, "phi3, version 1")
    (registered,) = registry.list_registered(store)
    assert {each.version: each.aliases for each in registered.versions} == {1: ("challenger", "champion"), 2: (), 3: ()}
    for version in (2, 3):
        registry.delete_version("phi3", version, ADMIN, store)
    page.get_by_role("button", name="Remove challenger").first.click()
    wait_for_text(page, "phi3@challenger was removed")
    idle(page)
    custom = page.get_by_role("textbox", name="Custom alias")
    open_popover(page, "Alias", custom)
    custom.fill("staging")
    page.get_by_role("button", name="Set", exact=True).click()
    wait_for_text(page, "phi3@staging points to version 1")
    page.get_by_test_id("stPopoverBody").wait_for(state="detached")  # it has done what it was for


def test_5_deleting_asks_first(page: "playwright.Page", store: Settings) -> None:
    go(page, "Models")
    page.get_by_role("radio", name="Logged models").click()
    idle(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    wait_for_text(dialog, "phi3/1 @champion")
    dialog.get_by_role("button", name="Keep").click()
    dialog.wait_for(state="hidden")
    assert len(list_models(store)) == 2
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").wait_for(state="hidden")
    wait_for("the deletion", lambda: len(list_models(store)) == 1)
    assert registry.list_registered(store) == []
