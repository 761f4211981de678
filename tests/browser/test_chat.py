"""The Chat page in a real browser: what Streamlit's test runner cannot do: keys, the clipboard, files, streams, two tabs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.conversations.saved import SavedConversations
from phi3kit.conversations.transcripts import from_openai
from phi3kit.endpoints.connections import Connection, remove_connection, save_connection
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_browser import (
    choose,
    chromium,
    go,
    idle,
    last_answer,
    needs_browser,
    running_app,
    send,
    wait_for_text,
)
from tests.support.scripted_server import scripted

pytestmark = needs_browser

playwright = pytest.importorskip("playwright.sync_api")

SPAIN, MADRID = "What is the capital of Spain?", "The capital of Spain is Madrid."
CHUNK = {"choices": [{"index": 0, "delta": {"content": "Held so far"}, "finish_reason": None}]}
HELD = (
    b"HTTP/1.1 200 Said\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    + (
        f"data: {json.dumps(CHUNK | {'id': 'c', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm'})}\n\n"
    ).encode()
)


@pytest.fixture(scope="module")
def url(built: Built) -> Iterator[str]:
    """The app's address."""
    with running_app(built.home) as app:
        yield app.url


@pytest.fixture(scope="module")
def context(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.BrowserContext"]:
    with chromium(tmp_path_factory.mktemp("profile"), accept_downloads=True) as found:
        found.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        yield found


@pytest.fixture(scope="module")
def tab(context: "playwright.BrowserContext", url: str) -> "playwright.Page":
    """One tab for all tests."""
    return open_tab(context, f"{url}/chat")


@pytest.fixture
def page(tab: "playwright.Page") -> "playwright.Page":
    """The tab, on a new chat."""
    if tab.get_by_test_id("stChatMessage").count():
        new_chat(tab)
    return tab


def open_tab(context: "playwright.BrowserContext", address: str) -> "playwright.Page":
    tab = context.new_page()
    tab.goto(address)
    tab.get_by_role("heading", name="Chat", exact=True, level=1).wait_for()
    tab.get_by_test_id("stChatInputTextArea").wait_for()
    idle(tab)
    return tab


def tab_with(context: "playwright.BrowserContext", address: str, script: str) -> "playwright.Page":
    """A tab of a browser that a script has made another one."""
    tab = context.new_page()
    tab.add_init_script(script)
    tab.goto(address)
    tab.get_by_test_id("stChatInputTextArea").wait_for()
    idle(tab)
    return tab


def new_chat(page: "playwright.Page") -> None:
    page.get_by_role("button", name="New chat").click()
    wait_for_text(page, "Try one of these")
    idle(page)


def answered(page: "playwright.Page", text: str, reason: str = "stop") -> None:
    """Wait until the last answer has this text and ended so."""
    page.get_by_text(text).last.wait_for()
    page.get_by_text(re.compile(rf"tokens.* · {reason}$")).last.wait_for()
    page.locator("[class*='st-key-more_']").last.wait_for()
    idle(page)


def press(page: "playwright.Page", key: str) -> None:
    """Click the last visible button whose key begins so; a button with a tooltip stands in the page twice."""
    page.locator(f"[class*='st-key-{key}'] button:visible").last.click()
    idle(page)


class TestKeys:
    def test_escape_stops_and_keeps_the_text_and_continue_goes_on(self, page: "playwright.Page", built: Built) -> None:
        for attempt in range(1, 6):  # on a fast machine an answer may be over before the key is pressed
            send(page, "List the capitals of the world.")
            page.get_by_text("Afghanistan: Kabul").nth(attempt - 1).wait_for()
            page.keyboard.press("Escape")
            page.get_by_text(re.compile("· (cancelled|length)$")).nth(attempt - 1).wait_for()
            idle(page)
            if "cancelled" in last_answer(page):
                break
        assert "cancelled" in last_answer(page)
        before = last_answer(page)
        assert "Zimbabwe: Harare" not in before
        page.get_by_role("button", name="Continue").last.click()
        page.wait_for_function(
            "before => [...document.querySelectorAll('[data-testid=stChatMessage]')].at(-1).innerText.length > before",
            arg=len(before) + 20,
        )
        page.keyboard.press("Escape")
        answered(page, "Afghanistan: Kabul", "(cancelled|length|stop)")
        after = last_answer(page)
        assert after.splitlines().count("Afghanistan: Kabul") == 1
        assert len(after.splitlines()) > len(before.splitlines())
        assert "of 2" not in after, "the completed answer stands in the place of the cut one"

    def test_new_chat_and_edit_last_have_keys_that_work_while_one_types(self, page: "playwright.Page") -> None:
        send(page, SPAIN)
        answered(page, MADRID)
        page.get_by_test_id("stChatInputTextArea").focus()
        page.keyboard.press("Control+ArrowUp")
        area = page.get_by_role("textbox", name="Message", exact=True)
        area.wait_for()
        assert area.input_value() == SPAIN
        area.fill("What is the capital of Greece?")
        area.press("Control+Enter")
        answered(page, "The capital of Greece is Athens.")
        wait_for_text(page, "2 of 2")
        press(page, "branch_-1_")
        wait_for_text(page, MADRID)
        assert page.get_by_text("Athens").count() == 0
        page.get_by_test_id("stChatInputTextArea").focus()
        page.keyboard.press("Control+Shift+O")
        wait_for_text(page, "Try one of these")
        idle(page)
        assert page.get_by_test_id("stChatMessage").count() == 0
        assert "conversation=" not in page.url


class TestTheEndOfAnAnswer:
    def test_it_neither_vanishes_nor_doubles(self, page: "playwright.Page") -> None:
        page.evaluate(
            """text => {
                window.seen = []
                const look = () => {
                    const all = [...document.querySelectorAll('[data-testid=stChatMessage]')].map(each => each.innerText)
                    window.seen.push([all.length, all.filter(each => each.includes(text)).length])
                    requestAnimationFrame(look)
                }
                look()
            }""",
            MADRID,
        )
        send(page, SPAIN)
        answered(page, MADRID)
        seen = page.evaluate("window.seen")
        shown = [answers for _, answers in seen]
        assert max(messages for messages, _ in seen) == 2
        assert set(shown[shown.index(1) :]) == {1}


class TestElsewhere:
    def test_an_answer_goes_on_while_another_page_is_open(self, page: "playwright.Page") -> None:
        send(page, "List the capitals of the world.")
        wait_for_text(page, "Afghanistan: Kabul")
        go(page, "Signatures")
        go(page, "Chat")
        answered(page, "Afghanistan: Kabul", "(length|stop)")

    def test_a_new_message_stops_the_answer_that_grows_and_says_so(self, page: "playwright.Page") -> None:
        send(page, "List the capitals of the world.")
        wait_for_text(page, "Afghanistan: Kabul")
        send(page, SPAIN)
        answered(page, MADRID)
        answers = page.get_by_test_id("stChatMessage").all_inner_texts()
        assert [text for text in answers if "Afghanistan: Kabul" in text and "Zimbabwe: Harare" not in text]
        wait_for_text(page, "has been stopped. Its text so far is kept.")

    def test_a_dialog_works_while_an_answer_grows(self, page: "playwright.Page") -> None:
        send(page, "List the capitals of the world.")
        wait_for_text(page, "Afghanistan: Kabul")
        page.get_by_role("button", name="Conversations").click()
        dialog = page.get_by_test_id("stDialog")
        dialog.get_by_placeholder("Titles, messages and answers").fill("no such text anywhere")
        dialog.get_by_placeholder("Titles, messages and answers").press("Enter")
        wait_for_text(dialog, "No conversations contain this text.")
        dialog.get_by_role("button", name="Close").click()
        answered(page, "Afghanistan: Kabul", "(length|stop)")

    def test_a_reload_finds_the_answer_that_grows(self, page: "playwright.Page", url: str, built: Built) -> None:
        with scripted(HELD, again=b": wait\n\n", pause_s=0.1) as server:
            save_connection(Connection("held", server.url, model="m"), ADMIN, built.settings)
            try:
                page.reload()
                idle(page)
                choose(page, "remote")
                send(page, "What do you hold?")
                wait_for_text(page, "Held so far")
                page.wait_for_url(re.compile("conversation="))
                page.reload()
                wait_for_text(page, "Held so far")
                wait_for_text(page, "What do you hold?")
                page.locator(".st-key-stop_answer button:enabled:visible").first.wait_for()
            finally:
                remove_connection("held", ADMIN, built.settings)
        wait_for_text(page, "The answer was interrupted.")
        idle(page)
        assert page.get_by_test_id("stChatMessage").count() == 2
        page.goto(f"{url}/chat")
        page.get_by_test_id("stChatInputTextArea").wait_for()
        idle(page)


class TestComposer:
    def test_a_draft_survives_another_page_and_a_reload_and_ends_when_it_is_sent_or_emptied(
        self, page: "playwright.Page"
    ) -> None:
        composer = page.get_by_test_id("stChatInputTextArea")
        composer.fill("What is the capital")
        go(page, "Signatures")
        go(page, "Chat")
        playwright.expect(composer).to_have_value("What is the capital")
        page.reload()
        playwright.expect(composer).to_have_value("What is the capital")
        idle(page)
        composer.press("End")
        composer.press_sequentially(" of Spain?")
        composer.press("Enter")
        answered(page, MADRID)
        page.reload()
        answered(page, MADRID)
        assert composer.input_value() == ""
        composer.fill("x")
        composer.fill("")
        page.reload()
        answered(page, MADRID)
        assert composer.input_value() == ""

    def test_it_has_the_focus_when_chat_opens_and_after_an_answer_and_a_message_that_is_edited_has_it(
        self, page: "playwright.Page"
    ) -> None:
        has_focus = "document.activeElement?.dataset.testid === 'stChatInputTextArea'"
        go(page, "Signatures")
        go(page, "Chat")
        page.wait_for_function(has_focus)
        page.get_by_text(SPAIN, exact=True).click()
        answered(page, MADRID)
        page.wait_for_function(has_focus)
        press(page, "edit_")
        page.wait_for_function("document.activeElement?.ariaLabel === 'Message'")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_function(has_focus)

    def test_an_answer_is_announced_once_and_whole(self, page: "playwright.Page") -> None:
        region = page.get_by_role("status").filter(has_text=MADRID)
        assert region.count() == 0
        send(page, SPAIN)
        answered(page, MADRID)
        region.wait_for(state="attached")
        assert region.inner_text() == MADRID
        page.reload()
        answered(page, MADRID)
        assert region.count() == 0, "what stands there when the page opens is not read out"


class TestOtherBrowsers:
    def test_without_a_clipboard_the_text_can_be_copied_by_hand(
        self, context: "playwright.BrowserContext", url: str
    ) -> None:
        tab = tab_with(context, f"{url}/chat", "Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        send(tab, SPAIN)
        answered(tab, MADRID)
        press(tab, "copy_")
        wait_for_text(tab.get_by_test_id("stDialog"), MADRID)
        tab.close()

    def test_without_storage_everything_but_a_draft_is_there(
        self, context: "playwright.BrowserContext", url: str
    ) -> None:
        denied = "{get() { throw new DOMException('denied', 'SecurityError') }}"
        script = f"for (const it of ['localStorage', 'sessionStorage']) Object.defineProperty(window, it, {denied})"
        tab = tab_with(context, f"{url}/chat", script)
        send(tab, SPAIN)
        answered(tab, MADRID)
        tab.close()

    def test_without_webgl_the_charts_are_drawn(self, context: "playwright.BrowserContext", url: str) -> None:
        tab = context.new_page()
        tab.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
        tab.goto(f"{url}/usage")
        tab.locator(".js-plotly-plot .barlayer .point").first.wait_for()
        tab.close()

    def test_a_long_word_and_right_to_left_text_stay_within_a_phone(self, page: "playwright.Page") -> None:
        page.set_viewport_size({"width": 390, "height": 844})
        for text in ("x" * 2_000, "ما هي عاصمة إسبانيا؟ " * 20):
            send(page, text)
            page.locator("[class*='st-key-more_']").last.wait_for()
            idle(page)
            assert page.get_by_test_id("stChatMessage").filter(has_text=text.strip()).count() == 1
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            block = page.get_by_test_id("stMainBlockContainer")
            assert block.evaluate("each => each.scrollWidth <= each.clientWidth")
        page.set_viewport_size({"width": 1280, "height": 900})

    def test_home_has_an_address(self, context: "playwright.BrowserContext", url: str) -> None:
        tab = context.new_page()
        tab.goto(f"{url}/home")
        tab.get_by_role("heading", name="Phi-3 as an MLflow model, two ways").wait_for()
        idle(tab)
        assert tab.get_by_test_id("stDialog").count() == 0
        assert tab.get_by_test_id("stSidebarNav").get_by_role("link", name="Home", exact=True).count() == 1
        tab.close()


class TestCopy:
    def test_the_answers_text_is_on_the_clipboard_and_a_growing_answer_is_not_stopped(
        self, page: "playwright.Page"
    ) -> None:
        send(page, SPAIN)
        answered(page, MADRID)
        send(page, "List the capitals of Europe.")
        wait_for_text(page, "Albania: Tirana")
        page.locator("[class*='st-key-copy_'] button:visible").first.click()
        page.wait_for_function("text => navigator.clipboard.readText().then((it) => it === text)", arg=MADRID)
        answered(page, "Vatican City")
        press(page, "copy_")
        has = "text => navigator.clipboard.readText().then((it) => it.includes(text))"
        page.wait_for_function(has, arg="- Greece: Athens\n")


class TestFiles:
    def test_an_export_is_imported_again_and_the_page_of_it_is_safe(
        self, page: "playwright.Page", context: "playwright.BrowserContext", tmp_path: Path
    ) -> None:
        hostile = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
        send(page, hostile)
        answered(page, "I am the small embedded Phi-3")
        send(page, SPAIN)
        page.locator("[class*='st-key-more_']").nth(1).wait_for()
        idle(page)
        page.get_by_role("button", name="Share").click()
        files = {}
        for label in ("Markdown", "HTML", "JSON"):
            with page.expect_download() as download:
                page.get_by_role("button", name=label, exact=True).click()
            files[label] = tmp_path / download.value.suggested_filename
            download.value.save_as(files[label])
        page.keyboard.press("Escape")
        # HTML: opened as a file, it runs nothing and shows the text.
        shown = context.new_page()
        shown.goto(files["HTML"].as_uri())
        assert hostile in shown.locator("article.user pre").first.inner_text()
        assert shown.title() != "hacked"
        assert shown.locator("script, img").count() == 0
        shown.close()
        assert hostile in files["Markdown"].read_text("utf-8")
        # JSON: imported, it is the same conversation.
        messages = json.loads(files["JSON"].read_text("utf-8"))["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant"] * 2
        new_chat(page)
        page.get_by_role("button", name="Conversations").click()
        page.get_by_text("Import", exact=True).click()
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(files["JSON"])
        page.get_by_text("imported").first.wait_for()
        idle(page)
        assert page.get_by_test_id("stDialog").count() == 0
        assert page.get_by_test_id("stChatMessage").count() == 4
        assert page.get_by_text(hostile).count() >= 1
        again, _ = from_openai(files["JSON"].read_bytes())
        assert [turn.text for turn in again.shown] == [messages[0]["content"], messages[2]["content"]]


class TestConversations:
    def test_a_reload_keeps_the_conversation_and_two_tabs_lose_nothing(
        self, page: "playwright.Page", context: "playwright.BrowserContext", built: Built
    ) -> None:
        send(page, SPAIN)
        answered(page, MADRID)
        page.wait_for_url(re.compile("conversation="))
        page.reload()
        answered(page, MADRID)
        other = open_tab(context, page.url)
        answered(other, MADRID)
        send(page, "And of France?")
        answered(page, "The capital of France is Paris.")
        send(other, "And of Greece?")
        answered(other, "The capital of Greece is Athens.")
        wait_for_text(other, "was added to this conversation in another tab")
        wait_for_text(other, "2 of 2")
        press(other, "branch_-1_")
        wait_for_text(other, "The capital of France is Paris.")
        other.close()
        identifier = page.url.rpartition("conversation=")[2]
        kept = SavedConversations(built.settings.home, built.settings.user).open(identifier)
        assert kept is not None
        assert [turn.text for turn in kept.turns] == [SPAIN, "And of France?", "And of Greece?"]

    def test_the_drawer_searches_renames_opens_and_deletes(self, page: "playwright.Page") -> None:
        send(page, "What is the capital of Portugal?")
        answered(page, "The capital of Portugal is Lisbon.")
        new_chat(page)
        page.get_by_role("button", name="Conversations").click()
        drawer = page.get_by_test_id("stDialog")
        drawer.get_by_placeholder("Titles, messages and answers").fill("of PORTUGAL is")
        drawer.get_by_placeholder("Titles, messages and answers").press("Enter")
        row = drawer.get_by_role("button", name="What is the capital of Portugal?")
        row.wait_for()
        idle(page)
        playwright.expect(drawer.locator("[class*='st-key-open_']")).to_have_count(1)
        drawer.locator("[class*='st-key-drawer_more_'] button:visible").click()
        page.get_by_text("Rename", exact=True).click()
        drawer.get_by_role("textbox", name="Title").fill("*Lisboa* <b>")
        drawer.get_by_role("button", name="Save").click()
        drawer.get_by_role("button", name="*Lisboa* <b>").click()
        wait_for_text(page, "The capital of Portugal is Lisbon.")
        idle(page)
        playwright.expect(drawer).to_have_count(0)
        page.get_by_role("button", name="Conversations").click()
        idle(page)
        first = drawer.locator("[class*='st-key-drawer_more_'] button:visible").first
        first.click()
        page.get_by_text("Delete", exact=True).click()
        wait_for_text(drawer, "This permanently deletes its text")
        idle(page)
        drawer.get_by_role("button", name="Delete", exact=True).click()
        wait_for_text(page, "Try one of these")
        idle(page)
        assert page.get_by_text("Lisbon").count() == 0
        assert "conversation=" not in page.url

    def test_an_export_after_a_rename_has_the_new_title(self, page: "playwright.Page") -> None:
        send(page, SPAIN)
        answered(page, MADRID)
        page.get_by_role("button", name="Conversations").click()
        drawer = page.get_by_test_id("stDialog")
        drawer.locator("[class*='st-key-drawer_more_'] button:visible").first.click()
        page.get_by_text("Rename", exact=True).click()
        drawer.get_by_role("textbox", name="Title").fill("Iberia")
        drawer.get_by_role("button", name="Save").click()
        drawer.get_by_role("button", name="Iberia").wait_for()
        idle(page)
        page.keyboard.press("Escape")
        playwright.expect(drawer).to_have_count(0)
        idle(page)
        page.get_by_role("button", name="Share").click()
        with page.expect_download() as downloading:
            page.get_by_role("button", name="Markdown").click()
        assert downloading.value.suggested_filename == "Iberia.md"
        assert Path(downloading.value.path()).read_text().startswith("# Iberia\n")
        page.keyboard.press("Escape")
