"""What a browser draws of hostile texts, diffs and tokens: the text itself, and nothing is loaded or run for it.

Needs chromium, as tests/test_browser.py does.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from phi3kit.settings import PROJECT_ROOT
from phi3kit.ui.literal import named
from phi3kit.word_diff import word_diff
from tests.hostile import HOSTILE
from tests.test_browser import CHROMIUM, FLAGS, REQUIRED

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no chromium here: browser tests are skipped"),
]

playwright = pytest.importorskip("playwright.sync_api")

_ALL_TOKENS_SECONDS = 20  # on two busy cores; 3 s on two free ones


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The drawing app's address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "tests/drawing_app.py", "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.fileWatcherType", "none"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/_stcore/health").status_code == 200:
                break
        except httpx.HTTPError:
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """What the page asked for elsewhere."""
    return []


@pytest.fixture(scope="module")
def page(url: str, requested: list[str]) -> Iterator["playwright.Page"]:
    assert CHROMIUM is not None, "PHI3KIT_REQUIRE_BROWSER=1, and there is no chromium"
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.set_default_timeout(60_000)
        tab.on(
            "request", lambda request: None if request.url.startswith((url, "data:")) else requested.append(request.url)
        )
        tab.goto(url)
        tab.get_by_text("all drawn").wait_for()
        yield tab
        browser.close()


def drawn(page: "playwright.Page", key: str) -> str:
    return str(page.locator(f".st-key-{key}").inner_text()).replace("\xa0", " ")


@pytest.mark.parametrize("number", range(len(HOSTILE)))
class TestHostileTexts:
    def test_a_text_is_drawn_as_itself(self, page: "playwright.Page", number: int) -> None:
        text = named(HOSTILE[number])
        assert drawn(page, f"alone_{number}") == text
        assert drawn(page, f"inside_{number}") == f"{text} {text}"


class TestDiffs:
    @pytest.mark.parametrize("number", range(len(HOSTILE) - 1))
    def test_both_texts_are_there_with_their_marks(self, page: "playwright.Page", number: int) -> None:
        spans = word_diff(HOSTILE[number], HOSTILE[number + 1])
        expected = "".join(span.text for span in spans)
        shown = drawn(page, f"diff_{number}").partition("in both")[2].replace("↵", "").replace("␣", " ")
        assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", named(expected))


class TestTokens:
    def test_every_token_of_a_full_context_is_drawn_on_demand(self, page: "playwright.Page") -> None:
        tokens = page.locator(".st-key-tokens")
        assert tokens.locator(".stMarkdownBadge").count() < 320
        began = time.monotonic()
        page.get_by_text("Draw all 4,096").click()
        page.wait_for_function(
            "document.querySelectorAll('.st-key-tokens .stMarkdownBadge').length >= 4096", timeout=60_000
        )
        assert time.monotonic() - began < _ALL_TOKENS_SECONDS


class TestSafety:
    def test_nothing_was_loaded_from_elsewhere_and_no_script_ran(
        self, page: "playwright.Page", requested: list[str]
    ) -> None:
        assert requested == []
        assert page.title() != "pwned"
        assert page.locator(".stMain img, .stMain script").count() == 0
        # Streamlit makes a link of an address that stands in a text: it may lead only where it says.
        links = "[...document.querySelectorAll('.stMain a')].map(link => [link.getAttribute('href'), link.innerText])"
        assert [
            (href, text)
            for href, text in page.evaluate(links)
            if href not in (text, f"http://{text}", f"mailto:{text}")
        ] == []

    def test_a_narrow_page_does_not_scroll_sideways(self, page: "playwright.Page") -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
