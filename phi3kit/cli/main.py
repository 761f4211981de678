"""Command line: open the app, build, serve, chat, compare signatures, read usage, answer batches, evaluate, keys, bundle for Azure ML.

    phi3kit app|build|serve|chat|signatures|usage|azure|batch|evaluate|keys …

Knows which commands there are. A user's error is one line on stderr and exit code 2.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from phi3kit.cli import app, azure, batch, build, chat, evaluate, keys, serve, signatures, terminal, usage
from phi3kit.core.data_folder import keep_private
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.redaction import hide_in_logs

_COMMANDS = (app, build, serve, chat, signatures, usage, azure, batch, evaluate, keys)  # in the order of --help

_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "HF_HUB_OFFLINE": "1",  # no library asks the hub by itself; phi3kit's own download does
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a server's, between lines of JSON
}


_READER_GONE = 141  # as a shell says of a program that SIGPIPE ended


class _Parser(argparse.ArgumentParser):
    """Prints one line a mistake, without argparse's usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Try: {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments; `run` of what it parses does the work."""
    program = "phi3kit" if Path(sys.argv[0]).stem == "phi3kit" else "python -m phi3kit"
    found = _Parser(prog=program, description=__doc__.splitlines()[0] if __doc__ else None)
    commands = found.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for command in _COMMANDS:
        command.add(commands)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    with terminal.cleaned():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    arguments = parser().parse_args(argv)
    _quiet()
    keep_private()
    hide_in_logs(os.environ)
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        return code or _READER_GONE
    return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        arguments.run(arguments)
    except Phi3KitError as error:
        print(f"phi3kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _READER_GONE
    return 0


def _quiet() -> None:
    """Keep what libraries print about themselves out of the command's output."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.captureWarnings(True)  # not a filter: MLflow puts its own before it
    for name in ("mlflow", "alembic", "transformers", "huggingface_hub", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it prints what it raises, traceback and all
