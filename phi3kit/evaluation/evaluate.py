"""Evaluate: ask every question, score the answers with MLflow's evaluation, log the scores as one run.

Uses mlflow.models.evaluate: mlflow.genai.evaluate gives the same scores, and writes a trace a question, 0.2 s each.
Runs in a process of its own (see jobs). Does not know how its progress is shown.
"""

from dataclasses import asdict
from statistics import mean, quantiles
from typing import Any

import mlflow
import pandas as pd
from mlflow.metrics import MetricValue, make_metric

from phi3kit.access.actor import Actor
from phi3kit.batch.answering import Answering
from phi3kit.batch.events import Pace, ReportRows
from phi3kit.batch.request import RowResult
from phi3kit.core.errors import BatchFailed
from phi3kit.core.settings import Settings
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation import scores
from phi3kit.evaluation.request import EvaluationRequest, QuestionSet, read_questions
from phi3kit.evaluation.results import DIGEST_TAG, USER_TAG, Evaluation, find_evaluation
from phi3kit.tracking.logged_models import resolve
from phi3kit.tracking.model_uris import canonical
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, experiment_id, open_store, storage_errors


def evaluate(
    request: EvaluationRequest, actor: Actor, settings: Settings, report: ReportRows, pool: WorkerPool | None = None
) -> Evaluation:
    """Evaluate a model and log the run.

    A question that cannot be answered scores 0 and is counted as failed. pool: its workers answer; without one the
    evaluation has its own and ends it.
    Raises NotAllowed, TableInvalid, ModelNotFound, StorageFailed, WorkerFailed or BatchFailed.
    """
    actor.require("evaluate")
    question_set = read_questions(request)
    model = resolve(canonical(request.model_uri, settings), settings)
    experiment = experiment_id(settings, EVALUATIONS_EXPERIMENT)
    workers = pool or WorkerPool(settings)
    answering = Answering(
        workers, model.model_uri, request.sampling, actor, settings, f"evaluation-{question_set.digest}"
    )
    try:
        results = _answers(answering, question_set, request.at_once, report)
    finally:
        answering.close()
        if pool is None:
            workers.close()
    if all(result.error for result in results):
        raise BatchFailed(
            "No question was answered.", f"The first error: {results[0].error}", "Check the questions and the model."
        )
    table = _table(question_set, results)
    open_store(settings)
    tags = {"phi3kit.model_uri": model.model_uri, "phi3kit.wrapper": model.wrapper}
    tags |= {USER_TAG: actor.name, DIGEST_TAG: question_set.digest}
    with (
        storage_errors(settings.home),
        mlflow.start_run(experiment_id=experiment, run_name=f"evaluate {model.wrapper}", tags=tags) as run,
    ):
        params = {"model_uri": request.model_uri, "data": question_set.name, "questions": len(question_set.questions)}
        mlflow.log_params({**params, "at_once": request.at_once, **asdict(request.sampling)})
        _scored(table, question_set, log_text=settings.log_text)
        mlflow.log_metrics(_metrics(table))
    return find_evaluation(run.info.run_id, settings)


def _answers(answering: Answering, question_set: QuestionSet, at_once: int, report: ReportRows) -> list[RowResult]:
    """A result a question, in the order of the questions."""
    pace = Pace(len(question_set.questions), 0, report)
    found: list[RowResult] = []
    rows = ((number, question.prompt) for number, question in enumerate(question_set.questions))
    for result in answering.answers(rows, at_once):
        found.append(result)
        pace.count(result.completion_tokens, result.error is not None)
    pace.report()
    return sorted(found, key=lambda result: result.row)


def _table(question_set: QuestionSet, results: list[RowResult]) -> pd.DataFrame:
    rows = [
        {
            "question": question.shown,
            "expected": question.expected,
            "answer": result.completion,
            "completion_tokens": result.completion_tokens,
            "latency_s": result.duration_s,
            "error": result.error or "",
        }
        for question, result in zip(question_set.questions, results, strict=True)
    ]
    return pd.DataFrame(rows)


def _scored(table: pd.DataFrame, question_set: QuestionSet, *, log_text: bool) -> None:
    """Add the scores to the table, and let MLflow log it into the active run.

    log_text: whether questions and answers are logged too, or only what they cost and scored.
    """
    metrics = []
    for name in scores.SCORES:
        score = getattr(scores, name)
        values = [score(answer, wanted) for answer, wanted in zip(table["answer"], table["expected"], strict=True)]
        table[name] = values

        def of_all(predictions: Any, targets: Any, found: Any = values) -> MetricValue:
            return MetricValue(scores=found, aggregate_results={})  # its means are logged under plain names

        metrics.append(make_metric(eval_fn=of_all, greater_is_better=True, name=name))
    logged = table[["question", "expected", "answer", "completion_tokens", "latency_s", "error"]]
    if not log_text:
        failed = ["failed" if error else "" for error in table["error"]]  # an error may quote its question
        logged = logged.assign(question="", expected="", answer="", error=failed)
    data = mlflow.data.from_pandas(
        logged, targets="expected", predictions="answer", name=question_set.name, digest=question_set.digest
    )
    mlflow.models.evaluate(data=data, extra_metrics=metrics, evaluators="default")


def _metrics(table: pd.DataFrame) -> dict[str, float]:
    """The run's metrics."""
    answered = table[table["error"] == ""]
    latency = list(answered["latency_s"])
    means = {name: float(table[name].mean()) for name in scores.SCORES}
    return {
        **means,
        "completion_tokens": float(answered["completion_tokens"].mean()),
        "latency_s": mean(latency),
        "latency_p95_s": quantiles(latency, n=20, method="inclusive")[-1] if len(latency) > 1 else latency[0],
        "questions": float(len(table)),
        "failed": float(len(table) - len(answered)),
    }
