"""`phi3kit evaluate`: a model's answers against the expected ones, logged to MLflow."""

import argparse
import json
from pathlib import Path

from phi3kit.cli.arguments import Commands, add_sampling, positive, sampling_params
from phi3kit.cli.progress import run_rows
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.add_parser("evaluate", help="score a model's answers against the expected ones")
    evaluate.add_argument("model_uri", metavar="MODEL_URI")
    evaluate.add_argument(
        "--data",
        default="embedded",
        metavar="FILE",
        help="a table with message (or prompt) and expected (default: embedded)",
    )
    evaluate.add_argument("--expected-column", default="expected", metavar="NAME")
    evaluate.add_argument(
        "--limit", type=positive, metavar="N", help="number of questions, taken evenly from the table"
    )
    evaluate.add_argument("--at-once", type=positive, default=1, metavar="N", help="requests at once")
    add_sampling(evaluate)
    evaluate.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.evaluation.evaluate import evaluate
    from phi3kit.evaluation.request import EMBEDDED_QUESTIONS, EvaluationRequest
    from phi3kit.jobs.kinds import EVALUATIONS

    request = EvaluationRequest(
        model_uri=arguments.model_uri,
        data=arguments.data if arguments.data == EMBEDDED_QUESTIONS else str(Path(arguments.data).resolve()),
        expected_column=arguments.expected_column,
        limit=arguments.limit,
        at_once=arguments.at_once,
        sampling=sampling_params(arguments),
    )
    found = run_rows(EVALUATIONS, request, read_settings(), evaluate)
    print(json.dumps(found.as_json(), ensure_ascii=False))
