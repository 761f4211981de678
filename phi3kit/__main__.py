"""Command line: open the app, build, serve, chat, compare signatures, read usage, answer batches, evaluate, keys, bundle for Azure ML.

    phi3kit app|build|serve|chat|signatures|usage|azure|batch|evaluate|keys …

Knows arguments and what is printed. A user's error is one line on stderr and exit code 2.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from phi3kit.access.actor import process_actor
from phi3kit.cli.app import add_app
from phi3kit.cli.batch import add_batch
from phi3kit.cli.ending import Ending
from phi3kit.cli.evaluate import add_evaluate
from phi3kit.cli.keys import add_keys
from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.operating_system import become
from phi3kit.core.records import PRECISIONS, WRAPPERS
from phi3kit.core.redaction import hide_in_logs
from phi3kit.core.settings import Settings, read_settings

if TYPE_CHECKING:
    from phi3kit.jobs.job_folder import JobProcess
    from phi3kit.packaging.events import BuildRequest, Event


_PROGRESS_EVERY_S = 2.0  # lines on a terminal


class _Parser(argparse.ArgumentParser):
    """One line a mistake: argparse alone would print the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Try: {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    program = "phi3kit" if Path(sys.argv[0]).stem == "phi3kit" else "python -m phi3kit"
    parser = _Parser(prog=program, description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    add_app(commands)
    build = commands.add_parser("build", help="package Phi-3 as an MLflow model")
    build.add_argument("--wrapper", choices=[*WRAPPERS, "both"], required=True)
    build.add_argument(
        "--source",
        default="embedded",
        help="embedded, a folder, or owner/name[@revision][/folder] on Hugging Face (default: embedded)",
    )
    build.add_argument("--precision", choices=PRECISIONS, default="int4", help="of the ONNX export (default: int4)")
    build.add_argument("--register", metavar="NAME", help="also register the model under this name")
    build.add_argument("--plan", action="store_true", help="only say what it will download, need and take")
    build.add_argument("--yes", action="store_true", help="build also when it is a tight fit")
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

    azure = commands.add_parser("azure", help="bundle a logged model for an Azure ML online endpoint")
    azure.add_argument("model_uri", metavar="MODEL_URI")
    azure.add_argument("-o", "--output", type=Path, metavar="FILE.zip", required=True)
    azure.set_defaults(run=_azure)
    add_batch(commands)
    add_evaluate(commands)
    add_keys(commands)
    return parser


def _build(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from phi3kit.jobs.job_folder import run_as_job
    from phi3kit.jobs.kinds import BUILDS
    from phi3kit.packaging.events import BuildRequest

    ending = Ending()
    settings = read_settings()
    wrappers = WRAPPERS if arguments.wrapper == "both" else (arguments.wrapper,)
    request = BuildRequest(wrappers, arguments.source, arguments.precision, arguments.register)
    if arguments.plan:
        _show_plan(request, settings)
        return
    with run_as_job(BUILDS, asdict(request), process_actor(settings), settings) as job:
        _build_as(job, request, settings, arguments, ending)


def _show_plan(request: "BuildRequest", settings: Settings) -> None:
    from phi3kit.packaging.plan import make_plan
    from phi3kit.packaging.sources.find import find_source

    actor = process_actor(settings)
    plan = make_plan(request, find_source(request.source, actor, settings), actor, settings)
    print(json.dumps(plan.as_json(), ensure_ascii=False, indent=2))


def _build_as(
    job: "JobProcess", request: "BuildRequest", settings: Settings, arguments: argparse.Namespace, ending: Ending
) -> None:
    """Build what was asked for as a job that others can watch."""
    from phi3kit.packaging.events import Queued, StepProgress, as_line, in_words
    from phi3kit.packaging.plan import make_plan
    from phi3kit.packaging.sources.find import find_source

    shown_at = 0.0

    def report(event: "Event") -> None:
        ending.again()
        job.line(as_line(event))
        show(event)

    def show(event: "Event") -> None:
        nonlocal shown_at
        if arguments.json:
            print(json.dumps(as_line(event)), flush=True)
            return
        if isinstance(event, StepProgress):
            if time.monotonic() - shown_at < _PROGRESS_EVERY_S:
                return
            shown_at = time.monotonic()
        if line := in_words(event):
            print(line, file=sys.stderr, flush=True)

    actor = process_actor(settings)
    source = find_source(request.source, actor, settings)
    job.wait(lambda ahead: show(Queued(ahead)))
    make_plan(request, source, actor, settings).refuse_what_cannot_fit(arguments.yes)
    from phi3kit.packaging.build import build, download, take_back_remains

    take_back_remains(settings)
    source = download(request, source, settings, report)
    for wrapper in request.in_order:
        built = build(wrapper, source, request, actor, settings, report).as_json()
        job.line(built)
        print(json.dumps(built, ensure_ascii=False), flush=True)


def _serve(arguments: argparse.Namespace) -> None:
    from phi3kit.tracking.logged_models import resolve

    settings = read_settings()
    model = resolve(arguments.model_uri, settings)
    command = [
        *(sys.executable, "-m", "phi3kit.worker", str(model.folder), "--model-uri", model.model_uri),
        *("--wrapper", model.wrapper, "--host", arguments.host, "--port", str(arguments.port)),
    ]
    # The worker starts from a clean process: MLflow, which found the model, would cost it 150 MB.
    key = {"PHI3KIT_API_KEY": settings.api_key} if settings.api_key else {}
    become(command, child_environment(settings) | key)


def _chat(arguments: argparse.Namespace) -> None:
    from phi3kit.core.records import Message
    from phi3kit.endpoints.client import Request, TurnContext, ask
    from phi3kit.endpoints.workers import WorkerPool

    settings = read_settings()
    pool = WorkerPool(settings)
    try:
        endpoint = pool.endpoint(arguments.model_uri)
        prompt = arguments.text if arguments.raw else (Message("user", arguments.text),)
        answer = ask(endpoint, Request(prompt), TurnContext(process_actor(settings), origin="api"), settings)
    finally:
        pool.close()
    print(answer.text)


def _signatures(arguments: argparse.Namespace) -> None:
    from phi3kit.formats.signatures import compare, describe
    from phi3kit.tracking.logged_models import signature_of

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
    from phi3kit.usage.reader import read_turns
    from phi3kit.usage.turns_table import since
    from phi3kit.usage.writer import write_waiting

    settings = read_settings()
    write_waiting(settings)
    turns = since(read_turns(settings), arguments.since)
    write(turns, arguments.format, arguments.output)


def _azure(arguments: argparse.Namespace) -> None:
    from phi3kit.deployment.azure import plan_bundle, save_bundle

    settings = read_settings()
    bundle = plan_bundle(arguments.model_uri, process_actor(settings), settings)
    print(f"{bundle.model_bytes / 1e6:,.1f} MB of {bundle.model_uri} for {bundle.instance_type}", file=sys.stderr)
    save_bundle(bundle, arguments.output)
    print(arguments.output)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
    _quiet()
    hide_in_logs(os.environ)
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

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no library asks the hub by itself; phi3kit's own download does
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a server's: between our lines of JSON
    logging.captureWarnings(True)  # a filter would not do: MLflow puts its own before it
    for name in ("mlflow", "alembic", "transformers", "huggingface_hub", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # it prints what it raises, traceback and all


if __name__ == "__main__":
    sys.exit(main())
