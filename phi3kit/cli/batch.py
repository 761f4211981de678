"""`phi3kit batch`: a table of prompts in, the same table with completions out."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi3kit.access.actor import process_actor
from phi3kit.cli.ending import Ending
from phi3kit.core.settings import read_settings
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from phi3kit.batch.events import RowProgress
    from phi3kit.batch.request import BatchRequest

_PROGRESS_EVERY_S = 2.0  # lines on a terminal


def add_batch(commands: Any) -> None:
    """Add the command. commands: what argparse's add_subparsers gave."""
    batch = commands.add_parser("batch", help="answer every row of a table (CSV, JSONL, Parquet)")
    batch.add_argument("model_uri", metavar="MODEL_URI")
    batch.add_argument(
        "input", metavar="IN", type=Path, help="with a column message, prompt (raw) or messages (OpenAI's)"
    )
    batch.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help=".csv, .tsv, .jsonl or .parquet")
    column = batch.add_mutually_exclusive_group()
    column.add_argument("--message-column", metavar="NAME", help="the column of user messages")
    column.add_argument("--prompt-column", metavar="NAME", help="the column of raw prompts")
    column.add_argument("--messages-column", metavar="NAME", help="the column of lists of messages, in a CSV as JSON")
    batch.add_argument("--system-column", metavar="NAME", help="a system message of each row's own")
    batch.add_argument("--system", metavar="TEXT", help="a system message for every row that has none of its own")
    add_sampling(batch)
    batch.add_argument("--no-header", action="store_true", help="the first row is no header: column_1, column_2, …")
    batch.add_argument("--encoding", help="of a CSV (default: UTF-8, or what its first bytes say)")
    batch.add_argument("--delimiter", help="of a CSV (default: what its first line has most of)")
    batch.add_argument("--at-once", type=positive, metavar="N", help="requests under way together")
    batch.add_argument("--spark", metavar="MASTER", help="compute on Spark: local[2], spark://host:7077, yarn, …")
    batch.add_argument("--fresh", action="store_true", help="compute also what an earlier run has computed")
    batch.set_defaults(run=_batch)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How rows are answered."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--max-tokens", type=positive, default=DEFAULT_MAX_TOKENS, help="of each completion")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may be given several times")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _batch(arguments: argparse.Namespace) -> None:
    from phi3kit.batch.run import run_batch
    from phi3kit.jobs.job_folder import run_as_job
    from phi3kit.jobs.kinds import BATCHES

    Ending()
    settings = read_settings()
    actor = process_actor(settings)
    request = _request(arguments)
    shown_at = 0.0
    last: RowProgress | None = None

    def report(progress: "RowProgress") -> None:
        nonlocal shown_at, last
        last = progress
        job.progress({**vars(progress)})
        if time.monotonic() - shown_at >= _PROGRESS_EVERY_S:
            shown_at = time.monotonic()
            print(progress.in_words(), file=sys.stderr, flush=True)

    try:
        with run_as_job(BATCHES, request.as_json(), actor, settings) as job:
            job.wait()
            summary = run_batch(request, actor, settings, report)
            job.line(summary.as_json())
    except (KeyboardInterrupt, SystemExit):
        if last:
            print(f"Stopped. {last.done:,} of {last.total:,} rows are kept; the same command goes on.", file=sys.stderr)
        raise
    if summary.kept:
        print(f"{summary.kept:,} rows were computed before; --fresh computes them again.", file=sys.stderr)
    print(json.dumps(summary.as_json(), ensure_ascii=False))


def _request(arguments: argparse.Namespace) -> "BatchRequest":
    from phi3kit.batch.request import PROMPT_FORMATS, BatchRequest, SamplingParams
    from phi3kit.batch.tables import ReadOptions

    columns = ((name, getattr(arguments, f"{name}_column")) for name in PROMPT_FORMATS)
    kind, column = next(((name, column) for name, column in columns if column is not None), (None, None))
    return BatchRequest(
        model_uri=arguments.model_uri,
        input=arguments.input.resolve(),
        output=arguments.output.resolve(),
        column=column,
        format=kind,
        system_column=arguments.system_column,
        system=arguments.system,
        sampling=SamplingParams(
            arguments.temperature, arguments.max_tokens, arguments.top_p, arguments.seed, tuple(arguments.stop)
        ),
        reading=ReadOptions(not arguments.no_header, arguments.encoding, arguments.delimiter),
        at_once=arguments.at_once,
        spark=arguments.spark,
        fresh=arguments.fresh,
    )
