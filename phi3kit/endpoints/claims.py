"""Claims: how many tokens a remote endpoint's answer may say that its turn took. Budgets, limits and charts sum what it says.

Knows the request and the answer's text. Cuts nothing into tokens: a remote endpoint's tokenizer is not known here.

| count | at most |
| --- | --- |
| prompt tokens, cached ones too | the bytes of the request's JSON, as a token has a byte at least, and 4,096 that the endpoint's own template adds |
| completion tokens | the request's max_tokens, as one answer is asked for, and 1,048,576 whatever was asked for; or the bytes of the text that came and 8,192 that were thought and not shown, of an endpoint that does not keep to max_tokens |

Counts beyond that are unknown, as those of an endpoint that gives none.
"""

import json
from dataclasses import dataclass

from phi3kit.endpoints.records import Request

_TEMPLATE_TOKENS = 4_096
_HIDDEN_TOKENS = 8_192
_LONGEST_TOKENS = 2**20  # of an answer; its text has no more characters (client.py)


@dataclass(frozen=True)
class Bounds:
    """The most that the answer to one request may claim."""

    prompt_tokens: int
    max_tokens: int

    @classmethod
    def of(cls, request: Request) -> "Bounds":
        """The bounds of a request's answer."""
        sent = json.dumps(request.body(""), ensure_ascii=False).encode("utf-8", "surrogatepass")
        return cls(len(sent) + _TEMPLATE_TOKENS, min(request.max_tokens, _LONGEST_TOKENS))

    def allow(self, text_bytes: int, prompt_tokens: int, cached_prompt_tokens: int, completion_tokens: int) -> bool:
        """Whether the counts may be those of an answer whose text has so many bytes."""
        shown = text_bytes + _HIDDEN_TOKENS
        return cached_prompt_tokens <= prompt_tokens <= self.prompt_tokens and completion_tokens <= max(
            self.max_tokens, shown
        )
