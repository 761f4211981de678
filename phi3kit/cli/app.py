"""`phi3kit app`: the playground, from whatever folder it is started in."""

import argparse
import os
import sys

from phi3kit.cli.arguments import Commands
from phi3kit.core.operating_system import become
from phi3kit.core.settings import APP_FOLDER, read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    app = commands.add_parser("app", help="open the playground in a browser")
    app.add_argument("--port", type=int, default=8501)
    app.add_argument("--address", default="127.0.0.1", help="where it listens; 0.0.0.0: other machines reach it too")
    app.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print(f"The data folder is {read_settings().home} (PHI3KIT_HOME).", flush=True)
    command = [
        *(sys.executable, "-P", "-m", "streamlit", "run", str(APP_FOLDER / "streamlit_app.py")),
        *("--server.port", str(arguments.port), "--server.address", arguments.address),
        *("--server.fileWatcherType", "none"),
    ]
    become(command, os.environ)
