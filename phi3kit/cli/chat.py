"""`phi3kit chat`: one question to a logged model, its completion on stdout."""

import argparse

from phi3kit.access.actor import process_actor
from phi3kit.cli.arguments import Commands
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    chat = commands.add_parser("chat", help="ask a logged model once")
    chat.add_argument("model_uri", metavar="MODEL_URI")
    chat.add_argument("text", metavar="TEXT")
    chat.add_argument("--raw", action="store_true", help="TEXT is a raw prompt")
    chat.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from phi3kit.core.records import Message
    from phi3kit.endpoints.client import ask
    from phi3kit.endpoints.records import Request, TurnContext
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
