"""Detokenizer: an answer's token ids in, pieces of text out, cut before a stop string.

Knows tokens, bytes and stop strings. Knows no model.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from phi3kit.worker.tokenization import special_ids

_CONTEXT_TOKENS = 32  # of the prompt, decoded before the first token: more than one character's bytes


class Detokenizer:
    """Decodes token by token; gives neither half a character nor the beginning of a stop string.

    prompt_ids: what the answer follows. Where that ends in text, and not in a special token, the answer's first token
    keeps its leading space: "The capital" goes on with " of Spain".
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._before = _text_at_end(tokenizer, prompt_ids)
        self._decoder = DecodeStream(ids=self._before, skip_special_tokens=True)
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._text = ""  # everything decoded so far
        self._given = 0  # characters given out
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; may be empty."""
        self._ids.append(token_id)
        self._text += self._step(token_id)
        return self._certain(held_back=self._held_back())

    def _step(self, token_id: int) -> str:
        try:
            return self._decoder.step(self._tokenizer, token_id) or ""
        except Exception:  # tokenizers raises nothing narrower
            # A byte that is no UTF-8 changes how the bytes before it decode, and some were given out already.
            whole = self._decoded()
            self._decoder = DecodeStream(ids=[token_id], skip_special_tokens=True)
            return "\ufffd" + whole.rpartition("\ufffd")[2]

    def finish(self) -> str:
        """The text that was held back, after the last token."""
        if self.stopped:
            return ""
        # An answer may end inside a character: decode gives U+FFFD for its bytes.
        whole = self._decoded()
        if whole.startswith(self._text):
            self._text = whole
        elif whole.endswith("\ufffd"):
            self._text += "\ufffd"
        return self._certain(held_back=0)

    def _decoded(self) -> str:
        """The whole answer, decoded at once."""
        before = self._tokenizer.decode(self._before, skip_special_tokens=True)
        return self._tokenizer.decode([*self._before, *self._ids], skip_special_tokens=True)[len(before) :]

    def _certain(self, held_back: int) -> str:
        if self.stopped:
            return ""
        cut = min((at for at in (self._text.find(stop) for stop in self._stop) if at >= 0), default=None)
        if cut is not None:
            self.stopped = True
        piece = self._text[self._given : cut if cut is not None else len(self._text) - held_back]
        self._given += len(piece)
        return piece

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        text = self._text
        lengths = (n for stop in self._stop for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n]))
        return max(lengths, default=0)


def _text_at_end(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """The last ids of a prompt that are text: those after its last special token, 32 at most."""
    special = special_ids(tokenizer)
    text: list[int] = []
    for token_id in reversed(prompt_ids[-_CONTEXT_TOKENS:]):
        if token_id in special:
            break
        text.append(token_id)
    return text[::-1]
