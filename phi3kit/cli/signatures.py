"""`phi3kit signatures`: the signatures of two logged models, field by field."""

import argparse
import json

from phi3kit.cli.arguments import Commands
from phi3kit.core.settings import read_settings


def add(commands: Commands) -> None:
    """Add the command."""
    signatures = commands.add_parser("signatures", help="compare the signatures of two logged models")
    signatures.add_argument("uri_a", metavar="URI_A")
    signatures.add_argument("uri_b", metavar="URI_B")
    signatures.add_argument("--json", action="store_true")
    signatures.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
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
