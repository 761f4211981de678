"""`phi3kit batch`: a table of prompts in, the same table with completions out."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.cli.arguments import Commands, add_sampling, positive, sampling_params
from phi3kit.cli.progress import run_rows
from phi3kit.core.settings import read_settings

if TYPE_CHECKING:
    from phi3kit.batch.events import RowProgress
    from phi3kit.batch.request import BatchRequest


def add(commands: Commands) -> None:
    """Add the command."""
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
    batch.add_argument("--system-column", metavar="NAME", help="the column of system messages, one for each row")
    batch.add_argument("--system", metavar="TEXT", help="a system message for every row without its own")
    add_sampling(batch)
    batch.add_argument("--no-header", action="store_true", help="the first row is not a header: column_1, column_2, …")
    batch.add_argument("--encoding", help="encoding of a CSV (default: detected from its first bytes, else UTF-8)")
    batch.add_argument("--delimiter", help="delimiter of a CSV (default: detected from its first line)")
    batch.add_argument("--at-once", type=positive, metavar="N", help="requests at once")
    batch.add_argument("--spark", metavar="MASTER", help="compute on Spark: local[2], spark://host:7077, yarn, …")
    batch.add_argument("--fresh", action="store_true", help="recompute rows that an earlier run finished")
    batch.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.batch.run import run_batch
    from phi3kit.jobs.kinds import BATCHES

    def stopped(at: "RowProgress") -> str:
        return f"Stopped. {at.done:,} of {at.total:,} rows are kept. Run the same command to resume."

    summary = run_rows(BATCHES, _request(arguments), read_settings(), run_batch, stopped)
    if summary.kept:
        print(f"{summary.kept:,} rows reused from an earlier run; --fresh recomputes them.", file=sys.stderr)
    print(json.dumps(summary.as_json(), ensure_ascii=False))


def _request(arguments: argparse.Namespace) -> "BatchRequest":
    from phi3kit.batch.request import PROMPT_FORMATS, BatchRequest
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
        sampling=sampling_params(arguments),
        reading=ReadOptions(not arguments.no_header, arguments.encoding, arguments.delimiter),
        at_once=arguments.at_once,
        spark=arguments.spark,
        fresh=arguments.fresh,
    )
