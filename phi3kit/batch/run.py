"""Run: one batch from its file to its output: check, compute what is missing, write.

Knows the order of these steps. Does not know how rows are answered (see answering and spark).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from phi3kit.access.actor import Actor
from phi3kit.batch.answering import Answering, Prompt
from phi3kit.batch.events import BatchSummary, Pace, ReportRows
from phi3kit.batch.journal import Journal
from phi3kit.batch.output import check_output, write_output
from phi3kit.batch.request import AT_ONCE, BatchRequest, Mapped, RowResult, failed, key_of, map_columns, row_prompt
from phi3kit.batch.tables import Table, open_table, read_rows
from phi3kit.core.errors import ModelNotFound, RequestInvalid, TableInvalid, first_line
from phi3kit.core.settings import Settings
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.formats.mlmodel import MlmodelUnreadable, read_small
from phi3kit.tracking.logged_models import ResolvedModel, resolve
from phi3kit.tracking.model_uris import canonical

Answers = Callable[[Iterator[tuple[int, Prompt]]], Iterator[RowResult]]


def _digest(model: ResolvedModel) -> str:
    """Of MLflow's own description of the model, which is the same however the model was named. Raises ModelNotFound."""
    try:
        return hashlib.sha256(read_small(model.folder, "MLmodel")).hexdigest()
    except (OSError, MlmodelUnreadable) as error:
        why = f"Its MLmodel file has changed: {first_line(error)}"
        raise ModelNotFound(f"{model.model_uri} cannot be read.", why, "Build it again on Build.") from error


def run_batch(
    request: BatchRequest, actor: Actor, settings: Settings, report: ReportRows, pool: WorkerPool | None = None
) -> BatchSummary:
    """Compute what no earlier run of the same person's same batch has, and write the output.

    A row that cannot be answered carries its error in the output. pool: its workers answer; without one the batch has
    its own and ends it. Raises NotAllowed, TableInvalid, ModelNotFound, StorageFailed, WorkerFailed or BatchFailed;
    what was computed until then is kept.
    """
    actor.require("batch")
    table = open_table(request.input, request.reading)
    mapped = map_columns(request, table)
    _check_prompts(table, mapped, request.system)
    check_output(table, request.output)
    model = resolve(canonical(request.model_uri, settings), settings)  # once: an alias may move meanwhile
    key = key_of(request, table, mapped, _digest(model), actor)
    with Journal(settings, key, actor, fresh=request.fresh) as journal:
        done = journal.done(table.rows)
        kept = sum(done)
        pace = Pace(table.rows, kept, report)
        if kept < table.rows:

            def keep(result: RowResult) -> None:
                journal.add(result)
                pace.count(result.completion_tokens, result.error is not None)

            with _answers(request, model, actor, settings, pool, f"batch-{key}") as answers:
                for result in answers(_prompts(table, mapped, request.system, done, keep)):
                    keep(result)
        seconds = pace.seconds
        pace.report()
        write_output(table, journal.results(), request.output)
        failures, prompt_tokens, completion_tokens = journal.counts()
    return BatchSummary(
        output=str(request.output),
        rows=table.rows,
        computed=pace.computed,
        kept=kept,
        failed=failures,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=round(seconds, 2),
        tokens_per_s=round(pace.completion_tokens / seconds, 1) if pace.computed else None,
    )


def _check_prompts(table: Table, mapped: Mapped, system: str | None) -> None:
    """Refuse a table before a model is loaded for it. Raises TableInvalid when it has rows, and none has a prompt."""
    first: RequestInvalid | None = None
    for row in read_rows(table, mapped.columns):
        try:
            row_prompt(row, mapped, system)
        except RequestInvalid as error:
            first = first or error
        else:
            return
    if first:
        raise TableInvalid(
            f"No row of {table.path.name} has a prompt in its column {mapped.column!r}.",
            f"The first row: {first.what} {first.why}",
            "Choose another column, or another format for its cells.",
        )


def _prompts(
    table: Table, mapped: Mapped, system: str | None, done: bytearray, keep: Callable[[RowResult], None]
) -> Iterator[tuple[int, Prompt]]:
    """The prompts of the missing rows. A row without one is not asked; `keep` gets its result at once."""
    for number, row in enumerate(read_rows(table, mapped.columns)):
        if done[number]:
            continue
        try:
            prompt = row_prompt(row, mapped, system)
        except RequestInvalid as error:
            keep(failed(number, error, final=True))
        else:
            yield number, prompt


@contextmanager
def _answers(
    request: BatchRequest,
    model: ResolvedModel,
    actor: Actor,
    settings: Settings,
    pool: WorkerPool | None,
    batch_id: str,
) -> Iterator[Answers]:
    """What answers rows: a worker on this machine, or Spark."""
    with ExitStack() as ended:
        if request.spark:
            from phi3kit.batch.spark import SparkAnswering

            spark = SparkAnswering(request.spark, model, request.sampling, actor, settings, batch_id)
            ended.callback(spark.close)
            yield spark.answers
            return
        if pool is None:
            pool = WorkerPool(settings)
            ended.callback(pool.close)
        answering = Answering(pool, model.model_uri, request.sampling, actor, settings, batch_id)
        ended.callback(answering.close)
        yield lambda rows: answering.answers(rows, request.at_once or AT_ONCE)
