"""A turn by every route is there once: in our table, among MLflow's runs, and in the totals of MLflow's traces."""

import csv
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
from mlflow.tracing.client import TracingClient
from openai import OpenAI
from streamlit.testing.v1 import AppTest

from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.ui.shared import resources
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import read_turns
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built, run_cli
from tests.support.in_app import app_on
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for

QUESTION = "What is the capital of Spain?"


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Iterator[Settings]:
    """The built models in a store of its own, and an app on it. No turn is there: one of another test may be half written."""
    settings = copy_of_store(built.settings, tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("update experiments set name = 'earlier' where name = ?", (USAGE_EXPERIMENT,))
    with app_on(tmp_path):
        yield settings


def by_page() -> None:
    app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=300).run()
    app = app.switch_page("pages/chat.py").run()
    app.chat_input[0].set_value(QUESTION).run()
    assert not app.exception


def by_client(uri: str) -> None:
    endpoint = resources.kit().pool.endpoint(uri)
    client = OpenAI(base_url=f"{endpoint.base_url}/v1", api_key=endpoint.api_key)
    message: Any = {"role": "user", "content": QUESTION}
    client.chat.completions.create(model="m", messages=[message])
    client.close()


def by_command(uri: str, home: Path) -> None:
    assert run_cli("chat", uri, QUESTION, home=home).returncode == 0


def by_batch(uri: str, home: Path) -> None:
    with (home / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["message"], [QUESTION], ["Hello"]])
    done = run_cli("batch", uri, str(home / "in.csv"), "-o", str(home / "out.csv"), home=home)
    assert done.returncode == 0, done.stderr


def test_a_turn_by_every_route_is_counted_once_and_alike_everywhere(built: Built, settings: Settings) -> None:
    uri = built.uri("onnx")
    by_page()
    by_client(uri)
    by_command(uri, settings.home)
    by_batch(uri, settings.home)
    outbox = Outbox(settings.home)

    def written() -> bool:
        write_waiting(settings)
        return outbox.waiting() == 0

    wait_for("every turn is written", written)
    turns = read_turns(settings)
    assert Counter(turns["origin"]) == Counter({"ui": 1, "api": 2, "batch": 2})

    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    runs: Any = mlflow.search_runs([experiment], max_results=50_000)
    assert sorted(runs["tags.phi3kit.turn_id"]) == sorted(turns["turn_id"])
    store = TracingClient(settings.tracking_uri.reveal()).store
    for ours, theirs in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
        assert runs[f"metrics.{ours}"].sum() == turns[ours].sum()
        points = store.query_trace_metrics(
            [experiment], MetricViewType.TRACES, theirs, [MetricAggregation(AggregationType.SUM)]
        )
        assert sum(value for point in points for value in point.values.values()) == turns[ours].sum(), theirs
