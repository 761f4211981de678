"""Samples: one turn to vary, a table of turns, and a new store without the seconds that making its tables takes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.core.records import TurnRecord
from phi3kit.core.settings import Settings, read_settings

if TYPE_CHECKING:  # pandas and MLflow are imported late: test processes that only add turns start quickly
    import pandas as pd

TURN = TurnRecord(
    turn_id="t1",
    at=1_767_225_600.0,  # 2026-01-01 00:00 UTC
    wrapper="onnx",
    model_uri="models:/m-1",
    interface="raw",
    origin="api",
    user="ada",
    conversation_id="c1",
    finish_reason="stop",
    prompt_tokens=10,
    completion_tokens=5,
    cached_prompt_tokens=0,
    duration_s=1.5,
    time_to_first_token_s=0.5,
    temperature=0.0,
    max_tokens=64,
    top_p=1.0,
    seed=None,
)


def turn(turn_id: str = "t1", **values: object) -> TurnRecord:
    """The sample with other values."""
    return replace(TURN, turn_id=turn_id, **values)  # type: ignore[arg-type]


def table(*turns: TurnRecord) -> "pd.DataFrame":
    """Turns as the reader gives them."""
    import pandas as pd

    from phi3kit.usage.turn_fields import METRICS, PARAMS, TAGS
    from phi3kit.usage.turns_table import sort_out, turns_in
    from phi3kit.usage.writer import metrics_of, tags_of

    stored = [
        {
            "run_id": each.turn_id,
            "start_ms": int(each.at * 1000),
            **metrics_of(each),
            **{
                name: None if (value := getattr(each, name)) is None else str(value) for name in PARAMS
            },  # as MLflow keeps them
            **{name.removeprefix("phi3kit."): value for name, value in tags_of(each).items()},
        }
        for each in turns
    ]
    return turns_in(sort_out(pd.DataFrame(stored, columns=["run_id", "start_ms", *METRICS, *PARAMS, *TAGS])))


def new_store(home: Path) -> Settings:
    """Settings whose store lies in `home` and has no experiments of phi3kit yet."""
    from tests.support.made_tables import new_database

    new_database(home / "mlflow.db")
    return read_settings({"PHI3KIT_HOME": str(home)})


def logged_model(settings: Settings, source: str = "embedded", size_bytes: int = 1000, wrapper: str = "onnx") -> str:
    """A logged model as a build leaves it, but for what is in its files; its URI."""
    from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, open_store

    client = open_store(settings)
    tags = {"phi3kit.wrapper": wrapper, "phi3kit.source": source, "phi3kit.precision": "int4"}
    model = client.create_logged_model(
        experiment_id(settings, BUILDS_EXPERIMENT), name=f"phi3-{wrapper}", tags={**tags, "phi3kit.checked": "true"}
    )
    folder = artifacts_of(f"models:/{model.model_id}", settings)
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n".ljust(size_bytes))
    return f"models:/{model.model_id}"


def evaluation_run(settings: Settings, metrics: dict[str, float], params: dict[str, str], **tags: str) -> str:
    """A run as an evaluation leaves it, but for its answers, with other values; its id. tags: without their `phi3kit.`."""
    from phi3kit.evaluation.results import DIGEST_TAG
    from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, experiment_id, open_store

    client = open_store(settings)
    own = {"model_uri": "models:/m-1", "wrapper": "onnx", **tags}
    run = client.create_run(
        experiment_id(settings, EVALUATIONS_EXPERIMENT),
        tags={DIGEST_TAG: "d", **{f"phi3kit.{name}": tag for name, tag in own.items()}},
    ).info.run_id
    names = ("exact", "contains", "word_f1", "completion_tokens", "latency_s", "latency_p95_s", "questions", "failed")
    for name, value in {**dict.fromkeys(names, 1.0), **metrics}.items():
        client.log_metric(run, name, value)
    for name, text in {"model_uri": "models:/m-1", "data": "embedded", "at_once": "1", **params}.items():
        client.log_param(run, name, text)
    client.set_terminated(run)
    return str(run)


def artifacts_of(model_uri: str, settings: Settings) -> Path:
    """Where the store of the data folder keeps a logged model's files."""
    model_id = model_uri.removeprefix("models:/")
    return settings.home / "artifacts" / "phi3kit-builds" / "models" / model_id / "artifacts"


def copy_of_store(settings: Settings, home: Path) -> Settings:
    """A data folder of its own with the same models in it, for a test that changes or breaks them."""
    from phi3kit.tracking.store import open_store

    shutil.copytree(settings.home / "artifacts", home / "artifacts")
    copied = read_settings({"PHI3KIT_HOME": str(home)})
    (home / "mlflow.db").write_bytes((settings.home / "mlflow.db").read_bytes())
    open_store(copied)
    return copied
