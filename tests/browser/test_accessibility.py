"""Every page with something on it, in both themes and widths: what axe-core finds, and a print of each to look at.

WCAG 2.2 AA, as far as a program can see it. The prints lie in `.prints/`, with a page that shows them all.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bench.usage import fill_store, sample_turns
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.tracking import registry
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.in_browser import chromium, go, idle, needs_browser, running_app, send
from tests.support.samples import copy_of_store, evaluation_run

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [*needs_browser, pytest.mark.slow]

PRINTS = PROJECT_ROOT / ".prints"
TABLE: Any = {"name": "in.csv", "mimeType": "text/csv", "buffer": b"message\nWhat is MLflow?\nTell me a joke.\n"}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTHS = {"wide": (1280, 900), "phone": (390, 844)}
PAGES = (
    "Home", "Build", "Models", "Signatures", "Chat", "Prompt", "Compare", "Usage", "Batch", "Evaluate", "Deploy", "Tour",
    "Access",
)  # fmt: skip

# What Streamlit draws and no page can change: the rule, a part of the element, and the reason.
STREAMLITS_OWN = (
    ("list", "stSidebarNavItems", "the menu's sections are boxes in a list"),
    ("presentation-role-conflict", "stFileUploaderDropzone", "the place to drop a file has a role and a name"),
    ("listitem", "<li class", "the menu's links are items in those boxes"),
    (
        "region",
        "data-floating-ui-portal",
        "a tooltip or a list that floats above the page lies outside of its landmarks",
    ),
)


@pytest.fixture(scope="module")
def store(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two models, one of them registered, 300 turns and an evaluation."""
    settings = copy_of_store(built.settings, tmp_path_factory.mktemp("prints"))
    fill_store(settings, sample_turns(300))
    uri = built.uri("transformers")
    registry.register(uri, "phi3", ADMIN, settings, aliases=["champion"])
    evaluation_run(settings, {"exact": 0.5}, {"model_uri": uri}, model_uri=uri, wrapper="transformers")
    return settings


@pytest.fixture(scope="module")
def browser(store: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator["playwright.Page"]:
    with (
        running_app(store.home) as app,
        chromium(tmp_path_factory.mktemp("profile")) as browser,
    ):
        page = browser.new_page()
        page.goto(app.url)
        page.get_by_role("heading", level=1).first.wait_for()
        idle(page)
        yield page


def fill(page: "playwright.Page", name: str) -> None:
    """Do on the page what leaves something to see there."""
    match name:
        case "Home":
            page.get_by_test_id("stMermaidChart").locator("img").first.wait_for()
        case "Chat":
            send(page, "What is the capital of Spain?")
            page.get_by_text("tokens/s").first.wait_for()
        case "Prompt":
            page.get_by_role("textbox", name="Raw prompt").fill("<|user|>\nTell me a joke.<|end|>\n<|assistant|>\n")
            page.get_by_role("button", name="Send", exact=True).click()
            page.get_by_text("tokens/s").first.wait_for()
        case "Compare":
            send(page, "What is the capital of Spain?")
            page.get_by_text("tokens/s").nth(1).wait_for()
        case "Usage":
            page.wait_for_function("document.querySelectorAll('[data-testid=stPlotlyChart] .barlayer').length >= 7")
        case "Batch":
            page.locator("input[type=file]").set_input_files(TABLE)
            page.get_by_role("button", name="Answer 2 rows").click()
            page.get_by_role("button", name=re.compile("Download .*completions")).first.wait_for()
    idle(page)


def found_by_axe(page: "playwright.Page") -> list[str]:
    """What breaks a rule, an element a line: the rule, the element and what is wrong."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": RULES, "resultTypes": ["violations"]}
    violations = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']}: {node['html'][:300]} | {' '.join(node['target'])} | {node['failureSummary']}"
        for each in violations
        for node in each["nodes"]
        if not any(each["id"] == rule and part in node["html"] for rule, part, _ in STREAMLITS_OWN)
    ]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_breaks_no_rule_that_a_program_can_see(browser: "playwright.Page", name: str) -> None:
    browser.set_viewport_size({"width": 1280, "height": 900})
    go(browser, name) if name != "Home" else browser.get_by_test_id("stSidebarNav").get_by_role(
        "link", name=name
    ).click()
    fill(browser, name)
    PRINTS.mkdir(exist_ok=True)
    found = set()
    for theme in ("light", "dark"):
        browser.emulate_media(color_scheme=theme)
        for width, (x, y) in WIDTHS.items():
            browser.set_viewport_size({"width": x, "height": y})
            idle(browser)
            browser.screenshot(path=PRINTS / f"{name.lower()}-{width}-{theme}.png")
            found |= {f"{width} {theme} {each}" for each in found_by_axe(browser)}
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    ("name", "opener", "test_id"),
    [
        ("Chat", "Conversations", "stDialog"),
        ("Chat", "Connections", "stDialog"),
        ("Chat", "Settings", "stPopoverBody"),
        ("Chat", "Share", "stPopoverBody"),
        ("Prompt", "Parameters", "stPopoverBody"),
        ("Models", "Delete", "stDialog"),
        ("Usage", "Filters", "stPopoverBody"),
        ("Usage", "Your prices", "stPopoverBody"),
        ("Build", "Register", "stPopoverBody"),
    ],
)
def test_what_opens_over_a_page_breaks_none_either(
    browser: "playwright.Page", name: str, opener: str, test_id: str
) -> None:
    browser.set_viewport_size({"width": 1280, "height": 900})
    go(browser, name)
    browser.get_by_test_id("stMainBlockContainer").get_by_role("button", name=opener).first.click()
    browser.get_by_test_id(test_id).wait_for()
    idle(browser)
    found = set()
    for theme in ("light", "dark"):
        browser.emulate_media(color_scheme=theme)
        idle(browser)
        browser.screenshot(path=PRINTS / f"{name.lower()}-{opener.lower().replace(' ', '_')}-{theme}.png")
        found |= {f"{theme} {each}" for each in found_by_axe(browser)}
    browser.keyboard.press("Escape")
    browser.get_by_test_id(test_id).wait_for(state="detached")
    idle(browser)
    assert not found, "\n".join(sorted(found))


def test_the_prints_are_on_one_page() -> None:
    pictures = sorted(path.name for path in PRINTS.glob("*.png"))
    assert {name.split("-")[0] for name in pictures} >= {name.lower() for name in PAGES}
    images = "".join(f'<figure><img src="{html.escape(name)}" width=600><figcaption>{html.escape(name)}</figcaption></figure>'
                     for name in pictures)  # fmt: skip
    (PRINTS / "index.html").write_text(f"<!doctype html><title>Prints</title>{images}")
