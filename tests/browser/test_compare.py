"""Compare in a real browser: both answers grow at once, Stop ends and keeps both, the dialog of connections, 390 pixels."""

import re
from collections.abc import Iterator

import pytest

from phi3kit.endpoints.connections import list_connections, remove_connection
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_browser import idle, main_text, needs_browser, running_app, send, tab_on, wait_for_text
from tests.support.scripted_server import http_answer, scripted

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    """The page on the store in which both wrappers are built."""
    profile = tmp_path_factory.mktemp("profile")
    with running_app(built.home) as app, tab_on(f"{app.url}/compare", profile) as tab:
        tab.get_by_role("heading", name="Compare", level=1).wait_for()
        idle(tab)
        yield tab


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
    main = main_text(page)
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
        wait_for_text(dialog, "It answered and has one model.")
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
        remove_connection("lab", ADMIN, built.settings)


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
