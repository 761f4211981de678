"""Models and Deploy in a real browser: what AppTest cannot see: a dialog, a drawn table, a download.

Needs chromium, as test_browser does.
"""

import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from phi3kit.registry import names as registry
from phi3kit.registry.logged_models import list_models
from phi3kit.settings import PROJECT_ROOT, Settings
from tests.conftest import Built
from tests.samples import copy_of_store
from tests.test_browser import CHROMIUM, FLAGS, REQUIRED, go, idle
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no chromium here: browser tests are skipped"),
]

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def store(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = copy_of_store(built.settings, tmp_path_factory.mktemp("browser-models"))
    registry.register(built.uri("onnx"), "phi3", settings, aliases=["champion"])
    return settings


@pytest.fixture(scope="module")
def page(store: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    """A tab on the app, started as `make run` starts it."""
    assert CHROMIUM is not None, "PHI3KIT_REQUIRE_BROWSER=1, and there is no chromium"
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "PHI3KIT_HOME": str(store.home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", url.rpartition(":")[2]]
    command += ["--server.address", "127.0.0.1", "--server.fileWatcherType", "none"]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/_stcore/health").status_code == 200
        except httpx.HTTPError:
            return False

    wait_for("the app", answers)
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1280, "height": 1000},
            accept_downloads=True,
        )
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        tab.goto(url)
        yield tab
        browser.close()
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(30)
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == [], "workers or scoring servers outlive the app"


def test_1_a_loaded_model_shows_its_worker(page: "playwright.Page") -> None:
    go(page, "Models")
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("button", name="Unload", exact=True).wait_for()
    page.get_by_role("radio", name="Workers").click()
    page.get_by_text("Uptime").wait_for()
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
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Send", exact=True).click(timeout=120_000)  # offered when the server is ready
    page.get_by_text("The capital of Spain is Madrid.").wait_for()


def test_4_deleting_asks_first(page: "playwright.Page", store: Settings) -> None:
    go(page, "Models")
    page.get_by_role("radio", name="Logged models").click()
    idle(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("phi3/1 @champion").wait_for()
    dialog.get_by_role("button", name="Keep").click()
    dialog.wait_for(state="hidden")
    assert len(list_models(store)) == 2
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").wait_for(state="hidden")
    wait_for("the deletion", lambda: len(list_models(store)) == 1)
    assert registry.list_registered(store) == []
