"""`phi3kit evaluate`: a model's answers against the expected ones, logged to MLflow."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3kit.access.actor import process_actor
from phi3kit.cli.batch import add_sampling, positive
from phi3kit.cli.ending import Ending
from phi3kit.core.settings import read_settings

if TYPE_CHECKING:
    from phi3kit.batch.events import RowProgress

_PROGRESS_EVERY_S = 2.0  # lines on a terminal


def add_evaluate(commands: Any) -> None:
    """Add the command. commands: what argparse's add_subparsers gave."""
    evaluate = commands.add_parser("evaluate", help="score a model's answers against the expected ones")
    evaluate.add_argument("model_uri", metavar="MODEL_URI")
    evaluate.add_argument(
        "--data",
        default="embedded",
        metavar="FILE",
        help="a table with message (or prompt) and expected (default: embedded)",
    )
    evaluate.add_argument("--expected-column", default="expected", metavar="NAME")
    evaluate.add_argument("--limit", type=positive, metavar="N", help="so many questions, taken evenly from the table")
    evaluate.add_argument("--at-once", type=positive, default=1, metavar="N", help="requests under way together")
    add_sampling(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from phi3kit.batch.request import SamplingParams
    from phi3kit.evaluation.evaluate import evaluate
    from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
    from phi3kit.jobs.job_folder import run_as_job
    from phi3kit.jobs.kinds import EVALUATIONS

    Ending()
    settings = read_settings()
    actor = process_actor(settings)
    request = EvaluationRequest(
        model_uri=arguments.model_uri,
        data=arguments.data if arguments.data == EMBEDDED_QUESTIONS else str(Path(arguments.data).resolve()),
        expected_column=arguments.expected_column,
        limit=arguments.limit,
        at_once=arguments.at_once,
        sampling=SamplingParams(
            arguments.temperature, arguments.max_tokens, arguments.top_p, arguments.seed, tuple(arguments.stop)
        ),
    )
    shown_at = 0.0

    def report(progress: "RowProgress") -> None:
        nonlocal shown_at
        job.progress({**vars(progress)})
        if time.monotonic() - shown_at >= _PROGRESS_EVERY_S:
            shown_at = time.monotonic()
            print(progress.in_words(), file=sys.stderr, flush=True)

    with run_as_job(EVALUATIONS, request.as_json(), actor, settings) as job:
        job.wait()
        found = evaluate(request, actor, settings, report).as_json()
        job.line(found)
    print(json.dumps(found, ensure_ascii=False))
