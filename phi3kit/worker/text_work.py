"""Text work: what /tokenize and /detokenize answer, bounded by tokens.

Knows tokenizers and the JSON of both routes. Knows no HTTP; runs in a thread.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phi3kit.core.errors import RequestInvalid
from phi3kit.core.records import Message
from phi3kit.formats.openai_schema import MAX_PIECES, MAX_TOKENS_LISTED
from phi3kit.worker.runtime import Runtime
from phi3kit.worker.tokenization import check_ids, decoded, ids_of, raw_tokens, tokens_of

_CONTEXTS = 8  # a long text is counted too, so that its writer knows how much to leave out
TEXT_TOKENS_A_TOKEN = 50  # that may be cut or joined for one token of a user's minute


@dataclass(frozen=True)
class TextWork:
    """An answer, and how many tokens were cut or joined for it."""

    json: bytes
    tokens: int


def most_ids(context_tokens: int) -> int:
    """How many ids one call may cut a text into, or join: several contexts, as far as the schema lets them."""
    return min(_CONTEXTS * context_tokens, MAX_TOKENS_LISTED)


def most_pieces(context_tokens: int) -> int:
    """How many tokens one call describes: each costs as much as ten ids."""
    return min(2 * context_tokens, MAX_PIECES)


def tokenized(
    prompt: tuple[Message, ...] | str, runtime: Runtime, window_tokens: int | None, *, pieces: bool
) -> TextWork:
    """The tokens of a prompt. Raises RequestInvalid when there are too many to list.

    pieces: each of them is described, of a long text only the first ones; `count` is of all.
    """
    ids = ids_of(prompt, runtime)
    if not pieces and len(ids) > (most := most_ids(runtime.context_tokens)):
        raise RequestInvalid(
            what="There are too many tokens to list.",
            why=f"The text has {len(ids):,}; the limit is {most:,}.",
            next_step="Send part of it.",
            param="prompt" if isinstance(prompt, str) else "messages",
            code="string_above_max_length",
        )
    listed = ids[: most_pieces(runtime.context_tokens)] if pieces else ids
    answer: dict[str, Any] = {"tokens": listed, "count": len(ids), "max_model_len": runtime.context_tokens}
    if pieces:
        tokenizer, whole = runtime.tokenizer, len(listed) == len(ids)
        tokens = raw_tokens(tokenizer, prompt) if whole and isinstance(prompt, str) else tokens_of(tokenizer, listed)
        answer["pieces"] = [token.as_json() for token in tokens]
        answer["sliding_window"] = window_tokens
    return _done(answer, len(ids))


def detokenized(ids: Sequence[int], runtime: Runtime) -> TextWork:
    """The text of token ids. Raises RequestInvalid when one is no token."""
    if len(ids) > (most := most_ids(runtime.context_tokens)):
        raise RequestInvalid(
            "There are too many tokens.", f"There are {len(ids):,}; the limit is {most:,}.", "Send fewer.",
            param="tokens",
        )  # fmt: skip
    check_ids(ids, runtime, "tokens")
    return _done({"prompt": decoded(runtime.tokenizer, ids)}, len(ids))


def _done(answer: dict[str, Any], tokens: int) -> TextWork:
    return TextWork(json.dumps(answer, ensure_ascii=False).encode(), tokens)
