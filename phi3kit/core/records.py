"""Records: the small frozen records that the packages above pass to each other.

Knows names and units. Imports no sibling.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

MessageRole = Literal["system", "user", "assistant"]
MESSAGE_ROLES: tuple[MessageRole, ...] = ("system", "user", "assistant")

WrapperName = Literal["transformers", "onnx"]
WRAPPERS: tuple[WrapperName, ...] = ("transformers", "onnx")

Served = Literal["transformers", "onnx", "remote"]  # what answers a turn: a wrapper here, or an endpoint elsewhere
SERVED: tuple[Served, ...] = (*WRAPPERS, "remote")
EndpointProtocol = Literal["openai", "invocations"]  # of an endpoint: OpenAI's HTTP, or MLflow's scoring server

Precision = Literal["int4", "int8", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("int4", "int8", "fp32")

WINDOW_TAG = "phi3kit.sliding_window"  # of an onnx model: how many tokens back its graph attends

Interface = Literal["openai", "raw"]
Origin = Literal["ui", "api", "batch"]
FinishReason = Literal["stop", "length", "cancelled", "error", "other"]  # other: a remote endpoint gave none of these


@dataclass(frozen=True)
class Message:
    """One message of a conversation; its content is text, never structure."""

    role: MessageRole
    content: str


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers, and with which key: a worker of this app, or a remote endpoint."""

    base_url: str  # without api_path
    api_key: str = field(repr=False)
    model_uri: str  # as turns are logged
    wrapper: Served
    protocol: EndpointProtocol = "openai"
    api_path: str = "/v1"  # where OpenAI's routes begin
    model: str = ""  # what the endpoint calls it; the model URI when empty
    takes: Interface = "openai"  # of an /invocations endpoint: messages, or a raw prompt
    silence_s: float = 600.0  # without a byte for so long it has failed; a real Phi-3 may read a prompt for minutes
    name: str = ""  # of the connection, as errors name it
    allowed_hosts: tuple[str, ...] | None = None  # where a remote one may lie; None: anywhere
    # Why it no longer answers; None where unknown. Known to the process that started the worker, not to its callers.
    why_gone: Callable[[], str | None] = field(default=lambda: None, repr=False, compare=False)


@dataclass(frozen=True)
class TurnText:
    """What was said in one turn."""

    prompt: tuple[Message, ...] | str  # messages, or one raw prompt
    completions: tuple[str, ...]  # one a choice, as far as they came


@dataclass(frozen=True)
class TurnRecord:
    """What one turn cost. It becomes a run in phi3kit-usage; field names are the metric and tag names there."""

    turn_id: str
    at: float  # seconds since the epoch, when the request came in
    wrapper: Served
    model_uri: str
    interface: Interface
    origin: Origin
    user: str
    conversation_id: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int  # every generated id, the end token too
    cached_prompt_tokens: int
    duration_s: float
    time_to_first_token_s: float | None  # None when no token was written
    temperature: float
    max_tokens: int
    top_p: float
    seed: int | None
    tokens_counted: bool = True  # False: a remote endpoint gave no usage that can be, and the counts are 0
    error_code: str | None = None  # OpenAI's word for why finish_reason is "error"
    prompt_key: str | None = None  # equal for equal prompts, on one machine; says nothing about them
    text: TurnText | None = field(default=None, repr=False)  # None: not logged. Not in repr, which goes to log files

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed; see the function."""
        return tokens_per_second(self.completion_tokens, self.duration_s, self.time_to_first_token_s)


def tokens_per_second(completion_tokens: int, duration_s: float, time_to_first_token_s: float | None) -> float | None:
    """Decoding speed: the tokens after the first one, over the time after it. None below two tokens."""
    if time_to_first_token_s is None or completion_tokens < 2:
        return None
    elapsed_s = duration_s - time_to_first_token_s
    return (completion_tokens - 1) / elapsed_s if elapsed_s > 0 else None
