"""Records of a turn as its client sees it: the request, whose it is, and the answer.

Knows OpenAI's field names and the worker's headers. Sends nothing.
"""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

from phi3kit.access.actor import Actor
from phi3kit.core.records import Endpoint, FinishReason, Interface, Message, Origin
from phi3kit.formats.openai_schema import DEFAULT_MAX_TOKENS

CONTINUES = {"continue_final_message": True, "add_generation_prompt": False}  # fields of an answer that is continued


@dataclass(frozen=True)
class Request:
    """Messages (OpenAI format) or one text (a raw prompt), and how to answer."""

    prompt: tuple[Message, ...] | str
    temperature: float = 0.0
    max_tokens: int = DEFAULT_MAX_TOKENS
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    continues: bool = False  # the last message is the beginning of the answer

    @property
    def interface(self) -> Interface:
        """The format that `prompt` is in."""
        return "raw" if isinstance(self.prompt, str) else "openai"

    def body(self, model_uri: str) -> dict[str, Any]:
        """The request as JSON, without what only streaming needs."""
        body = {
            "model": model_uri,
            **as_json(self.prompt),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stop) or None,
            **(CONTINUES if self.continues else {}),
        }
        return {name: value for name, value in body.items() if value is not None}


@dataclass(frozen=True)
class TurnContext:
    """Whose turn it is, and in which conversation; goes into the turn's run."""

    actor: Actor
    origin: Origin
    conversation_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turn_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def headers(self) -> dict[str, str]:
        """The context as a worker reads it."""
        return {
            "X-Phi3kit-Turn-Id": self.turn_id,
            "X-Phi3kit-Conversation-Id": self.conversation_id,
            "X-Phi3kit-User": quote(self.actor.name),  # a header is ASCII, a name need not be
            "X-Phi3kit-Origin": self.origin,
        }

    def headers_to(self, endpoint: Endpoint) -> dict[str, str]:
        """What an endpoint is told: a remote one learns the turn's id, and not the user."""
        told = self.headers()
        return {"X-Phi3kit-Turn-Id": told["X-Phi3kit-Turn-Id"]} if endpoint.wrapper == "remote" else told


@dataclass(frozen=True)
class Answer:
    """An answer so far; each step of a stream is a longer one."""

    text: str = ""
    finish_reason: FinishReason | None = None  # None while it grows
    queue_place: int = 0  # in the worker's queue, from 1; 0: it waits for nobody
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0  # of prompt_tokens, found in the worker's memory
    completion_tokens: int = 0
    time_to_first_token_s: float | None = None
    duration_s: float = 0.0
    tokens_per_second: float | None = None
    tokens_counted: bool = True  # False: a remote endpoint has given no usage that can be (yet), and the counts are 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


def as_json(prompt: Sequence[Message] | str) -> dict[str, Any]:
    """The prompt as a request has it."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    return {"messages": [asdict(message) for message in prompt]}
