"""Pages: what a person at a browser waits for: python -m bench.pages [--turns N] [--repeat N] [--json].

A real app on a data folder of its own with both wrappers built and N logged turns, in headless chromium, 1280 pixels wide.
Times are this process's, from the click until Playwright sees the page's end; the end of an answer and what moves are told by
the browser itself. Needs chromium.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.builds import Figures
from bench.usage import fill_store, sample_turns
from phi3kit.core.settings import PROJECT_ROOT, read_settings
from tests.support.in_browser import App, chromium, go, idle, running_app, send, wait_for_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

_PAGES = (
    "Build", "Models", "Signatures", "Prompt", "Compare", "Usage", "Batch", "Evaluate", "Deploy", "Access", "Tour", "Chat",
)  # fmt: skip
_QUESTION = "List the capitals of Europe."
_BATCH_ROWS = 4_000

# What moves and when, from now on. A shift within half a second of a key is flagged as its effect and left out elsewhere;
# here it counts too, since an answer of a small model is over by then.
_WATCH = """() => {
  window.watched = { shifts: 0, grown: 0, ended: 0, length: 0 }
  window.watching?.disconnect()
  window.watching = new PerformanceObserver(list => list.getEntries().forEach(each => { watched.shifts += each.value }))
  window.watching.observe({ type: 'layout-shift' })
  const messages = () => [...document.querySelectorAll('[data-testid=stChatMessage]')]
  const before = messages().length
  const look = () => {
    const last = messages().slice(before).at(1)  // behind the question
    const text = last?.querySelector('[data-testid=stMarkdownContainer]')?.innerText || ''
    const now = performance.now()
    if (text.length > watched.length) { watched.length = text.length; watched.grown = now }
    if (!watched.ended && watched.length && last.querySelector("[class*='st-key-more_']")) watched.ended = now
    if (!watched.ended) requestAnimationFrame(look)
  }
  look()
}"""


def switches(page: "Page", repeat: int) -> Figures:
    """Seconds from a click in the menu until the page is whole; each page's median of `repeat` visits."""
    for name in _PAGES:
        go(page, name)  # its first visit of the session is not counted
    seconds: dict[str, list[float]] = {name: [] for name in _PAGES}
    for _ in range(repeat):
        for name in _PAGES:
            began = time.perf_counter()
            go(page, name)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: median(each) for name, each in seconds.items()}
    slowest = max(medians, key=medians.__getitem__)
    return {
        "page switch s, median of pages": median(medians.values()),
        "page switch s, slowest page": medians[slowest],
        "slowest page": slowest,
    }


def answers(page: "Page", repeat: int) -> Figures:
    """How long after its last token an answer takes its final state, and how far the page's parts moved meanwhile."""
    after, shifts = [], []
    go(page, "Chat")
    for number in range(repeat):
        page.evaluate(_WATCH)
        send(page, _QUESTION)
        page.wait_for_function("watched.ended")
        idle(page)
        watched = page.evaluate("watched")
        after.append((watched["ended"] - watched["grown"]) / 1000)
        if number:  # the first answer takes the place of the suggestions
            shifts.append(watched["shifts"])
    return {
        "last token to final state s, median": median(after),
        "last token to final state s, longest": max(after),
        "layout shift of an answer, largest": max(shifts),
    }


def usage(app: App, repeat: int) -> Figures:
    """Seconds of a browser's first visit of Usage, its charts drawn: from the menu, and by its address."""
    from_menu, by_address = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), optimized=True) as browser:
            page = browser.new_page()
            page.goto(f"{app.url}/chat")
            page.get_by_test_id("stChatInputTextArea").wait_for()
            idle(page)
            began = time.perf_counter()
            page.get_by_test_id("stSidebarNav").get_by_role("link", name="Usage", exact=True).click()
            wait_for_charts(page)
            from_menu.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as profile, chromium(Path(profile), optimized=True) as browser:
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(f"{app.url}/usage")
            wait_for_charts(page)
            by_address.append(time.perf_counter() - began)
    return {
        "first visit of Usage s, from the menu": median(from_menu),
        "first visit of Usage s, by its address": median(by_address),
    }


def wait_for_charts(page: "Page") -> None:
    """Wait until the first chart is drawn and the page's run is over."""
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    idle(page)


def batch(page: "Page", folder: Path, repeat: int) -> Figures:
    """Seconds from Stop until the page says that the batch has stopped."""
    seconds = []
    for number in range(repeat):
        table = folder / f"questions-{number}.csv"
        table.write_text("message\n" + "".join(f"What is the capital of Spain? {row}\n" for row in range(_BATCH_ROWS)))
        go(page, "Batch")
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(table)
        page.get_by_role("button", name=f"Answer {_BATCH_ROWS:,} rows").click()
        stop = page.get_by_role("button", name="Stop", exact=True)
        page.get_by_role("progressbar").first.wait_for()
        began = time.perf_counter()
        stop.click()
        wait_for_text(page, "Stopped")
        seconds.append(time.perf_counter() - began)
        idle(page)
        go(page, "Chat")
    return {"batch stopped after s, median": median(seconds), "batch stopped after s, longest": max(seconds)}


def measure(turns: int, repeat: int) -> Figures:
    """All of it, on a new data folder."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        settings = read_settings({"PHI3KIT_HOME": str(home)})
        command = [sys.executable, "-m", "phi3kit", "build", "--wrapper", "both"]
        environment = {**os.environ, "PHI3KIT_HOME": str(home)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        fill_store(settings, sample_turns(turns))
        with running_app(home) as app:
            figures = usage(app, repeat)
            with chromium(Path(place) / "profile", optimized=True) as browser:
                browser.set_default_timeout(60_000)
                page = browser.new_page()
                page.goto(app.url)
                page.get_by_role("heading", level=1).first.wait_for()
                idle(page)
                figures |= switches(page, repeat)
                figures |= answers(page, repeat + 1)
                figures |= batch(page, Path(place), repeat)
    return figures


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1_000, help="logged turns on Usage")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    figures = measure(given.turns, given.repeat)
    if given.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:45} {value if isinstance(value, str) else format(value, '.3f')}")


if __name__ == "__main__":
    main()
