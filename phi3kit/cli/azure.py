"""`phi3kit azure`: a logged model as a bundle for an Azure ML online endpoint."""

import argparse
import sys
from pathlib import Path

from phi3kit.access.actor import process_actor
from phi3kit.cli.arguments import Commands
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    azure = commands.add_parser("azure", help="bundle a logged model for an Azure ML online endpoint")
    azure.add_argument("model_uri", metavar="MODEL_URI")
    azure.add_argument("-o", "--output", type=Path, metavar="FILE.zip", required=True)
    azure.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.deployment.azure import plan_bundle, save_bundle

    settings = read_settings()
    bundle = plan_bundle(arguments.model_uri, process_actor(settings), settings)
    print(f"{bundle.model_bytes / 1e6:,.1f} MB of {bundle.model_uri} for {bundle.instance_type}", file=sys.stderr)
    save_bundle(bundle, arguments.output)
    print(arguments.output)
