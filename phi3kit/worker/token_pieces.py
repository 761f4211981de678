"""Pieces: token ids as tokens that a reader can understand.

Knows the tokenizer's vocabulary. Knows no model.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

from phi3kit.formats.tokens import Token, TokenKind
from phi3kit.worker.answer_text import is_byte_token, token_bytes


def raw_tokens(tokenizer: Tokenizer, text: str) -> list[Token]:
    """The tokens of a raw prompt, with the characters that each stands for."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return tokens_of(tokenizer, encoding.ids, encoding.offsets)


def tokens_of(tokenizer: Tokenizer, ids: Sequence[int], spans: Sequence[tuple[int, int]] | None = None) -> list[Token]:
    """The tokens of ids; spans: the characters of each, where they are known."""
    added = tokenizer.get_added_tokens_decoder()
    special = {token_id for token_id, token in added.items() if token.special}

    def kind(token_id: int) -> TokenKind:
        if token_id in special:
            return "special"
        return "byte" if is_byte_token(tokenizer, token_id) else "text"

    tokens = []
    for index, token_id in enumerate(ids):
        written = token_bytes(tokenizer, token_id)
        span = None if spans is None else spans[index]
        tokens.append(Token(token_id, written.decode(errors="replace"), tuple(written), kind(token_id), span))
    return tokens
