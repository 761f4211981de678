"""The whole path in a real browser: first visit, build, chat with each while text streams, stop, raw prompt, usage."""

import re
import time
from collections.abc import Iterator

import psutil
import pytest

from phi3kit.usage.reader import read_turns
from tests.conftest import settings_for
from tests.support.in_browser import (
    App,
    choose,
    chromium,
    go,
    idle,
    last_answer,
    main_text,
    needs_browser,
    running_app,
    send,
    wait_for_text,
)
from tests.support.waiting import wait_for

CAPTION = re.compile(r"([\d,]+) \+ ([\d,]+) = ([\d,]+) tokens · .* · (stop|length|cancelled|error)")

# Every text that the menu ever had.
_KEEP_MENUS = """
window.menus = new Set()
new MutationObserver(() => {
  const menu = document.querySelector('[data-testid=stSidebarNav]')?.innerText
  if (menu) menus.add(menu)
}).observe(document, {childList: true, subtree: true, characterData: true})
"""

pytestmark = needs_browser

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running_app(tmp_path_factory.mktemp("browser") / "home") as app:
        yield app


@pytest.fixture(scope="module")
def page(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        page = browser.new_page()
        page.add_init_script(_KEEP_MENUS)
        page.goto(app.url)
        yield page


def wait_for_caption(page: "playwright.Page", answers: int) -> list[tuple[int, int, int, str]]:
    """(prompt, completion, total, finish reason) under each answer, when there are so many."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = CAPTION.findall(main_text(page))
        if len(found) >= answers:
            return [(*(int(number.replace(",", "")) for number in each[:3]), each[3]) for each in found]  # type: ignore[misc]
        page.wait_for_timeout(100)
    raise AssertionError(main_text(page))


@pytest.fixture(scope="module")
def shown() -> list[tuple[int, int, int, str]]:
    """The captions of every answer that the tests below made; the usage chart must have exactly these."""
    return []


class TestThePath:
    """In this order, in one tab, as a newcomer would go."""

    def test_1_the_first_visit_builds_both_wrappers_at_one_click(self, page: "playwright.Page") -> None:
        failed = "document.fonts.ready.then(() => [...document.fonts].filter(each => each.status === 'error').length)"
        assert page.evaluate(failed) == 0, "letters and icons are drawn in their own fonts"
        playwright.expect(page).to_have_title("Home · phi3kit")
        page.get_by_role("button", name="Build both wrappers").click()
        menus = page.evaluate("[...menus]")
        assert [menu for menu in menus if "Home" not in menu or "streamlit app" in menu] == [], "pages/ is no menu"
        page.get_by_role("button", name="Ask it: What is the capital of Spain?").click(timeout=120_000)
        page.get_by_role("heading", name="Chat", exact=True, level=1).wait_for()
        composer = page.get_by_test_id("stChatInputTextArea")
        composer.wait_for()
        assert composer.input_value() == "What is the capital of Spain?", "one key sends it"
        playwright.expect(page).to_have_title("Chat · phi3kit")
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Home", exact=True).click()
        playwright.expect(page.get_by_test_id("stMetric").first).to_have_text(re.compile(r"^Logged models\s*2$"))
        wait_for_text(page, re.compile(r"Built: transformers and onnx from embedded \(small\) · \d+ s"))

    def test_2_the_transformers_wrapper_streams_its_answer(
        self, page: "playwright.Page", shown: list[tuple[int, int, int, str]]
    ) -> None:
        go(page, "Chat")
        choose(page, "transformers")
        send(page, "List the capitals of Europe.")
        lengths = set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and "· stop" not in last_answer(page):
            lengths.add(len(last_answer(page)))
            page.wait_for_timeout(20)
        assert len(lengths) >= 4, "the text should grow before it is whole"
        assert "Greece: Athens" in last_answer(page)
        shown += wait_for_caption(page, 1)

    def test_3_stop_keeps_the_partial_text(
        self, page: "playwright.Page", shown: list[tuple[int, int, int, str]]
    ) -> None:
        for attempt in range(1, 5):  # on a fast machine an answer may be over before the button is pressed
            send(page, "List the capitals of the world.")
            page.get_by_text("Afghanistan: Kabul").nth(attempt - 1).wait_for()
            page.evaluate("document.querySelector('.st-key-stop_answer button:enabled')?.click()")
            page.get_by_text(re.compile("· (cancelled|length)")).nth(attempt - 1).wait_for()
            idle(page)
            shown.append(wait_for_caption(page, attempt + 1)[-1])
            if shown[-1][3] == "cancelled":
                break
        assert shown[-1][3] == "cancelled"
        assert "Afghanistan: Kabul" in last_answer(page)
        assert "Zimbabwe: Harare" not in last_answer(page)

    def test_4_the_onnx_wrapper_answers_in_three_languages(
        self, page: "playwright.Page", shown: list[tuple[int, int, int, str]]
    ) -> None:
        page.get_by_role("button", name="New chat").click()
        wait_for_text(page, "Try one of these")
        idle(page)
        choose(page, "onnx")
        questions = {
            "What is the capital of Spain?": "Madrid",
            "スペインの首都はどこですか？": "マドリード",
            "Ποια είναι η πρωτεύουσα της Ισπανίας;": "Μαδρίτη",
        }
        for number, (question, answer) in enumerate(questions.items(), start=1):
            send(page, question)
            page.get_by_text(answer).last.wait_for()
            idle(page)  # until then the page may still show parts of its run before
            captions = wait_for_caption(page, number)
            assert answer in last_answer(page)
            assert captions[-1][3] == "stop"
        shown += captions

    def test_5_a_raw_prompt_is_counted_while_typing_and_answered(
        self, page: "playwright.Page", shown: list[tuple[int, int, int, str]]
    ) -> None:
        go(page, "Prompt")
        area = page.get_by_role("textbox", name="Raw prompt")
        area.click()
        page.keyboard.type("hello", delay=30)
        wait_for_text(page, re.compile(r"^\d+ of 4,096 tokens · [\d,]+ left"))
        assert area.input_value() == "hello"
        page.get_by_role("button", name="The chapter's comedian").click()
        page.wait_for_function("document.querySelector('textarea').value.startsWith('<|system|>You are a stand-up')")
        idle(page)
        counted = int(page.get_by_text(re.compile(r"of 4,096 tokens · ")).inner_text().split(" ")[0])
        page.get_by_role("button", name="Send").click()
        captions = wait_for_caption(page, 1)
        wait_for_text(page, "little atom-related joke")
        assert captions[0][0] == counted
        shown += captions

    def test_6_the_signatures_stand_side_by_side(self, page: "playwright.Page") -> None:
        go(page, "Signatures")
        page.get_by_role("listitem").filter(has_text="prompt string (required)").wait_for()
        texts = page.get_by_role("button", name="Exact text")
        assert texts.count() == 2
        texts.last.click()
        page.get_by_text("'prompt': string (required)").wait_for()
        page.keyboard.press("Escape")

    def test_7_usage_shows_exactly_those_turns(
        self, app: App, page: "playwright.Page", shown: list[tuple[int, int, int, str]]
    ) -> None:
        settings = settings_for(app.home)
        wait_for("all turns in the store", lambda: len(read_turns(settings)) >= len(shown))
        go(page, "Usage")
        page.get_by_role("button", name="Refresh").click()
        idle(page)
        texts = page.get_by_test_id("stMetric").all_inner_texts()
        metrics = dict([line for line in text.splitlines() if line][:2] for text in texts)
        turns = read_turns(settings)
        logged = turns[["prompt_tokens", "completion_tokens", "total_tokens", "finish_reason"]].itertuples(index=False)
        for ours, theirs in zip(sorted(map(tuple, logged)), sorted(shown), strict=True):
            # A stopped turn may be shown before its worker logged the last token or two.
            near = 2 if theirs[3] == "cancelled" else 0
            assert (ours[0], ours[3]) == (theirs[0], theirs[3])
            assert 0 <= ours[1] - theirs[1] <= near
        assert metrics["Turns"] == str(len(shown))
        assert metrics["Total tokens"] == f"{turns['total_tokens'].sum():,}"
        drawn = "document.querySelectorAll('[data-testid=stPlotlyChart] .barlayer').length"
        page.wait_for_function(f"{drawn} >= 7")
        assert page.get_by_test_id("stPlotlyChart").count() == 7

    def test_8_a_killed_worker_is_explained_and_the_next_message_works(self, page: "playwright.Page", app: App) -> None:
        go(page, "Chat")
        choose(page, "transformers")
        send(page, "List the capitals of the world.")
        wait_for_text(page, "Afghanistan: Kabul")
        for child in psutil.Process(app.pid).children(recursive=True):
            if any(each.status == psutil.CONN_LISTEN for each in child.net_connections("tcp")):  # a worker
                child.kill()
        wait_for_text(page, "The answer was interrupted.")
        send(page, "What is the capital of Spain?")
        page.get_by_text("The capital of Spain is Madrid.").last.wait_for()
