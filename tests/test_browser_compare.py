"""Compare in a real browser: both answers grow at once, Stop ends and keeps both, the dialog of connections, 390 pixels."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from phi3kit.endpoints.connections import list_connections, remove_connection
from phi3kit.settings import PROJECT_ROOT
from tests.conftest import Built
from tests.scripted_server import http_answer, scripted
from tests.test_browser import CHROMIUM, FLAGS, idle, pytestmark, send  # noqa: F401
from tests.waiting import wait_for

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def page(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    """The page on the store in which both wrappers are built."""
    assert CHROMIUM is not None, "PHI3KIT_REQUIRE_BROWSER=1, and there is no chromium"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PHI3KIT_HOME": str(built.home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.fileWatcherType", "none"]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"

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
            viewport={"width": 1280, "height": 900},
        )
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        tab.goto(f"{url}/compare")
        tab.get_by_role("heading", name="Compare", level=1).wait_for()
        idle(tab)
        yield tab
        browser.close()
    process.terminate()
    process.wait(20)


def test_both_answers_grow_at_once_and_stop_keeps_them(page: "playwright.Page") -> None:
    # The same model twice: the other wrapper may have ended before this one begins.
    page.get_by_role("combobox", name="B").click()
    page.get_by_role("option", name=re.compile("transformers")).first.click()
    idle(page)
    send(page, "List the capitals of the world.")
    page.wait_for_function("document.body.innerText.split('Afghanistan: Kabul').length > 2")  # in both, before the end
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Tie").wait_for()
    idle(page)
    main = page.get_by_test_id("stMainBlockContainer").inner_text()
    shown = re.findall(r"(\d+) \+ ([\d,]+) = ([\d,]+) tokens .* · cancelled", main)
    assert len(shown) == 2
    assert main.count("Afghanistan: Kabul") >= 2
    assert all(0 < int(completion.replace(",", "")) < 1024 for _, completion, _ in shown)


def test_a_connection_is_tested_and_saved_in_the_dialog(page: "playwright.Page", built: Built) -> None:
    page.get_by_role("button", name="Connections").click()
    dialog = page.get_by_role("dialog")
    with scripted(http_answer(200, '{"data": [{"id": "phi-one"}]}')) as server:
        dialog.get_by_role("textbox", name="Name").fill("lab")
        dialog.get_by_role("textbox", name="URL").fill(server.url)
        page.keyboard.press("Tab")
        idle(page)
        dialog.get_by_role("button", name="Test").click()
        dialog.get_by_text("It answered, and has one model.").wait_for()
    try:
        dialog.get_by_role("button", name="Save").click()
        dialog.wait_for(state="hidden")
        assert [(each.name, each.model) for each in list_connections(built.home)] == [("lab", "phi-one")]
        page.get_by_role("button", name="Connections").click()
        dialog.get_by_role("combobox", name="Connection").click()
        page.get_by_role("option", name="lab").click()
        dialog.get_by_role("button", name="Remove").wait_for()
        assert dialog.get_by_role("textbox", name="Name").input_value() == "lab"
        assert dialog.get_by_role("textbox", name="URL").input_value() == server.url
        dialog.get_by_role("button", name="Remove").click()
        dialog.wait_for(state="hidden")
        assert list_connections(built.home) == []
    finally:
        remove_connection("lab", built.home)


def test_the_sides_stand_below_each_other_on_a_phone(page: "playwright.Page") -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    idle(page)
    a, b = (page.get_by_text(f"{letter} is better").count() for letter in "AB")
    assert (a, b) == (1, 1)
    boxes = [box.bounding_box() for box in page.get_by_test_id("stSelectbox").all()[:2]]
    assert boxes[0]
    assert boxes[1]
    assert boxes[1]["y"] > boxes[0]["y"] + boxes[0]["height"]
    wide = "(() => { const main = document.querySelector('[data-testid=stMain]'); return main.scrollWidth - main.clientWidth })()"
    assert page.evaluate(wide) == 0
