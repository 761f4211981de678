"""Usage: 100,000 turns, read through the copy and by plain `mlflow.search_runs`: python -m bench.usage [--turns N].

The runs are inserted into the store's tables in bulk; writing them one by one would take hours. Each figure is measured in
a process of its own, whose memory is that of the one thing measured.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from phi3kit.core.records import TurnRecord
from phi3kit.core.settings import PROJECT_ROOT, Settings, read_settings

_DAYS = 90
_BATCH = 2000


def sample_turns(count: int, seed: int = 1) -> list[TurnRecord]:
    """Turns of both wrappers over 90 days, with every field that the charts use."""
    chance = random.Random(seed)
    now = time.time()
    conversations = [uuid.UUID(int=chance.getrandbits(128)).hex for _ in range(count // 5 + 1)]
    prompts = [f"{chance.getrandbits(96):024x}" for _ in range(50)]
    turns = []
    for number in range(count):
        wrapper = "onnx" if chance.random() < 0.6 else "transformers"
        prompt_tokens, completion_tokens = chance.randint(8, 900), chance.randint(1, 400)
        first_s = chance.lognormvariate(-4.5 if wrapper == "onnx" else -4.0, 0.6)
        speed = chance.lognormvariate(6.2 if wrapper == "onnx" else 5.6, 0.3)
        turns.append(
            TurnRecord(
                turn_id=uuid.UUID(int=chance.getrandbits(128)).hex,
                at=now - chance.random() * _DAYS * 86_400 - 60,
                wrapper=wrapper,  # type: ignore[arg-type]
                model_uri=f"models:/m-{wrapper}-{number % 3}",
                interface="openai" if chance.random() < 0.7 else "raw",
                origin=chance.choice(["ui", "ui", "api", "batch"]),  # type: ignore[arg-type]
                user=chance.choice(["ada", "bob", "carol", "dora", "eve"]),
                conversation_id=chance.choice(conversations),
                finish_reason=chance.choices(["stop", "length", "cancelled", "error"], [90, 6, 3, 1])[0],  # type: ignore[arg-type]
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cached_prompt_tokens=chance.choice([0, prompt_tokens // 2]),
                duration_s=first_s + completion_tokens / speed,
                time_to_first_token_s=first_s,
                temperature=chance.choice([0.0, 0.7]),
                max_tokens=1024,
                top_p=1.0,
                seed=None,
                prompt_key=chance.choice(prompts),
            )
        )
    return sorted(turns, key=lambda turn: turn.at)  # the order of writing


def fill_store(settings: Settings, turns: list[TurnRecord]) -> str:
    """Insert the turns into the store's tables as the writer's runs; returns the experiment's id."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
    from mlflow.tracking._tracking_service.utils import _get_store
    from sqlalchemy import insert

    from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
    from phi3kit.usage.turn_fields import PARAMS
    from phi3kit.usage.writer import metrics_of, tags_of

    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    store: Any = _get_store(settings.tracking_uri.reveal())
    statuses = {"error": "FAILED", "cancelled": "KILLED"}
    for begin in range(0, len(turns), _BATCH):
        runs, metrics, params, tags = [], [], [], []
        for turn in turns[begin : begin + _BATCH]:
            run_id = uuid.uuid4().hex
            at_ms, end_ms = int(turn.at * 1000), int((turn.at + turn.duration_s) * 1000)
            name = f"turn {turn.wrapper}"
            runs.append(
                {
                    "run_uuid": run_id, "name": name, "source_type": "UNKNOWN", "source_name": "", "entry_point_name": "",
                    "user_id": "unknown", "status": statuses.get(turn.finish_reason, "FINISHED"), "start_time": at_ms,
                    "end_time": end_ms, "source_version": "", "lifecycle_stage": "active", "artifact_uri": "",
                    "experiment_id": int(experiment),
                }
            )  # fmt: skip
            for key, value in metrics_of(turn).items():
                metrics.append(
                    {"run_uuid": run_id, "key": key, "value": value, "timestamp": end_ms, "step": 0, "is_nan": False}
                )
            params += [{"run_uuid": run_id, "key": key, "value": str(getattr(turn, key))} for key in PARAMS]
            named = {"mlflow.runName": name, **tags_of(turn)}
            tags += [{"run_uuid": run_id, "key": key, "value": value} for key, value in named.items()]
        with store.engine.connect() as connection:
            if settings.own_store:
                connection.exec_driver_sql("pragma synchronous = off")  # losing a benchmark's data is harmless
                connection.commit()
            connection.execute(insert(SqlRun), runs)
            connection.execute(insert(SqlMetric), metrics)
            connection.execute(insert(SqlLatestMetric), metrics)
            connection.execute(insert(SqlParam), params)
            connection.execute(insert(SqlTag), tags)
            connection.commit()
    return experiment


def plain(settings: Settings) -> dict[str, float]:
    """One mlflow.search_runs, as a program without phi3kit does it."""
    import mlflow

    from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store

    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    runs: Any = mlflow.search_runs([experiment], max_results=10**9)
    seconds = time.perf_counter() - began
    return {
        "runs": len(runs),
        "total tokens": float(runs["metrics.total_tokens"].sum()),
        "seconds": seconds,
        "memory MB": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def paged(settings: Settings) -> dict[str, float]:
    """All pages of MLflow's client, with nothing kept."""
    from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store

    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    began, token, count = time.perf_counter(), None, 0
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        count, token = count + len(page), page.token
        if not token:
            return {"runs": count, "seconds": time.perf_counter() - began}


def ours(settings: Settings) -> dict[str, float]:
    """Reading through the copy, as the Usage page does before it draws."""
    from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
    from phi3kit.usage.reader import TurnsReader

    open_store(settings)
    experiment_id(settings, USAGE_EXPERIMENT)
    before = psutil.Process().memory_info().rss
    reader = TurnsReader(settings)
    began = time.perf_counter()
    reading = reader.current()
    while reading.snapshot is None:
        reader.wait(0.1)
        reading = reader.current()
    first_s = time.perf_counter() - began
    while not reader.wait(1):
        pass
    snapshot = reader.current(max_age_s=1e9).snapshot
    assert snapshot is not None
    return {
        "runs": len(snapshot.turns),
        "total tokens": float(snapshot.turns["total_tokens"].sum()),
        "seconds to the first table": first_s,
        "seconds to the newest table": time.perf_counter() - began,
        "memory MB": (psutil.Process().memory_info().rss - before) / 1e6,
    }


def charted(settings: Settings) -> dict[str, float]:
    """The page itself, run once as for a first visitor, then again as for a click."""
    import os

    from streamlit.testing.v1 import AppTest

    from phi3kit.ui.shared import resources
    from phi3kit.ui.usage import chart_cards, tables

    del chart_cards, tables  # imported before memory is measured: they cost as much with one turn
    os.environ["PHI3KIT_HOME"] = str(settings.home)
    resources.kit()
    before = psutil.Process().memory_info().rss
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=600).run()
    began = time.perf_counter()
    app = app.switch_page("pages/usage.py").run()
    first_s = time.perf_counter() - began
    assert not app.exception, app.exception
    again = []
    for _ in range(5):
        began = time.perf_counter()
        app = app.run()
        again.append(time.perf_counter() - began)
    return {
        "first run s": first_s,
        "next run s, median": statistics.median(again),
        "memory MB": (psutil.Process().memory_info().rss - before) / 1e6,
    }


_CHARTS = 7
_DRAWN = "count => document.querySelectorAll('[data-testid=stPlotlyChart]:has(.barlayer .point)').length >= count"


def browsed(settings: Settings) -> dict[str, float]:
    """The page in headless Chromium at 1280 x 900, from a click in the sidebar to the first chart, and to all charts.

    The first click loads the chart library.
    """
    from tests.support.in_browser import chromium, go, idle, running_app

    with (
        tempfile.TemporaryDirectory() as profile,
        running_app(settings.home) as app,
        chromium(Path(profile), optimized=True) as browser,
    ):
        page = browser.new_page()
        page.goto(app.url)
        in_view, whole = [], []
        for _ in range(6):
            go(page, "Access")  # a page without charts
            idle(page)
            page.wait_for_timeout(4000)  # longer than a list of the store is cached
            began = time.perf_counter()
            go(page, "Usage")
            page.wait_for_function(_DRAWN, arg=1)
            in_view.append(time.perf_counter() - began)
            page.wait_for_function(_DRAWN, arg=_CHARTS)
            whole.append(time.perf_counter() - began)
    return {
        "in view s, median": statistics.median(in_view[1:]),
        "all seven charts s, median": statistics.median(whole[1:]),
        "in view s, first click": in_view[0],
    }


def outbox_cost(settings: Settings) -> dict[str, float]:
    """Time that the outbox adds to a turn in the worker's process: begin and add."""
    from phi3kit.usage.outbox import Outbox

    outbox, spent = Outbox(settings.home), []
    for turn in sample_turns(1000):
        began = time.perf_counter()
        outbox.begin(turn)
        outbox.add(turn)
        spent.append((time.perf_counter() - began) * 1000)
    cuts = statistics.quantiles(spent, n=100)
    return {"median ms": statistics.median(spent), "p95 ms": cuts[94], "p99 ms": cuts[98]}


MEASURES = {
    "plain": plain, "paged": paged, "ours": ours, "charted": charted, "browsed": browsed, "outbox": outbox_cost,
}  # fmt: skip


def measure(name: str, home: Path) -> dict[str, float]:
    """One measure in a child process."""
    command = [sys.executable, "-m", "bench.usage", "--measure", name, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def usage_figures(count: int) -> dict[str, dict[str, float]]:
    """All figures, by title."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        settings = read_settings({"PHI3KIT_HOME": str(home)})
        fill_store(settings, sample_turns(count))
        figures = {
            "plain mlflow.search_runs": measure("plain", home),
            "paging the client's search_runs once": measure("paged", home),
            "copy made from nothing": measure("ours", home),
            "copy there already": measure("ours", home),
            "the page, copy there already": measure("charted", home),
            "the page in a browser": measure("browsed", home),
        }
        other = home / "outbox"
        other.mkdir()
        return figures | {"a turn into the outbox": measure("outbox", other)}


def main() -> None:
    """Fill a store, measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.usage")
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", choices=sorted(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        settings = read_settings({"PHI3KIT_HOME": str(arguments.home)})
        print(json.dumps(MEASURES[arguments.measure](settings)))
        return
    figures = usage_figures(arguments.turns)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for title, values in figures.items():
        print(f"## {title}\n\n| what | figure |\n| --- | --- |")
        print("".join(f"| {name} | {value:,.4g} |\n" for name, value in values.items()))


if __name__ == "__main__":
    main()
