"""`phi3kit build`: package Phi-3 as an MLflow model, or only say what that would need."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from phi3kit.access.actor import process_actor
from phi3kit.cli.arguments import Commands
from phi3kit.cli.ending import Ending
from phi3kit.cli.progress import TerminalProgress
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.records import PRECISIONS, WRAPPERS
from phi3kit.core.settings import Settings, read_settings

if TYPE_CHECKING:
    from phi3kit.packaging.events import BuildRequest, Event


def add(commands: Commands) -> None:
    """Add the command."""
    build = commands.add_parser("build", help="package Phi-3 as an MLflow model")
    build.add_argument("--wrapper", choices=[*WRAPPERS, "both"], required=True)
    build.add_argument(
        "--source",
        default="embedded",
        help="embedded, a folder, or owner/name[@revision][/folder] on Hugging Face (default: embedded)",
    )
    build.add_argument("--precision", choices=PRECISIONS, default="int4", help="of the ONNX export (default: int4)")
    build.add_argument("--register", metavar="NAME", help="also register the model under this name")
    build.add_argument("--plan", action="store_true", help="only show what the build would download, need and take")
    build.add_argument("--yes", action="store_true", help="build even if it is a tight fit")
    build.add_argument("--json", action="store_true", help="report each step as a JSON line on stdout")
    build.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.packaging.events import BuildRequest

    ending = Ending()
    try:
        settings = read_settings()
        wrappers = WRAPPERS if arguments.wrapper == "both" else (arguments.wrapper,)
        request = BuildRequest(wrappers, arguments.source, arguments.precision, arguments.register)
        if arguments.plan:
            _show_plan(request, settings)
        else:
            _build(request, settings, arguments, ending)
    except Phi3KitError as error:
        if arguments.json:
            parts = {"what": error.what, "why": error.why, "next_step": error.next_step}
            print(json.dumps({"event": "error", **parts}), flush=True)
        raise


def _show_plan(request: "BuildRequest", settings: Settings) -> None:
    from phi3kit.packaging.plan import make_plan
    from phi3kit.packaging.sources.find import find_source

    actor = process_actor(settings)
    plan = make_plan(request, find_source(request.source, actor, settings), actor, settings)
    print(json.dumps(plan.as_json(), ensure_ascii=False, indent=2))


def _build(request: "BuildRequest", settings: Settings, arguments: argparse.Namespace, ending: Ending) -> None:
    """Build as a job that others can watch."""
    from phi3kit.jobs.job_folder import run_as_job
    from phi3kit.jobs.kinds import BUILDS
    from phi3kit.packaging.events import Queued, StepProgress, in_words
    from phi3kit.packaging.plan import make_plan
    from phi3kit.packaging.sources.find import find_source

    actor, terminal = process_actor(settings), TerminalProgress()

    def show(event: "Event") -> None:
        if arguments.json:
            print(json.dumps(asdict(event)), flush=True)
        elif isinstance(event, StepProgress):
            terminal.show(in_words(event))
        elif line := in_words(event):
            print(line, file=sys.stderr, flush=True)

    def report(event: "Event") -> None:
        ending.again()
        job.line(asdict(event))
        show(event)

    with run_as_job(BUILDS, request, actor, settings) as job:
        source = find_source(request.source, actor, settings)
        job.wait(lambda ahead: show(Queued(ahead)))
        make_plan(request, source, actor, settings).refuse_what_cannot_fit(arguments.yes)
        from phi3kit.packaging.build import build, download, take_back_remains  # seconds: only what can be built pays

        take_back_remains(settings)
        source = download(request, source, settings, report)
        for wrapper in request.in_order:
            built = asdict(build(wrapper, source, request, actor, settings, report))
            job.line(built)
            print(json.dumps(built, ensure_ascii=False), flush=True)
