"""The main job by keyboard alone, with a focus that one sees: build, ask, stop, answer again, read usage."""

import re
from collections.abc import Iterator

import pytest

from tests.support.in_browser import chromium, idle, needs_browser, running_app, wait_for_text

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [*needs_browser, pytest.mark.slow]

_MOST_STEPS = 120  # of the Tab key, from one end of a page to the other
# What has the focus: its name or its key, and whether it looks otherwise without.
_FOCUS = """() => {
  const held = document.activeElement
  const looks = () => [held, held.parentElement, held.parentElement?.parentElement].map(each => {
    const style = each && getComputedStyle(each)
    return style && [style.outline, style.boxShadow, style.borderColor, style.backgroundColor].join(' ')
  }).join(' ')
  const focused = looks()
  held.blur()
  const drawn = looks() !== focused
  held.focus()
  const keys = [...held.closest("[class*='st-key-']")?.classList || []].filter(name => name.startsWith('st-key-'))
  const says = held.matches('a, button') ? held.innerText : ''
  return [held.ariaLabel || says, keys.join(' '), drawn]
}"""


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    with (
        running_app(tmp_path_factory.mktemp("keyboard") / "home") as app,
        chromium(tmp_path_factory.mktemp("profile")) as browser,
    ):
        page = browser.new_page()
        page.goto(app.url)
        page.get_by_role("heading", level=1).wait_for()
        idle(page)
        yield page


def step_to(page: "playwright.Page", wanted: str, key: str = "Tab") -> None:
    """Press a key until something with this in its name or key has the focus, and see that the focus is drawn."""
    seen = []
    for _ in range(_MOST_STEPS):
        page.keyboard.press(key)
        name, keys, drawn = page.evaluate(_FOCUS)
        seen.append(name or keys)
        if re.search(wanted, name) or re.search(wanted, keys):
            assert drawn, f"{wanted} has the focus, and nobody sees it"
            return
    raise AssertionError(f"no {wanted} among {seen}")


def test_build_ask_stop_answer_again_and_read_usage(page: "playwright.Page") -> None:
    step_to(page, "Build both wrappers")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Ask it").wait_for(timeout=120_000)
    idle(page)
    step_to(page, "Ask it")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Chat", exact=True, level=1).wait_for()
    page.wait_for_function("document.activeElement?.dataset.testid === 'stChatInputTextArea'")
    idle(page)
    page.keyboard.press("Enter")
    wait_for_text(page, "The capital of Spain is Madrid.")
    page.locator("[class*='st-key-again_']").last.wait_for()
    idle(page)

    for attempt in range(1, 6):  # on a fast machine an answer may be over before the key is pressed
        page.keyboard.type("List the capitals of the world.")
        page.keyboard.press("Enter")
        page.get_by_text("Afghanistan: Kabul").nth(attempt - 1).wait_for()
        page.keyboard.press("Escape")
        page.get_by_text(re.compile("· (cancelled|length)$")).nth(attempt - 1).wait_for()
        idle(page)
        if page.get_by_text(re.compile("· cancelled$")).count():
            break
    assert page.get_by_text(re.compile("· cancelled$")).count() == 1

    step_to(page, "st-key-again_", "Shift+Tab")
    page.keyboard.press("Enter")
    wait_for_text(page, "2 of 2")
    page.get_by_text(re.compile("· (stop|length)$")).last.wait_for()
    idle(page)

    step_to(page, "Usage", "Shift+Tab")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Usage", exact=True, level=1).wait_for()
    page.get_by_test_id("stMetric").first.wait_for()
    idle(page)
    turns = page.get_by_test_id("stMetric").filter(has_text="Turns").first.get_by_test_id("stMetricValue")
    for _ in range(20):  # the last turn may be on its way to the store
        if turns.inner_text() == str(attempt + 2):
            break
        page.reload()
        turns.wait_for()
        idle(page)
    playwright.expect(turns).to_have_text(str(attempt + 2))
