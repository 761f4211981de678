"""`phi3kit serve`: one logged model over HTTP, in the foreground."""

import argparse
import sys

from phi3kit.cli.arguments import Commands
from phi3kit.core.child_environment import child_environment
from phi3kit.core.operating_system import become
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    serve = commands.add_parser("serve", help="serve one logged model over HTTP (a worker in the foreground)")
    serve.add_argument("model_uri", metavar="MODEL_URI")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    serve.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.tracking.logged_models import resolve

    settings = read_settings()
    model = resolve(arguments.model_uri, settings)
    command = [
        *(sys.executable, "-m", "phi3kit.worker", str(model.folder), "--model-uri", model.model_uri),
        *("--wrapper", model.wrapper, "--host", arguments.host, "--port", str(arguments.port)),
    ]
    # The worker starts from a clean process: MLflow, which found the model, would cost it 150 MB.
    key = {"PHI3KIT_API_KEY": settings.api_key.reveal()} if settings.api_key else {}
    become(command, child_environment(settings) | key)
