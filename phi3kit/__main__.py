"""Command line: build, serve, chat, compare signatures, read usage.

    python -m phi3kit build|serve|chat|signatures|usage …

Knows arguments and what is printed. A user's error is one line on stderr and exit code 2.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from phi3kit.errors import Phi3KitError
from phi3kit.records import PRECISIONS, WRAPPERS
from phi3kit.settings import child_environment, read_settings


class _Parser(argparse.ArgumentParser):
    """One line a mistake: argparse alone would print the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Try: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m phi3kit", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    build = commands.add_parser("build", help="package Phi-3 as an MLflow model")
    build.add_argument("--wrapper", choices=[*WRAPPERS, "both"], required=True)
    build.add_argument("--source", default="embedded", help="embedded or a folder (default: embedded)")
    build.add_argument("--precision", choices=PRECISIONS, default="int4", help="of the ONNX export (default: int4)")
    build.add_argument("--register", metavar="NAME", help="also register the model under this name")
    build.add_argument("--json", action="store_true", help="report each step as a JSON line on stdout")
    build.set_defaults(run=_build)

    serve = commands.add_parser("serve", help="serve one logged model over HTTP (a worker in the foreground)")
    serve.add_argument("model_uri", metavar="MODEL_URI")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    serve.set_defaults(run=_serve)

    chat = commands.add_parser("chat", help="ask a logged model once")
    chat.add_argument("model_uri", metavar="MODEL_URI")
    chat.add_argument("text", metavar="TEXT")
    chat.add_argument("--raw", action="store_true", help="TEXT is a raw prompt")
    chat.set_defaults(run=_chat)

    signatures = commands.add_parser("signatures", help="compare the signatures of two logged models")
    signatures.add_argument("uri_a", metavar="URI_A")
    signatures.add_argument("uri_b", metavar="URI_B")
    signatures.add_argument("--json", action="store_true")
    signatures.set_defaults(run=_signatures)

    usage = commands.add_parser("usage", help="the logged turns")
    usage.add_argument("--since", default="7d", help="how far back: 12h, 7d, 4w or all (default: 7d)")
    usage.add_argument("--format", choices=["table", "csv", "json", "parquet"], default="table")
    usage.add_argument("-o", "--output", type=Path, metavar="FILE")
    usage.set_defaults(run=_usage)
    return parser


def _build(arguments: argparse.Namespace) -> None:
    from phi3kit.builds import StepEvent, build
    from phi3kit.sources import find_source

    def report(event: StepEvent) -> None:
        if arguments.json:
            line = {"event": "step", "wrapper": event.wrapper, "step": event.step, "seconds": event.seconds}
            print(json.dumps(line), flush=True)
        elif event.seconds is not None:
            print(f"{event.wrapper}: {event.step} {event.seconds:.1f} s", file=sys.stderr, flush=True)

    # A cancelled build must take back what it half did: turn SIGTERM into an exit that Python's cleanup sees.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    settings = read_settings()
    source = find_source(arguments.source)
    for wrapper in WRAPPERS if arguments.wrapper == "both" else (arguments.wrapper,):
        built = build(wrapper, source, arguments.precision, arguments.register, settings, report)
        print(json.dumps(built.as_json(), ensure_ascii=False), flush=True)


def _serve(arguments: argparse.Namespace) -> None:
    from phi3kit.logged_models import resolve

    settings = read_settings()
    model = resolve(arguments.model_uri, settings)
    command = [
        *(sys.executable, "-m", "phi3kit.server", str(model.folder), "--model-uri", arguments.model_uri),
        *("--wrapper", model.wrapper, "--host", arguments.host, "--port", str(arguments.port)),
    ]
    # The worker starts from a clean process: MLflow, which found the model, would cost it 150 MB.
    os.execve(sys.executable, command, child_environment(settings))  # noqa: S606


def _chat(arguments: argparse.Namespace) -> None:
    from phi3kit.client import Request, TurnContext, ask
    from phi3kit.records import Message
    from phi3kit.workers import WorkerPool

    settings = read_settings()
    pool = WorkerPool(settings)
    try:
        endpoint = pool.endpoint(arguments.model_uri)
        prompt = arguments.text if arguments.raw else (Message("user", arguments.text),)
        answer = ask(endpoint, Request(prompt), TurnContext(user=settings.user, origin="api"), settings)
    finally:
        pool.close()
    print(answer.text)


def _signatures(arguments: argparse.Namespace) -> None:
    from phi3kit.logged_models import signature_of
    from phi3kit.signatures import compare, describe

    settings = read_settings()
    a, b = signature_of(arguments.uri_a, settings), signature_of(arguments.uri_b, settings)
    rows = compare(a, b)
    if arguments.json:
        both = {"a": describe(a).as_json(), "b": describe(b).as_json(), "fields": [row.as_json() for row in rows]}
        print(json.dumps(both, ensure_ascii=False, indent=2))
        return
    for uri, signature in ((arguments.uri_a, a), (arguments.uri_b, b)):
        print(f"{uri}\n{describe(signature).notation}\n")
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.part:8} {row.name:{width}}  {row.in_a or '-':28} {row.in_b or '-':28} {row.verdict}")


def _usage(arguments: argparse.Namespace) -> None:
    from phi3kit.usage.export import write
    from phi3kit.usage.reader import read_turns, since
    from phi3kit.usage.writer import write_waiting

    settings = read_settings()
    write_waiting(settings)
    turns = since(read_turns(settings), arguments.since)
    write(turns, arguments.format, arguments.output)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
    _quiet()
    try:
        arguments.run(arguments)
    except Phi3KitError as error:
        if getattr(arguments, "json", False) and arguments.command == "build":
            parts = {"what": error.what, "why": error.why, "next_step": error.next_step}
            print(json.dumps({"event": "error", **parts}), flush=True)
        print(f"phi3kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _quiet() -> None:
    """What libraries print about themselves is not the command's output."""
    import logging
    import warnings

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore", module="mlflow")
    for name in ("mlflow", "alembic", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
