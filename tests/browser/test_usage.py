"""Usage in a real browser, on a store with hundreds of turns: bars list their turns, a row opens, files are what is shown."""

import re
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.usage import fill_store, sample_turns
from phi3kit.core.records import Message, TurnText
from phi3kit.core.settings import Settings
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.turns_table import since
from phi3kit.usage.writer import write_waiting
from tests.support.in_browser import idle, needs_browser, running_app, tab_on, wait_for_text
from tests.support.samples import new_store

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = needs_browser

MARKUP = "<b>Where</b> is ![x](http://127.0.0.1:9/x.png)?"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """600 turns over 90 days, the newest of them with its text."""
    home = tmp_path_factory.mktemp("usage")
    settings = new_store(home)
    turns = sample_turns(600)
    fill_store(settings, turns)
    text = TurnText((Message("user", MARKUP),), ("In Greece.",))
    newest = replace(turns[-1], turn_id="newest", at=time.time() - 5, wrapper="onnx", interface="openai", text=text)
    Outbox(home).add(newest)
    write_waiting(settings)
    return settings


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    with running_app(settings.home) as app:
        yield f"{app.url}/usage"


@pytest.fixture(scope="module")
def page(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    """One tab for all tests, in their order."""
    with tab_on(url, tmp_path_factory.mktemp("profile"), 1280, 1000, timezone_id="Europe/Athens") as tab:
        yield tab


def all_drawn(page: "playwright.Page") -> None:
    page.get_by_role("heading", name="Usage", exact=True, level=1).wait_for()
    page.wait_for_function("document.querySelectorAll('[data-testid=stPlotlyChart] .barlayer').length >= 7")
    idle(page)


def choose(page: "playwright.Page", period: str) -> None:
    page.get_by_role("radio", name=period, exact=True).click()
    page.wait_for_function(f"location.search.includes('usage_period={period.replace(' ', '+')}')")
    idle(page)


def test_1_a_click_on_a_bar_lists_its_turns_and_a_row_of_them_opens(page: "playwright.Page") -> None:
    all_drawn(page)
    bar = page.get_by_test_id("stPlotlyChart").first.locator(".barlayer .point path").last
    box = bar.bounding_box()
    assert box is not None
    # Its beginning: the axis ends now, and cuts a bar whose hours have just begun.
    page.mouse.click(box["x"] + box["width"] / 8, box["y"] + box["height"] / 2)
    listed = page.get_by_text(re.compile(r"^\d+ turns? of \d+ \w+"))
    listed.wait_for()
    idle(page)
    table = page.get_by_test_id("stDataFrame").first.bounding_box()
    assert table is not None
    page.mouse.click(table["x"] + 20, table["y"] + 53)  # the first row's box
    drawer = page.get_by_role("dialog")
    wait_for_text(drawer, MARKUP)  # as text: nothing of it is drawn
    assert drawer.locator("img").count() == 0
    assert drawer.get_by_text("In Greece.").count() == 1
    drawer.get_by_role("link", name="Trace in MLflow").wait_for()
    links = drawer.get_by_role("link")
    addresses = [links.nth(number).get_attribute("href") or "" for number in range(links.count())]
    assert any(re.search(r":5000/#/experiments/\d+/runs/\w{32}$", address) for address in addresses)
    assert any("selectedEvaluationId=tr-" in address for address in addresses), addresses
    page.keyboard.press("Escape")
    drawer.wait_for(state="detached")
    idle(page)
    assert page.get_by_role("dialog").count() == 0, "closing must not open it again"


def test_2_files_hold_exactly_what_is_filtered(
    page: "playwright.Page", url: str, settings: Settings, tmp_path: Path
) -> None:
    page.goto(url)  # nothing is chosen any more
    all_drawn(page)
    choose(page, "30 days")
    page.get_by_role("button", name="onnx", exact=True).click()
    page.wait_for_function("location.search.includes('usage_wrapper')")
    idle(page)
    turns = since(read_turns(settings), "30d")
    expected = turns[turns["wrapper"] != "onnx"]
    read = {"CSV": pd.read_csv, "Parquet": pd.read_parquet, "JSON": pd.read_json}
    for name, reader in read.items():
        with page.expect_download() as coming:
            page.get_by_role("button", name=name, exact=True).click()
        coming.value.save_as(tmp_path / name)
        found = reader(tmp_path / name)
        assert sorted(found["run_id"]) == sorted(expected["run_id"]), name
        assert found["total_tokens"].sum() == expected["total_tokens"].sum()
    page.get_by_test_id("stPlotlyChart").first.hover()
    with page.expect_download() as image:
        page.locator(".modebar-btn").first.click()
    image.value.save_as(tmp_path / "image.png")
    assert image.value.suggested_filename == "phi3kit-tokens-over-time.png"
    picture = (tmp_path / "image.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (2000, 1000)  # width and height


def test_3_a_link_opens_with_its_filters(page: "playwright.Page", url: str) -> None:
    page.goto(f"{url}?usage_period=All&usage_width=week&usage_user=ada")
    wait_for_text(page, "Filters · 1")
    idle(page)
    assert page.get_by_role("radio", name="All", exact=True).get_attribute("aria-checked") == "true"
    page.get_by_text("Change vs.").wait_for(state="detached")


def test_4_390_pixels_are_enough_in_light_and_dark(page: "playwright.Page") -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme, period in (("light", "30 days"), ("dark", "All")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        choose(page, period)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, scheme
        main = "document.querySelector('[data-testid=stMain]')"
        assert page.evaluate(f"{main}.scrollWidth <= {main}.clientWidth + 1"), scheme


def test_5_a_bar_is_chosen_by_keyboard_alone(page: "playwright.Page", url: str) -> None:
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{url}?usage_period=30+days")
    all_drawn(page)
    page.locator("summary").filter(has_text="Tokens over time as a table").press("Enter")
    idle(page)
    grid = page.get_by_test_id("stExpander").first.get_by_test_id("data-grid-canvas")
    grid.wait_for()
    for _ in range(10):  # over the table's own buttons
        page.keyboard.press("Tab")
        if grid.evaluate("canvas => canvas === document.activeElement"):
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Space")
    wait_for_text(page, re.compile(r"^\d+ turns? of \d+ \w+ \d{4}"))
    page.get_by_text("Select a row to see the turn.").nth(1).wait_for()
