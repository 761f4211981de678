"""Tokenization: messages and raw prompts to token ids, and token ids to tokens that a reader can understand.

Knows the tokenizers and the chat template. Knows no model and no stop strings.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

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


def ids_of(prompt: tuple[Message, ...] | str, runtime: Runtime, *, begun: bool = False) -> list[int]:
    """Token ids of a raw prompt, where special tokens are structure, or of messages, where they are text.

    begun: the last message is the beginning of the answer. It stays open, and no new answer begins behind it.
    """

    def structure(text: str) -> list[int]:
        return list(runtime.tokenizer.encode(text, add_special_tokens=False).ids)

    def text_alone(text: str) -> list[int]:
        return list(runtime.text_tokenizer.encode(text, add_special_tokens=False).ids)

    if isinstance(prompt, str):
        return structure(prompt)
    ids = prompt_ids(prompt, structure, text_alone)
    closing = structure(f"{END}\n") + structure(f"{ASSISTANT}\n")
    return ids[: -len(closing)] if begun else ids


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
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return tokens_of(tokenizer, encoding.ids, encoding.offsets)


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]] | None = None) -> list[Token]:
    """The tokens of ids. spans: the characters of each, where they are known."""
    special = special_ids(tokenizer)

    def kind(token_id: int) -> TokenKind:
        if token_id in special:
            return "special"
        return "byte" if _BYTE_TOKEN.fullmatch(tokenizer.id_to_token(token_id) or "") else "text"

    tokens = []
    for index, token_id in enumerate(ids):
        written = token_bytes(tokenizer, token_id)
        span = None if spans is None else spans[index]
        tokens.append(Token(token_id, written.decode(errors="replace"), tuple(written), kind(token_id), span))
    return tokens
