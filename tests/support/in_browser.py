"""What the browser tests share: the app as `make run` starts it, and a tab in headless chromium.

Needs chromium. Without one these tests are skipped; with PHI3KIT_REQUIRE_BROWSER=1 (as in CI) they fail instead.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import free_port
from tests.support.waiting import wait_for_server

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("PHI3KIT_REQUIRE_BROWSER") == "1"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# A page lives for seconds here: what V8 spends on optimized code (a tenth of all) would not come back.
_UNOPTIMIZED = "--js-flags=--no-opt"

# Says whether a run that the page has asked for is over: Streamlit's own mark knows only of runs that have begun, and
# stands on the page a moment after they have. A fragment's run that begins is not the page's run that was asked for.
# Keeps what was asked for and what came, for the report of a test that failed.
_WATCH_RUNS = """
  const fieldsOf = bytes => {
    const found = {}
    let at = 0
    const number = () => {
      let value = 0, shift = 0, byte
      do { byte = bytes[at++]; value |= (byte & 127) << shift; shift += 7 } while (byte & 128)
      return value
    }
    while (at < bytes.length) {
      const tag = number(), kind = tag & 7
      if (kind === 0) found[tag >>> 3] = number()
      else if (kind === 1) at += 8
      else if (kind === 5) at += 4
      else { const length = number(); found[tag >>> 3] = bytes.subarray(at, at + length); at += length }
    }
    return found
  }
  const within = (bytes, ...path) => path.reduce((part, field) => part && fieldsOf(part)[field], bytes)
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))
  let run = 0
  window.pageIsAwaited = window.fragmentIsAwaited = window.runIsUnderWay = false
  window.runsSeen = []
  const note = what => { window.runsSeen.push(`${performance.now().toFixed()} ${what}`); window.runsSeen.splice(0, window.runsSeen.length - 40) }
  window.WebSocket = class extends window.WebSocket {
    constructor(...given) {
      super(...given)
      this.addEventListener('close', () => {
        window.pageIsAwaited = window.fragmentIsAwaited = window.runIsUnderWay = false
        note('closed')
      })
      this.addEventListener('message', ({data}) => {
        const said = data instanceof ArrayBuffer ? new Uint8Array(data) : undefined
        const ended = within(said, SCRIPT_FINISHED)
        if (within(said, NEW_SESSION)) {
          const ofFragment = within(said, METADATA, RUN, FRAGMENT_IDS)
          note(`begun ${ofFragment ? 'fragment' : 'page'}`)
          window.runIsUnderWay = true
          window.fragmentIsAwaited = false
          if (!ofFragment) window.pageIsAwaited = false
          run += 1
        } else if (ended !== undefined) {
          note(`ended ${ended}`)
          const last = run
          if (ended !== FOR_RERUN) drawn().then(() => { if (run === last) window.runIsUnderWay = false })
        }
      })
    }
    send(data) {
      const asked = new Uint8Array(data.buffer || data, data.byteOffset || 0)
      if (within(asked, RERUN_SCRIPT)) {
        note(`asked ${new TextDecoder().decode(within(asked, RERUN_SCRIPT)).replace(/[^ -~]+/g, ' ').slice(0, 2000)}`)
        if ((within(asked, RERUN_SCRIPT, FRAGMENT_ID) || '').length) window.fragmentIsAwaited = true
        else window.pageIsAwaited = true
      }
      return super.send(data)
    }
  }
"""

# Nothing moves by itself: drawing spinners without a GPU takes a third of what a page computes, and clicks wait for rest.
_STAND_STILL = """
const still = new CSSStyleSheet()
still.replaceSync(`*, *::before, *::after {
  animation-duration: 1ms !important; animation-iteration-count: 1 !important; transition-duration: 0s !important;
}`)
document.adoptedStyleSheets = [...document.adoptedStyleSheets, still]
"""

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no chromium here: browser tests are skipped"),
]


@dataclass(frozen=True)
class App:
    """A running app."""

    url: str
    home: Path
    pid: int


@contextmanager
def running_app(
    home: Path,
    script: str = "streamlit_app.py",
    *,
    python: Sequence[str] = (sys.executable,),
    port: int = 0,
    options: Sequence[str] = (),
    **variables: str,
) -> Iterator[App]:
    """The app on a data folder; when it ends, so must everything that it started.

    python: the command that starts the interpreter. port: a free one when 0. options: of `streamlit run`. variables: of its environment.
    """
    port = port or free_port()
    environment = {**os.environ, "PHI3KIT_HOME": str(home), "PYTHONPATH": str(PROJECT_ROOT), **variables}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [*python, "-m", "streamlit", "run", script, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.fileWatcherType", "none", *options]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    app = App(f"http://127.0.0.1:{port}", home, process.pid)

    try:
        wait_for_server(f"{app.url}/_stcore/health", process)
        yield app
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == [], "workers or other children outlive the app"


@contextmanager
def chromium(
    profile: Path, width: int = 1280, height: int = 900, *, optimized: bool = False, **options: Any
) -> Iterator["BrowserContext"]:
    """A browser with a profile of its own. optimized: for who measures pages. options: as playwright takes them."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "PHI3KIT_REQUIRE_BROWSER=1, and there is no chromium"
    with sync_playwright() as engine:
        context = engine.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=FLAGS if optimized else [*FLAGS, _UNOPTIMIZED],
            viewport={"width": width, "height": height},
            **options,
        )
        context.set_default_timeout(300_000)
        watch_runs(context)
        yield context
        context.close()


@contextmanager
def tab_on(url: str, profile: Path, width: int = 1280, height: int = 900, **options: Any) -> Iterator["Page"]:
    """A tab that has opened an address, in a browser of its own."""
    with chromium(profile, width, height, **options) as browser:
        page = browser.new_page()
        page.goto(url)
        yield page


def watch_runs(context: "BrowserContext") -> None:
    """Let `idle` know of runs that pages of this context have asked for; before they are opened."""
    context.add_init_script(f"{{{_protocol()}\n{_WATCH_RUNS}}}")
    context.add_init_script(_STAND_STILL)


def _protocol() -> str:
    """The numbers of the fields that the watcher reads, as Streamlit's own protocol has them."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ClientState_pb2 import ClientState
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg, ForwardMsgMetadata

    numbers = {"FOR_RERUN": ForwardMsg.FINISHED_EARLY_FOR_RERUN}
    for kind, *names in (
        (BackMsg, "rerun_script"),
        (ClientState, "fragment_id"),
        (ForwardMsg, "metadata", "new_session", "script_finished"),
        (ForwardMsgMetadata, "run"),
        (ForwardMsgMetadata.DESCRIPTOR.fields_by_name["run"].message_type, "fragment_ids"),
    ):
        fields = getattr(kind, "DESCRIPTOR", kind).fields_by_name
        numbers |= {name.upper(): fields[name].number for name in names}
    return "".join(f"const {name} = {number};" for name, number in numbers.items())


def go(page: "Page", name: str) -> None:
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name, exact=True, level=1).wait_for()
    idle(page)  # the heading may be that of the run before


def open_popover(page: "Page", name: str, inside: "Locator") -> None:
    """Open a popover and wait for what is inside; a run of the page that ends meanwhile may close it again."""
    from playwright.sync_api import TimeoutError as NotThere

    for _ in range(20):
        page.get_by_role("button", name=name).click()
        with contextlib.suppress(NotThere):
            inside.wait_for(timeout=5_000)
            return
    raise AssertionError(f"the popover {name} does not stay open")


def choose(page: "Page", option: str) -> None:
    page.get_by_role("radio", name=option, exact=True).click()
    idle(page)


def idle(page: "Page") -> None:
    """Wait until the page's run is over, the one too that the last click asks for."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # React has had its turn
    running = "document.querySelector('[data-testid=stApp][data-test-script-state=running]')"
    page.wait_for_function(f"!pageIsAwaited && !fragmentIsAwaited && !runIsUnderWay && !{running}")


def wait_for_text(inside: "Page | Locator", text: "str | re.Pattern[str]", exact: bool = False) -> None:
    """Wait until the text is seen, once or more often: what else a page has drawn by then may have it too."""
    inside.get_by_text(text, exact=exact).filter(visible=True).first.wait_for()


def send(page: "Page", text: str) -> None:
    page.get_by_test_id("stChatInputTextArea").fill(text)
    page.get_by_test_id("stChatInputTextArea").press("Enter")


def last_answer(page: "Page") -> str:
    return str(page.get_by_test_id("stChatMessage").last.inner_text())


def main_text(page: "Page") -> str:
    """What stands on the page, without the sidebar."""
    return str(page.get_by_test_id("stMainBlockContainer").inner_text())
