"""Detokenizer: an answer's token ids in, pieces of text out, cut before a stop string.

Knows tokens, bytes and stop strings. Knows no model.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from phi3kit.worker.stop_strings import StopStrings
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
        self._stop = StopStrings(stop)
        self._ids: list[int] = []
        self._decoded: list[str] = []  # pieces of text, as they were decoded
        self._held_back = ""  # decoded, and not given out
        self._given = 0  # characters given out
        self.length = 0  # characters decoded
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain with this token; may be empty."""
        if self.stopped:
            return ""
        self._ids.append(token_id)
        return self._certain(self._step(token_id))

    def _step(self, token_id: int) -> str:
        try:
            return self._decoder.step(self._tokenizer, token_id) or ""
        except Exception:  # tokenizers raises nothing narrower
            # A byte that is no UTF-8 changes how the bytes before it decode, and some were given out already.
            end = self._tokenizer.decode(self._ids[-_CONTEXT_TOKENS:], skip_special_tokens=True)
            self._decoder = DecodeStream(ids=[token_id], skip_special_tokens=True)
            return "\ufffd" + end.rpartition("\ufffd")[2]

    def finish(self) -> str:
        """The text that was held back, after the last token."""
        if self.stopped:
            return ""
        # An answer may end inside a character: decode gives U+FFFD for its bytes.
        before = self._tokenizer.decode(self._before, skip_special_tokens=True)
        whole = self._tokenizer.decode([*self._before, *self._ids], skip_special_tokens=True)[len(before) :]
        decoded = "".join(self._decoded)
        rest = whole[len(decoded) :] if whole.startswith(decoded) else "\ufffd" if whole.endswith("\ufffd") else ""
        return self._certain(rest, is_last=True)

    def _certain(self, text: str, *, is_last: bool = False) -> str:
        """What can be given out once `text` is decoded too: no stop string, nor its beginning unless this is the end."""
        self._decoded.append(text)
        self.length += len(text)
        found = self._stop.push(text)
        self.stopped = found is not None
        known = self._held_back + text
        end = len(known) - (0 if is_last else self._stop.begun) if found is None else found - self._given
        self._held_back = known[end:]
        self._given += end
        return known[:end]


def _text_at_end(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[int]:
    """The last ids of a prompt that are text: those after its last special token, 32 at most."""
    special = special_ids(tokenizer)
    text: list[int] = []
    for token_id in reversed(prompt_ids[-_CONTEXT_TOKENS:]):
        if token_id in special:
            break
        text.append(token_id)
    return text[::-1]
