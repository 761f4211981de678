"""`phi3kit keys`: API keys of people: make one, list them, revoke one."""

import argparse
import json
import sys
from datetime import UTC, datetime

from phi3kit.access.actor import process_actor
from phi3kit.access.keys import MOST_DAYS, USUAL_DAYS, KeyStore
from phi3kit.cli.arguments import Commands
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    keys = commands.add_parser("keys", help="API keys of people, for phi3kit serve")
    acts = keys.add_subparsers(dest="act", required=True, parser_class=type(keys))
    create = acts.add_parser("create", help="create a key; it is printed once")
    create.add_argument("user", metavar="USER", help="the user this key acts as, by the name that Access shows")
    create.add_argument("--note", default="", metavar="TEXT", help="what it is for")
    create.add_argument("--days", type=int, default=USUAL_DAYS, help=f"days that it is valid (1 to {MOST_DAYS})")
    create.set_defaults(run=_create)
    listed = acts.add_parser("list", help="keys of all users, newest first")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(run=_list)
    revoke = acts.add_parser("revoke", help="revoke a key immediately and permanently")
    revoke.add_argument("id", metavar="ID")
    revoke.set_defaults(run=_revoke)


def _create(arguments: argparse.Namespace) -> None:
    settings = read_settings()
    key, token = KeyStore(settings.home).create(arguments.user, arguments.note, process_actor(settings), arguments.days)
    print(f"Key {key.id} of {key.user}, until {_moment(key.expires_at)}. It is not shown again:", file=sys.stderr)
    print(token)


def _list(arguments: argparse.Namespace) -> None:
    settings = read_settings()
    found = KeyStore(settings.home).list(process_actor(settings), everybody=True)
    if arguments.json:
        print(json.dumps([vars(key) for key in found], ensure_ascii=False))
        return
    for key in found:
        used = f"used {_moment(key.last_used_at)}" if key.last_used_at else "not used"
        state = f"revoked {_moment(key.revoked_at)}" if key.revoked_at else f"until {_moment(key.expires_at)}"
        print(f"{key.id}  {key.user:24}  {_moment(key.created_at)}  {state:24}  {used:21}  {key.note}")


def _revoke(arguments: argparse.Namespace) -> None:
    settings = read_settings()
    KeyStore(settings.home).revoke(arguments.id, process_actor(settings))
    print(f"Key {arguments.id} is revoked.", file=sys.stderr)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
