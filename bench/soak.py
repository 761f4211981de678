"""Soak: many visitors for a long time while workers are killed: is anything lost, does anything grow?

    make soak        (or: python -m bench.soak [--minutes 20] [--api 20] [--tabs 5] [--kill-every 60] [--turns-before 5000])

Browser tabs visit an app in a process of its own. API visitors use the workers of this process with the official client.
Both share one new data folder, whose store has turns already: filled caches must not look like growth. Prints a Markdown
table and exits 1 when something was lost, doubled, or shown as an error page.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import psutil

from bench.usage import fill_store, sample_turns
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import WRAPPERS, Endpoint
from phi3kit.core.settings import PROJECT_ROOT, Settings, read_settings
from phi3kit.deployment.servers import free_port
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.writer import UsageWriter
from tests.support.waiting import wait_for_server

if TYPE_CHECKING:
    from playwright.async_api import Page

PAGES = {
    "": "Phi-3 as an MLflow model, two ways", "build": "Build", "models": "Models", "signatures": "Signatures",
    "chat": "Chat", "prompt": "Prompt", "compare": "Compare", "usage": "Usage", "batch": "Batch",
    "evaluate": "Evaluate", "deploy": "Deploy", "access": "Access", "tour": "Tour",
}  # fmt: skip
QUESTIONS = (
    "What is the capital of Spain?", "What is MLflow?", "スペインの首都はどこですか？", "List the capitals of Europe.",
    "Ποια είναι η πρωτεύουσα της Ισπανίας;", "Explain MLflow in detail.",
)  # fmt: skip
_ERROR_PAGE = "[data-testid=stException], [data-testid=stApp]:has-text('Traceback (most recent call last)')"
_RUNNING = "[data-testid=stApp][data-test-script-state=running]"
_SAMPLE_EVERY_S = 5.0
_WARM_UP_S = 180.0  # caches come into memory, and Streamlit keeps the sessions of closed tabs for two minutes
_YOUNG_S = 45.0  # a worker loads its model


@dataclass
class Watched:
    """Own memory and open files over time, of one process or of one kind of worker in successive processes."""

    at_s: list[float] = field(default_factory=list)
    pid: list[int] = field(default_factory=list)
    own_mb: list[float] = field(default_factory=list)
    handles: list[float] = field(default_factory=list)


@dataclass
class Tally:
    """What happened; every visitor's thread adds to it."""

    turns: dict[str, str] = field(default_factory=dict)  # turn id -> how it ended for its visitor
    health_s: list[float] = field(default_factory=list)
    page_s: list[float] = field(default_factory=list)
    chats: Counter[str] = field(default_factory=Counter)  # in browser tabs, by how they ended
    error_pages: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)  # unexpected by a visitor
    kills: Counter[str] = field(default_factory=Counter)
    watched: dict[str, Watched] = field(default_factory=dict)


def slope_per_hour(at_s: Sequence[float], values: Sequence[float], of: Sequence[int]) -> float:
    """The least-squares slope per hour; 0 with too few values.

    of: the process of each value. Processes have levels of their own and one slope: a new worker that replaces a killed one
    starts small, which is no growth.
    """
    spread = together = 0.0
    for each in set(of):
        mine = [(at, value) for at, value, whose in zip(at_s, values, of, strict=True) if whose == each]
        mean_at, mean = (sum(column) / len(mine) for column in zip(*mine, strict=True))
        spread += sum((at - mean_at) ** 2 for at, _ in mine)
        together += sum((at - mean_at) * (value - mean) for at, value in mine)
    return 3600 * together / spread if spread else 0.0


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)] if ordered else 0.0


def after_warm_up(watched: Watched, begin_s: float) -> Watched:
    """What was seen after the warm-up."""
    kept = [index for index, at in enumerate(watched.at_s) if at >= begin_s]
    return Watched(
        *([column[index] for index in kept] for column in (watched.at_s, watched.pid, watched.own_mb, watched.handles))
    )


@dataclass(frozen=True)
class Balance:
    """The turns of visitors against the turns in the store."""

    lost: list[str]  # answered, and not in the store
    doubled: list[str]
    waiting: int


def balance(turns: dict[str, str], kept: Counter[str], waiting: int) -> Balance:
    """turns: turn id to how it ended for the visitor. kept: how often each turn id is in the store.

    An answered turn must be there once. A refused one, or one without a worker, need not be.
    """
    must_be = {turn_id for turn_id, how in turns.items() if how == "answered"}
    return Balance(
        sorted(must_be - kept.keys()), sorted(turn_id for turn_id, times in kept.items() if times > 1), waiting
    )


class Soak:
    """Everything that runs during the soak."""

    def __init__(self, home: Path, seed: int, turns_before: int) -> None:
        self.settings: Settings = read_settings({"PHI3KIT_HOME": str(home), "PHI3KIT_IDLE_SECONDS": "7200"})
        self.tally, self.over = Tally(), threading.Event()
        self.began = time.monotonic()
        self._seed = seed
        self._before = sample_turns(turns_before)
        self._uris: dict[str, str] = {}
        self.pool = WorkerPool(self.settings)
        self._writer = UsageWriter(self.settings)
        self._app: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> "Soak":
        self._build()
        fill_store(self.settings, self._before)
        port = free_port()
        command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(port)]
        command += ["--server.address", "127.0.0.1", "--server.fileWatcherType", "none", "--server.headless", "true"]
        log = (self.settings.home / "app.log").open("wb")
        self._app = subprocess.Popen(command, cwd=PROJECT_ROOT, env=self._environment(), stdout=log, stderr=log)
        log.close()
        self.url = f"http://127.0.0.1:{port}"
        wait_for_server(f"{self.url}/_stcore/health", self._app, (self.settings.home / "app.log").read_text)
        self._writer.start()
        self.began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        assert self._app is not None
        self._app.terminate()
        self._app.wait(60)
        self.pool.close()
        self._writer.close()

    def uri(self, wrapper: str) -> str:
        """The logged model of a wrapper."""
        return self._uris[wrapper]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return {**inherited, "PHI3KIT_HOME": str(self.settings.home), "PYTHONPATH": str(PROJECT_ROOT)}

    def _build(self) -> None:
        command = [sys.executable, "-m", "phi3kit", "build", "--wrapper", "both", "--json"]
        done = subprocess.run(
            command, cwd=PROJECT_ROOT, env=self._environment(), capture_output=True, text=True, check=True
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self._uris = {line["wrapper"]: line["model_uri"] for line in lines if "model_uri" in line}

    def visit_api(self, number: int) -> None:
        """One API visitor until the end of the soak: sends messages, sometimes streams, sometimes leaves early."""
        chance = random.Random(self._seed * 1000 + number)
        while not self.over.wait(chance.uniform(2, 20)):
            endpoint = self._endpoint(chance.choice(WRAPPERS))
            if endpoint is None:
                continue
            turn_id = uuid.uuid4().hex
            self.tally.turns[turn_id] = "sent"
            self.tally.turns[turn_id] = self._ask(endpoint, turn_id, f"visitor-{number}", chance)

    def _endpoint(self, wrapper: str) -> Endpoint | None:
        try:
            return self.pool.endpoint(self._uris[wrapper])
        except Phi3KitError as error:  # killed while it starts
            self.tally.troubles[f"no worker: {type(error).__name__}"] += 1
            return None

    def _ask(self, endpoint: Endpoint, turn_id: str, user: str, chance: random.Random) -> str:
        body: dict[str, Any] = {
            "model": endpoint.model_uri, "messages": [{"role": "user", "content": chance.choice(QUESTIONS)}],
            "max_tokens": 200, "user": user,
            "extra_headers": {"X-Phi3kit-Turn-Id": turn_id, "X-Phi3kit-Origin": "api"},
        }  # fmt: skip
        leaves_after = chance.choice([None, None, None, 5])  # pieces
        try:
            with openai.OpenAI(
                base_url=f"{endpoint.base_url}/v1", api_key=endpoint.api_key, max_retries=0, timeout=120
            ) as client:
                if chance.random() < 0.5:
                    client.chat.completions.create(**body)
                    return "answered"
                ended = None
                with client.chat.completions.create(**body, stream=True) as pieces:
                    for index, piece in enumerate(pieces):
                        ended = piece.choices[0].finish_reason if piece.choices else ended
                        if index == leaves_after:
                            return "left"
                return "answered" if ended else "broken off"
        except openai.RateLimitError:
            return "refused: busy"
        except (openai.APIError, httpx2.HTTPError, OSError):  # its worker was killed
            return "broken off"

    def watch_health(self) -> None:
        """Response times of /health of each ready worker."""
        with httpx2.Client(timeout=30) as client:
            while not self.over.wait(0.5):
                for status in self.pool.statuses():
                    if status.state != "ready":
                        continue
                    with suppress(Phi3KitError, httpx2.TransportError):  # killed at this moment
                        endpoint = self.pool.endpoint(status.model_uri)
                        began = time.monotonic()
                        client.get(f"{endpoint.base_url}/health")
                        self.tally.health_s.append(time.monotonic() - began)

    def kill(self, every_s: float) -> None:
        """Kill a worker of either app, at random."""
        chance = random.Random(self._seed)
        while not self.over.wait(chance.uniform(0.5, 1.5) * every_s):
            found = self._workers()
            if found:
                name, process = chance.choice(found)
                with suppress(psutil.Error):
                    process.kill()
                    self.tally.kills[name] += 1

    def sample(self) -> None:
        """Memory and open files of this app, the other one, and every worker."""
        assert self._app is not None
        while not self.over.wait(_SAMPLE_EVERY_S):
            for name, process in [("app", psutil.Process(self._app.pid)), *self._workers()]:
                with suppress(psutil.Error):
                    if time.time() - process.create_time() < _YOUNG_S:
                        continue
                    memory, handles = process.memory_info(), process.num_fds()
                    seen = self.tally.watched.setdefault(name, Watched())
                    seen.at_s.append(time.monotonic() - self.began)
                    seen.pid.append(process.pid)
                    # Without pages of library files, which are loaded at first use and shared.
                    seen.own_mb.append((memory.rss - getattr(memory, "shared", 0)) / 1e6)
                    seen.handles.append(handles)

    def _workers(self) -> list[tuple[str, psutil.Process]]:
        assert self._app is not None
        found = []
        for owner, pid in (("app", self._app.pid), ("api", os.getpid())):
            with suppress(psutil.Error):
                for child in psutil.Process(pid).children():
                    with suppress(psutil.Error):
                        line = child.cmdline()
                        if "phi3kit.worker" in line and "--wrapper" in line:
                            found.append((f"{owner}'s {line[line.index('--wrapper') + 1]} worker", child))
        return found

    def kept(self) -> tuple[Counter[str], int]:
        """How often each turn id of the soak is in the store once the outbox is empty; and how many turns still wait."""
        import mlflow

        from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
        from phi3kit.usage.writer import write_waiting

        outbox = Outbox(self.settings.home)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            outbox.adopt_orphans()
            write_waiting(self.settings, outbox=outbox)
            if not outbox.waiting():
                time.sleep(6)  # the grace of orphans
                outbox.adopt_orphans()
                write_waiting(self.settings, outbox=outbox)
                break
        open_store(self.settings)
        experiment = experiment_id(self.settings, USAGE_EXPERIMENT)
        runs = mlflow.search_runs([experiment], output_format="list", max_results=50_000)
        ended = Counter(run.data.tags["phi3kit.turn_id"] for run in runs if run.info.status != "RUNNING")
        ended.subtract(turn.turn_id for turn in self._before)
        return +ended, outbox.waiting()


async def browse(soak: Soak, tabs: int, seed: int) -> None:
    """So many tabs of one browser, each on a page at random all the time; on Chat it also asks."""
    from playwright.async_api import async_playwright

    from tests.support.in_browser import CHROMIUM, FLAGS

    with tempfile.TemporaryDirectory() as profile:
        async with async_playwright() as engine:
            browser = await engine.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS)
            browser.set_default_timeout(60_000)
            pages = [await browser.new_page() for _ in range(tabs)]
            await asyncio.gather(*(_visit(soak, page, random.Random(seed + at)) for at, page in enumerate(pages)))
            await browser.close()


async def _visit(soak: Soak, page: "Page", chance: random.Random) -> None:
    from playwright.async_api import Error

    tally = soak.tally
    while not soak.over.is_set():
        name = chance.choice(list(PAGES))
        try:
            began = time.monotonic()
            await page.goto(f"{soak.url}/{name}")
            await page.get_by_role("heading", name=PAGES[name], exact=True, level=1).wait_for()
            await page.wait_for_function(f"!document.querySelector('{_RUNNING}')")
            tally.page_s.append(time.monotonic() - began)
            if name == "chat":
                await _chat(page, chance, tally)
        except Error as error:
            tally.troubles[f"{name or 'home'}: {str(error).splitlines()[0][:100]}"] += 1
        with suppress(Error):
            for said in await page.locator(_ERROR_PAGE).all_inner_texts():
                tally.error_pages.append(f"{name or 'home'}: {said[:200]}")
        await asyncio.sleep(chance.uniform(1, 10))


async def _chat(page: "Page", chance: random.Random, tally: Tally) -> None:
    """Ask one question and wait for its end, whatever that is."""
    if chance.random() < 0.5:
        await page.get_by_role("radio", name="onnx", exact=True).click()
        await page.wait_for_timeout(500)
    area = page.get_by_test_id("stChatInputTextArea")
    await area.fill(chance.choice(QUESTIONS))
    await area.press("Enter")
    await page.locator("[class*='st-key-more_']").last.wait_for()
    broke_off = [
        await page.get_by_text(text).count() for text in ("The answer was interrupted.", "There is no answer.")
    ]
    tally.chats["told that it broke off" if any(broke_off) else "answered"] += 1


def table(soak: Soak, arguments: argparse.Namespace, found: Balance, kept: int, tracebacks: int) -> str:
    """The figures as Markdown. kept: turns in the store. tracebacks: in the app's log."""
    tally = soak.tally
    ends = Counter(tally.turns.values())
    rows = [
        ("visitors", f"{arguments.api} by the API, {arguments.tabs} browser tabs, {arguments.minutes:g} minutes"),
        ("turns asked by the API", f"{len(tally.turns):,}"),
        *((f"— {how}", f"{count:,}") for how, count in sorted(ends.items())),
        ("chats in the browser", ", ".join(f"{count:,} {how}" for how, count in sorted(tally.chats.items())) or "0"),
        (
            "turns in the store",
            f"{kept:,} beside the {arguments.turns_before:,} of before; {found.waiting} still in the outbox",
        ),
        ("turns lost, doubled", f"{len(found.lost)}, {len(found.doubled)}"),
        ("workers killed", f"{sum(tally.kills.values())} ({_listed(tally.kills)})"),
        ("error pages seen", f"{len(tally.error_pages)} of {len(tally.page_s):,} page loads"),
        ("tracebacks in the app's log", str(tracebacks)),
        ("other troubles of visitors", _listed(tally.troubles) or "none"),
        ("`/health`, p50, p99", _p50_p99(tally.health_s, 1000, "ms")),
        ("page load, p50, p99", _p50_p99(tally.page_s, 1, "s")),
    ]
    begin_s = min(_WARM_UP_S, arguments.minutes * 30)
    for name, seen in sorted(tally.watched.items()):
        late = after_warm_up(seen, begin_s)
        if late.at_s:
            rows += [
                (f"{name}: memory, MB", _drawn(late, late.own_mb)),
                (f"{name}: open files", _drawn(late, late.handles)),
            ]
    lines = [f"| {what} | {figure} |" for what, figure in rows]
    machine = f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.machine()}"
    head = f"{time.strftime('%d %B %Y, %H:%M', time.gmtime())} UTC, {machine}, Python {platform.python_version()}"
    return "\n".join([f"{head}\n", "| what | figure |", "| --- | --- |", *lines])


def _drawn(seen: Watched, values: Sequence[float]) -> str:
    """From the warm-up's end to the end, the most between, and the slope; of the second half too: what fills up gets flatter."""
    processes, half = len(set(seen.pid)), len(values) // 2
    slopes = [slope_per_hour(seen.at_s[begin:], values[begin:], seen.pid[begin:]) for begin in (0, half)]
    by = f", {processes} processes" if processes > 1 else ""
    slope = f"slope {slopes[0]:+,.0f} an hour, of the second half {slopes[1]:+,.0f}{by}"
    return f"{values[0]:,.0f} → {values[-1]:,.0f}, at most {max(values):,.0f}; {slope}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def _p50_p99(seconds: Sequence[float], times: float, unit: str) -> str:
    p50, p99 = percentile(seconds, 0.5) * times, percentile(seconds, 0.99) * times
    return f"{p50:,.3g}, {p99:,.3g} {unit} ({len(seconds):,} measured)"


def main() -> int:
    """Run, wait, count; 1 when something was lost, doubled or shown as an error page."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--api", type=int, default=20)
    parser.add_argument("--tabs", type=int, default=5)
    parser.add_argument("--kill-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--turns-before", type=int, default=5000, metavar="N", help="in the store when it begins")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with Soak(Path(folder) / "home", arguments.seed, arguments.turns_before) as soak:
            works: list[Callable[[], None]] = [
                *(lambda number=number: soak.visit_api(number) for number in range(arguments.api)),
                soak.watch_health,
                soak.sample,
                lambda: soak.kill(arguments.kill_every),
                *([lambda: asyncio.run(browse(soak, arguments.tabs, arguments.seed))] if arguments.tabs else []),
            ]
            threads = [threading.Thread(target=work) for work in works]
            for thread in threads:
                thread.start()
            soak.over.wait(arguments.minutes * 60)
            soak.over.set()
            for thread in threads:
                thread.join(180)
        kept, waiting = soak.kept()
        found = balance(soak.tally.turns, kept, waiting)
        log = (soak.settings.home / "app.log").read_text(errors="replace")
        print(table(soak, arguments, found, sum(kept.values()), log.count("Traceback")))
    if "Traceback" in log:
        print(f"\nThe app's log:\n{log[-20_000:]}", file=sys.stderr)
    for error_page in soak.tally.error_pages[:10]:
        print(f"error page: {error_page}", file=sys.stderr)
    return 1 if found.lost or found.doubled or found.waiting or soak.tally.error_pages else 0


if __name__ == "__main__":
    sys.exit(main())
