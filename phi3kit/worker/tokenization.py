"""Tokenization: messages and raw prompts to token ids, and token ids to tokens that a reader can understand.

Knows the tokenizers and the chat template. Knows no model and no stop strings.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import DecodeStream

from phi3kit.core.errors import RequestInvalid
from phi3kit.core.records import Message
from phi3kit.formats.chat_template import ASSISTANT, END, prompt_ids
from phi3kit.formats.tokens import Token, TokenKind
from phi3kit.worker.runtime import Runtime

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def load_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """The fast tokenizer of a model folder, twice: special tokens read as structure, and as text."""
    structure, text = (Tokenizer.from_file(str(folder / "tokenizer.json")) for _ in range(2))
    text.encode_special_tokens = True
    return structure, text


def encoded(tokenizer: Tokenizer, text: str) -> Encoding:
    """A text cut into tokens. In a batch of one: `encode` holds Python's lock, for seconds where a text is long."""
    return tokenizer.encode_batch([text], add_special_tokens=False)[0]


def decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of tokens, special ones too. In a batch of one: `decode` holds Python's lock."""
    return str(tokenizer.decode_batch([list(ids)], skip_special_tokens=False)[0])


def ids_of(prompt: tuple[Message, ...] | str, runtime: Runtime, *, begun: bool = False) -> list[int]:
    """Token ids of a raw prompt, where special tokens are structure, or of messages, where they are text.

    begun: the last message is the beginning of the answer. It stays open, and no new answer begins behind it.
    """

    @cache
    def structure(text: str) -> list[int]:
        return list(encoded(runtime.tokenizer, text).ids)

    def text_alone(text: str) -> list[int]:
        return list(encoded(runtime.text_tokenizer, text).ids)

    if isinstance(prompt, str):
        return structure(prompt)
    ids = prompt_ids(prompt, structure, text_alone)
    closing = structure(f"{END}\n") + structure(f"{ASSISTANT}\n")
    return ids[: -len(closing)] if begun else ids


def offsets_of(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """How many characters of the ids' text were whole before each of them."""
    stream, length, offsets = DecodeStream(skip_special_tokens=False), 0, []
    for token_id in ids:
        offsets.append(length)
        try:
            length += len(stream.step(tokenizer, token_id) or "")
        except Exception:  # tokenizers raises nothing narrower, where bytes are no UTF-8: each is shown as U+FFFD
            stream, length = DecodeStream(skip_special_tokens=False), length + 1
    return tuple(offsets)


def check_ids(ids: Sequence[int], runtime: Runtime, param: str) -> None:
    """Raises RequestInvalid when an id is not a token."""
    vocabulary = runtime.tokenizer.get_vocab_size()
    if max(ids, default=0) >= vocabulary:
        position = next(position for position, token in enumerate(ids) if token >= vocabulary)
        raise RequestInvalid(
            what=f"{param}[{position}] is not a token.",
            why=f"It is {ids[position]}; ids go from 0 to {vocabulary - 1}.",
            next_step="Send ids that /tokenize gave.",
            param=f"{param}[{position}]",
        )


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """What a token writes; a byte-fallback token is one byte of a character."""
    token = tokenizer.id_to_token(token_id) or ""
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(byte[1])
    return token.replace("▁", " ").encode()


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of the special tokens."""
    return {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def raw_tokens(tokenizer: Tokenizer, text: str) -> list[Token]:
    """The tokens of a raw prompt, with the characters that each stands for."""
    encoding = encoded(tokenizer, text)
    return tokens_of(tokenizer, encoding.ids, encoding.offsets)


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]] | None = None) -> list[Token]:
    """The tokens of ids. spans: the characters of each, where they are known."""
    special = special_ids(tokenizer)

    @cache  # a text has few different tokens
    def described(token_id: int) -> tuple[str, tuple[int, ...], TokenKind]:
        written = token_bytes(tokenizer, token_id)
        is_byte = _BYTE_TOKEN.fullmatch(tokenizer.id_to_token(token_id) or "")
        kind: TokenKind = "special" if token_id in special else "byte" if is_byte else "text"
        return written.decode(errors="replace"), tuple(written), kind

    return [
        Token(token_id, *described(token_id), None if spans is None else spans[index])
        for index, token_id in enumerate(ids)
    ]
