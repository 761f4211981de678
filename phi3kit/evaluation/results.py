"""Results: logged evaluations, their answers, and two of them question by question.

Reads the runs of phi3kit-evaluations. Evaluates nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import mlflow
import pandas as pd

from phi3kit.access.actor import Actor
from phi3kit.core.errors import StorageFailed
from phi3kit.core.records import WRAPPERS, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.evaluation.request import EMBEDDED_NAMES
from phi3kit.evaluation.scores import SCORES
from phi3kit.tracking.foreign_values import measure, moment, one_of, whole
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, open_store, storage_errors

USER_TAG = "phi3kit.user"
DIGEST_TAG = "phi3kit.questions"  # the same for two evaluations that asked the same

_TABLE = "eval_results_table.json"  # as MLflow calls it
_MOST = 500  # evaluations that are listed
_MOST_BYTES = 100_000_000  # of a table of answers
_MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Evaluation:
    """A logged evaluation; field names are the CLI's JSON keys."""

    run_id: str
    user: str  # who evaluated; empty when another program did
    at: datetime
    model_uri: str  # models:/m-…
    asked_as: str  # the URI of the request, perhaps an alias
    wrapper: WrapperName
    data: str
    digest: str
    questions: int
    failed: int
    exact: float  # scores are shares from 0 to 1
    contains: float
    word_f1: float
    completion_tokens: float  # a question, mean
    latency_s: float  # a question, mean
    latency_p95_s: float
    at_once: int  # requests under way together while latency was measured

    def as_json(self) -> dict[str, Any]:
        """The keys and values of the CLI's line."""
        return {**asdict(self), "at": self.at.isoformat(timespec="seconds")}


def list_evaluations(settings: Settings) -> list[Evaluation]:
    """The finished evaluations, newest first. Raises StorageFailed."""
    client = open_store(settings)
    with storage_errors(settings.home):
        experiment = client.get_experiment_by_name(EVALUATIONS_EXPERIMENT)
        if experiment is None:
            return []
        runs = client.search_runs(
            [experiment.experiment_id],
            filter_string=f"attributes.status = 'FINISHED' and tags.`{DIGEST_TAG}` != ''",
            order_by=["attributes.start_time DESC"],
            max_results=_MOST,
        )
    return [found for run in runs if (found := _evaluation(run))]


def seen_by(actor: Actor, found: Iterable[Evaluation]) -> list[Evaluation]:
    """Those whose questions and answers a person may see: their own, and all of the questions that ship with phi3kit."""
    if actor.may("administer"):
        return list(found)
    return [each for each in found if each.data in EMBEDDED_NAMES or (each.user and each.user == actor.name)]


def find_evaluation(run_id: str, settings: Settings) -> Evaluation:
    """One evaluation. Raises StorageFailed."""
    client = open_store(settings)
    with storage_errors(settings.home):
        found = _evaluation(client.get_run(run_id))
    if found is None:
        raise StorageFailed(f"The run {run_id} is not an evaluation.", "It has no scores.", "Choose another run.")
    return found


def answers_of(run_id: str, settings: Settings) -> pd.DataFrame:
    """The questions of an evaluation: question, expected, answer, error, latency_s, completion_tokens, and each score.

    Raises StorageFailed.
    """
    client = open_store(settings)
    with storage_errors(settings.home):
        sizes = {each.path: each.file_size for each in client.list_artifacts(run_id)}
        text = "" if (sizes.get(_TABLE) or 0) > _MOST_BYTES else mlflow.artifacts.load_text(f"runs:/{run_id}/{_TABLE}")
    try:
        found = _table(json.loads(text))
        found = found.rename(columns={f"{name}/score": name for name in SCORES})
        return found.astype({"question": str, "expected": str, "answer": str, **dict.fromkeys(SCORES, float)})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageFailed(
            f"The answers of the evaluation {run_id} cannot be read.",
            "Another program wrote or changed its table.",
            "Evaluate the model again.",
        ) from error


def _table(said: Any) -> pd.DataFrame:
    """A table in MLflow's form: as many values a row as there are columns, so that it is not bigger than its text.

    Raises ValueError, KeyError or TypeError.
    """
    columns, rows = said["columns"], said["data"]
    names = isinstance(columns, list) and all(isinstance(each, str) for each in columns)
    if not names or len(set(columns)) < len(columns) or not isinstance(rows, list) or len(rows) > _MOST_ROWS:
        raise ValueError("not a table")
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        raise ValueError("rows of other lengths than the columns")
    return pd.DataFrame(rows, columns=columns)


def compare_answers(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Question by question: the question, both answers, both scores, and which is better.

    a, b: the answers_of two evaluations with the same digest.
    """
    both = a[["question", "expected"]].copy()
    for side, table in (("a", a), ("b", b)):
        both[f"answer_{side}"] = list(table["answer"])
        both[f"exact_{side}"] = [bool(value) for value in table["exact"]]
        both[f"word_f1_{side}"] = list(table["word_f1"])
    differences = list(
        both["exact_a"].astype(int) - both["exact_b"].astype(int) + both["word_f1_a"] - both["word_f1_b"]
    )
    both["better"] = ["A" if each > 0 else "B" if each < 0 else "same" for each in differences]
    return both


def keeps_texts(both: pd.DataFrame) -> bool:
    """Whether questions and answers were kept, or only their scores. both: what `compare_answers` gave."""
    return bool((both["question"] != "").any())


def _evaluation(run: Any) -> Evaluation | None:
    """None for another program's run, or one that was changed."""
    metrics, params, tags = run.data.metrics, run.data.params, run.data.tags
    found: dict[str, Any] = {
        "user": tags.get(USER_TAG, ""),
        "at": moment(run.info.start_time),
        "model_uri": tags.get("phi3kit.model_uri"),
        "asked_as": params.get("model_uri"),
        "wrapper": one_of(tags.get("phi3kit.wrapper"), WRAPPERS),
        "data": params.get("data"),
        "digest": tags.get(DIGEST_TAG),
        "questions": whole(metrics.get("questions")),
        "failed": whole(metrics.get("failed")),
        **{name: measure(metrics.get(name)) for name in (*SCORES, "completion_tokens", "latency_s", "latency_p95_s")},
        "at_once": whole(params.get("at_once"), 1),
    }
    return None if None in found.values() else Evaluation(run_id=run.info.run_id, **found)
