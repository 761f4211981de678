"""What is stored: how often each turn became a run and a trace, and a data folder whose store knows the built models."""

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import mlflow

from phi3kit.core.settings import Settings
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.writer import write_waiting
from tests.conftest import Built, settings_for


def written(settings: Settings) -> tuple[Counter[str], Counter[str]]:
    """How often each turn is among the runs and among the traces, as plain MLflow finds them."""
    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    runs = mlflow.search_runs([experiment], output_format="list", max_results=50_000)
    traces = mlflow.search_traces(locations=[experiment], return_type="list", max_results=50_000, include_spans=False)
    return (
        Counter(run.data.tags["phi3kit.turn_id"] for run in runs if run.info.status != "RUNNING"),
        Counter(trace.info.tags["phi3kit.turn_id"] for trace in traces),
    )


def written_at_last(settings: Settings) -> Counter[str]:
    """The same, when nothing waits any more; runs and traces are alike."""
    outbox = Outbox(settings.home)
    while outbox.waiting():
        write_waiting(settings, outbox=outbox)
    runs, traces = written(settings)
    assert runs == traces, (runs, traces)
    return runs


def with_models_of(built: Built, home: Path, **values: str) -> Settings:
    """Settings of a data folder of its own whose store knows the built models and no turn; the files stay where they are."""
    (home / "artifacts").mkdir(parents=True, exist_ok=True)
    for folder in (built.home / "artifacts").iterdir():
        (home / "artifacts" / folder.name).symlink_to(folder)
    shutil.copyfile(built.home / "mlflow.db", home / "mlflow.db")
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        database.execute("update experiments set name = 'of other tests' where name = ?", (USAGE_EXPERIMENT,))
    return settings_for(home, **values)
