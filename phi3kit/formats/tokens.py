"""Tokens: the pieces of a text, as /tokenize returns them and pages show them.

Knows the shape of a token. Knows no tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

PHI3_4K_CONTEXT, PHI3_4K_WINDOW = 4096, 2047  # of the Phi-3 models with the short context

TokenKind = Literal["text", "special", "byte"]


@dataclass(frozen=True)
class Token:
    """One token of a prompt."""

    id: int
    text: str  # as decoded; U+FFFD for a byte that is no character alone
    bytes: tuple[int, ...]
    kind: TokenKind  # special: structure; byte: one byte of a character that the vocabulary lacks
    span: tuple[int, int] | None = None  # characters [begin, end) of a raw prompt; None for messages

    def as_json(self) -> dict[str, Any]:
        """As /tokenize answers it."""
        span = None if self.span is None else list(self.span)
        return {"id": self.id, "text": self.text, "bytes": list(self.bytes), "kind": self.kind, "span": span}


@dataclass(frozen=True)
class Tokenized:
    """The tokens of a prompt, and the model's limits."""

    tokens: tuple[Token, ...]  # the first ones of a long prompt
    count: int  # of all
    context_tokens: int  # prompt and answer together
    window_tokens: int | None  # how far back a token can look; None: to the beginning


def read_tokenized(reply: dict[str, Any]) -> Tokenized:
    """The answer of /tokenize with `return_pieces`."""
    tokens = tuple(
        Token(
            each["id"], each["text"], tuple(each["bytes"]), each["kind"],
            None if each["span"] is None else (each["span"][0], each["span"][1]),
        )
        for each in reply["pieces"]
    )  # fmt: skip
    return Tokenized(tokens, reply["count"], reply["max_model_len"], reply["sliding_window"])


def swallowed(token: Token, prompt: str) -> str:
    """The white space after a special token that its tokenizer strips, as for most of Phi-3's."""
    if token.kind != "special" or token.span is None:
        return ""
    return prompt[token.span[0] + len(token.text) : token.span[1]]


def common_beginning(a: Sequence[Token], b: Sequence[Token]) -> int:
    """Length of the common prefix of two prompts, in tokens."""
    pairs = zip(a, b, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one.id != other.id), min(len(a), len(b)))
