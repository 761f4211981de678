"""What a browser draws of hostile texts, diffs and tokens: the text itself, and nothing is loaded or run for it."""

import re
import time
from collections.abc import Iterator

import pytest

from phi3kit.formats.word_diff import word_diff
from phi3kit.ui.shared.literal import named
from tests.support.hostile import ANSWERS, HOSTILE
from tests.support.in_browser import chromium, needs_browser, running_app, wait_for_text

pytestmark = needs_browser

playwright = pytest.importorskip("playwright.sync_api")

_ALL_TOKENS_SECONDS = 20  # on two busy cores; 3 s on two free ones


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The drawing app's address."""
    with running_app(tmp_path_factory.mktemp("drawing"), "tests/support/drawing_app.py") as app:
        yield app.url


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """What the page asked for elsewhere."""
    return []


@pytest.fixture(scope="module")
def page(url: str, requested: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    with chromium(tmp_path_factory.mktemp("profile"), 390, 844) as browser:
        tab = browser.new_page()
        tab.on(
            "request", lambda request: None if request.url.startswith((url, "data:")) else requested.append(request.url)
        )
        tab.goto(url)
        wait_for_text(tab, "all drawn")
        yield tab


def drawn(page: "playwright.Page", key: str) -> str:
    return str(page.locator(f".st-key-{key}").inner_text()).replace("\xa0", " ")


@pytest.mark.parametrize("number", range(len(HOSTILE)))
class TestHostileTexts:
    def test_a_text_is_drawn_as_itself(self, page: "playwright.Page", number: int) -> None:
        text = named(HOSTILE[number])
        assert drawn(page, f"alone_{number}") == text
        assert drawn(page, f"inside_{number}") == f"{text} {text}"
        assert page.locator(f".st-key-alone_{number} a, .st-key-inside_{number} a").count() == 0


class TestAnswers:
    @pytest.mark.parametrize("number", range(len(ANSWERS)))
    def test_an_answer_is_shown_as_it_is(self, page: "playwright.Page", number: int) -> None:
        assert drawn(page, f"answer_{number}").split() == list(ANSWERS.values())[number].split()


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
        page.get_by_text("Show all 4,096").click()
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
        # The links that are left are answers'.
        links = "[...document.querySelectorAll('.stMain a')].map(link => [link.getAttribute('href'), link.innerText])"
        assert page.evaluate(links) == [
            ["https://e.invalid/Help:Contents_1", "https://e.invalid/Help:Contents_1"],
            ["https://e.invalid", "https://e.invalid"],
            ["https://e.invalid", "a"],
            ["http://127.0.0.1:9/a.png)%60", "http://127.0.0.1:9/a.png)`"],
            ["http://127.0.0.1:9/b.png", "http://127.0.0.1:9/b.png"],
        ]

    def test_a_narrow_page_does_not_scroll_sideways(self, page: "playwright.Page") -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
