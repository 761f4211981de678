"""Versions: what is known of a logged model, so that two can be compared: what it is, what its turns measured, what an
evaluation found.

Knows the table of turns and the runs of phi3kit-evaluations. Evaluates nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import mlflow
import pandas as pd

from phi3kit.core.settings import Settings
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import RegisteredModel
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, open_store, storage_errors
from phi3kit.usage.summary import Totals, totals

SCORES = ("exact", "contains", "word_f1")  # shares from 0 to 1


@dataclass(frozen=True)
class Evaluation:
    """The newest evaluation of a logged model."""

    run_id: str
    at: datetime
    scores: tuple[tuple[str, float], ...]  # of SCORES, those that the run has


@dataclass(frozen=True)
class Fact:
    """One thing about two models; None where it is not known."""

    name: str
    unit: str  # "", "bytes", "tokens", "turns", "s", "tokens/s", "share"
    a: str | float | None
    b: str | float | None


def names_of(model_uri: str, registered: Sequence[RegisteredModel]) -> set[str]:
    """Every URI under which turns of a logged model may be logged; an alias is none, because it moves."""
    versions = (version for each in registered for version in each.versions)
    return {model_uri} | {version.model_uri for version in versions if version.logged_model == model_uri}


def turns_of(turns: pd.DataFrame, model_uri: str, registered: Sequence[RegisteredModel]) -> pd.DataFrame:
    """The turns that a logged model answered. turns, and what returns: the columns of usage.turns_table."""
    return turns[turns["model_uri"].isin(names_of(model_uri, registered))]


def evaluations(registered: Sequence[RegisteredModel], settings: Settings) -> dict[str, Evaluation]:
    """Logged model URI to its newest evaluation. Raises StorageFailed.

    An evaluation is a finished run of phi3kit-evaluations with the tag phi3kit.model_uri and a metric of SCORES.
    """
    client = open_store(settings)
    with storage_errors(settings.home):
        experiment = client.get_experiment_by_name(EVALUATIONS_EXPERIMENT)
        if experiment is None:
            return {}
        runs = mlflow.search_runs(
            experiment_ids=[experiment.experiment_id],
            filter_string="attributes.status = 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1_000,
            output_format="list",
        )
    logged = {
        uri: version.logged_model
        for each in registered
        for version in each.versions
        for uri in (version.model_uri, *(f"models:/{version.name}@{alias}" for alias in version.aliases))
    }
    found: dict[str, Evaluation] = {}
    for run in runs:
        uri = run.data.tags.get("phi3kit.model_uri", "")
        scores = tuple((name, float(run.data.metrics[name])) for name in SCORES if name in run.data.metrics)
        if uri and scores:
            at = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
            found.setdefault(logged.get(uri) or uri, Evaluation(run.info.run_id, at, scores))
    return found


def compare(
    a: LoggedModel,
    b: LoggedModel,
    turns: pd.DataFrame,
    registered: Sequence[RegisteredModel],
    evaluated: dict[str, Evaluation],
) -> list[Fact]:
    """What two logged models are and what was measured with each, in the order to be read."""
    measured_a, measured_b = (totals(turns_of(turns, each.model_uri, registered)) for each in (a, b))
    scores_a, scores_b = (
        dict(evaluated[each.model_uri].scores) if each.model_uri in evaluated else {} for each in (a, b)
    )
    return [
        Fact("wrapper", "", a.wrapper, b.wrapper),
        Fact("source", "", a.source, b.source),
        Fact("precision", "", a.precision, b.precision),
        Fact("size", "bytes", a.size_bytes, b.size_bytes),
        Fact("context", "tokens", a.context_tokens, b.context_tokens),
        Fact("turns logged", "turns", measured_a.turns, measured_b.turns),
        *_speed(measured_a, measured_b),
        *(Fact(f"evaluation: {name}", "share", scores_a.get(name), scores_b.get(name)) for name in SCORES),
    ]


def _speed(a: Totals, b: Totals) -> list[Fact]:
    return [
        Fact("speed, median", "tokens/s", a.tokens_per_second_median, b.tokens_per_second_median),
        Fact("time to first token, p95", "s", a.time_to_first_token_p95_s, b.time_to_first_token_p95_s),
    ]
