"""Arguments that several commands share.

Knows argparse. Knows no command.
"""

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from phi3kit.batch.request import SamplingParams

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what add_subparsers gives


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the parameters with which rows are answered."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--max-tokens", type=positive, help="most tokens of each completion")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="may be given several times")


def sampling_params(arguments: argparse.Namespace) -> "SamplingParams":
    """What add_sampling has read."""
    from phi3kit.batch.request import SamplingParams
    from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS  # here: it takes half a second to import

    max_tokens = arguments.max_tokens or DEFAULT_MAX_TOKENS
    return SamplingParams(arguments.temperature, max_tokens, arguments.top_p, arguments.seed, tuple(arguments.stop))
