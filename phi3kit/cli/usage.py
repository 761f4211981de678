"""`phi3kit usage`: the logged turns as a table or a file."""

import argparse
from pathlib import Path

from phi3kit.cli.arguments import Commands
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    usage = commands.add_parser("usage", help="the logged turns")
    usage.add_argument("--since", default="7d", help="how far back: 12h, 7d, 4w or all (default: 7d)")
    usage.add_argument("--format", choices=["table", "csv", "json", "parquet"], default="table")
    usage.add_argument("-o", "--output", type=Path, metavar="FILE")
    usage.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.usage.export import write
    from phi3kit.usage.reader import read_turns
    from phi3kit.usage.turns_table import since
    from phi3kit.usage.writer import write_waiting

    settings = read_settings()
    write_waiting(settings)
    write(since(read_turns(settings), arguments.since), arguments.format, arguments.output)
