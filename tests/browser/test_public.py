"""A stranger in the profile public, as on Streamlit Community Cloud: the whole main job within 1 GB, and nothing else.

PHI3KIT_TEST_PYTHON names another interpreter to start the app with: `make test-slow` gives one of an environment that was
made from requirements.txt alone.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

import httpx2
import pytest

from phi3kit.core.settings import Settings
from phi3kit.tracking.logged_models import list_models
from phi3kit.usage.reader import read_turns
from tests.conftest import settings_for
from tests.support.in_browser import (
    App,
    go,
    idle,
    last_answer,
    main_text,
    needs_browser,
    running_app,
    send,
    tab_on,
    wait_for_text,
)
from tests.support.system_limits import MemoryGroup, memory_group
from tests.support.waiting import wait_for

pytestmark = [*needs_browser, pytest.mark.slow]

playwright = pytest.importorskip("playwright.sync_api")

LIMIT = 1_000_000_000
QUESTION = "What is the capital of Spain? My secret word is quetzalcoatl."
PYTHON = os.environ.get("PHI3KIT_TEST_PYTHON") or sys.executable


@pytest.fixture(scope="module")
def group() -> Iterator[MemoryGroup | None]:
    with memory_group(LIMIT) as found:
        yield found


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(tmp_path_factory.mktemp("public"), PHI3KIT_PROFILE="public")


@pytest.fixture(scope="module")
def app(settings: Settings, group: MemoryGroup | None) -> Iterator[App]:
    command = group.command(PYTHON) if group else [PYTHON]
    with running_app(settings.home, python=command, PHI3KIT_PROFILE="public", PHI3KIT_USER_MINUTE_TURNS="4") as app:
        yield app


@pytest.fixture(scope="module")
def page(app: App, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    with tab_on(app.url, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def test_1_both_wrappers_are_built_at_one_click(page: "playwright.Page", settings: Settings) -> None:
    page.get_by_role("button", name="Build both wrappers").click()
    wait_for_text(page, re.compile(r"Built: transformers and onnx from embedded \(small\)"))
    assert sorted(model.wrapper for model in list_models(settings)) == ["onnx", "transformers"]


def test_2_it_talks_in_both_formats_and_compares_signatures(page: "playwright.Page") -> None:
    go(page, "Chat")
    page.get_by_test_id("stChatInputTextArea").wait_for()
    send(page, QUESTION)
    page.get_by_text("tokens/s").first.wait_for()
    idle(page)
    assert last_answer(page)
    go(page, "Prompt")
    page.get_by_role("button", name="Send", exact=True).wait_for()
    idle(page)
    page.get_by_role("textbox", name="Raw prompt").fill("<|user|>\nWhat is MLflow?<|end|>\n<|assistant|>\n")
    page.get_by_role("button", name="Send", exact=True).click()
    page.get_by_text("tokens/s").first.wait_for()
    go(page, "Signatures")
    page.get_by_role("listitem").filter(has_text="prompt string (required)").wait_for()


def test_3_its_turns_are_charted_for_itself_alone(page: "playwright.Page", app: App, settings: Settings) -> None:
    wait_for("both turns in the store", lambda: len(read_turns(settings)) == 2)
    go(page, "Usage")
    page.wait_for_function("document.querySelectorAll('[data-testid=stPlotlyChart] .barlayer').length >= 2")
    other = page.context.new_page()
    other.goto(f"{app.url}/usage")
    wait_for_text(other, "There are no turns yet.")
    other.close()


def test_4_the_next_question_within_a_minute_is_refused_with_a_sentence(page: "playwright.Page") -> None:
    go(page, "Chat")
    page.get_by_test_id("stChatInputTextArea").wait_for()
    refusal = page.get_by_text(re.compile("Too many requests|has to wait"))
    for turn in range(1, 20):  # four in a minute; those of the tests before may lie further back
        idle(page)
        said = page.get_by_test_id("stChatMessage").count()
        send(page, f"hello {turn}")
        wait_for_text(page, f"hello {turn}", exact=True)
        idle(page)
        if refusal.count():
            break
        assert page.get_by_test_id("stChatMessage").count() == said + 2
    refusal.first.wait_for()
    assert "the limit is 4" in main_text(page)
    assert turn <= 5


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("Build", "build from another source"),
        ("Batch", "run a batch"),
        ("Evaluate", "evaluate a model"),
        ("Models", "change the Model Registry"),
        ("Deploy", "start or stop servers"),
    ],
)
def test_5_a_page_says_what_is_not_for_strangers(page: "playwright.Page", name: str, refusal: str) -> None:
    go(page, name)
    page.get_by_text(f"You may not {refusal}").first.wait_for()
    idle(page)
    assert "This is a public demo" in main_text(page)
    if name == "Models":
        assert page.get_by_role("button", name="Delete", exact=True).is_disabled()
        assert page.get_by_role("button", name="Register").is_disabled()


def test_6_no_response_lets_a_page_load_anything_from_elsewhere(app: App) -> None:
    headers = httpx2.get(app.url).headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "img-src 'self' data: blob:" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_7_a_file_that_is_too_big_is_refused_while_it_comes(app: App) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 100_000

    url = f"{app.url}/_stcore/upload_file/session/file"
    assert httpx2.put(url, content=b"x" * 1_000_001).status_code == 413
    with contextlib.suppress(httpx2.HTTPError):  # cut off in the middle is a refusal too
        assert httpx2.put(url, content=endless()).status_code >= 400


def test_8_what_was_said_is_nowhere_in_the_data_folder(settings: Settings) -> None:
    for path in settings.home.rglob("*"):
        assert not (path.is_file() and b"quetzalcoatl" in path.read_bytes()), path


def test_9_all_of_it_fitted_into_its_memory(group: MemoryGroup | None) -> None:
    if group is None:
        pytest.skip("this machine lets nobody make a control group: the memory was not bounded")
    assert group.kills == 0
    assert 100_000_000 < group.most_bytes <= LIMIT
