"""Answers as schemas, for the worker's OpenAPI document: whole ones, and the events of streams.

Knows shapes alone; openai_schema makes what they describe. Loaded with the first look at the document.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CachedTokens(_Object):
    cached_tokens: int


class TokenCounts(_Object):
    """The end token counts as a completion token."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Timings(_Object):
    """Beside OpenAI's fields: the turn's id in the log, and its times."""

    turn_id: str
    time_to_first_token_s: float | None
    duration_s: float
    tokens_per_second: float | None


class LikelyToken(_Object):
    token: str
    logprob: float
    bytes: list[int]


class WrittenToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(_Object):
    content: list[WrittenToken]


class RawLogprobs(_Object):
    """Lists of one length; the first token of an echoed prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class _Choice(_Object):
    index: int
    finish_reason: Literal["stop", "length"]


class _Growing(_Object):
    index: int
    finish_reason: Literal["stop", "length", "cancelled"] | None


class AssistantMessage(_Object):
    role: Literal["assistant"]
    content: str
    refusal: None


class Delta(_Object):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(_Choice):
    message: AssistantMessage
    logprobs: ChatLogprobs | None


class ChatChunkChoice(_Growing):
    delta: Delta
    logprobs: ChatLogprobs | None


class RawChoice(_Choice):
    text: str
    logprobs: RawLogprobs | None


class RawChunkChoice(_Growing):
    text: str
    logprobs: RawLogprobs | None


class _Answer(_Object):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatAnswer(_Answer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: TokenCounts
    phi3kit: Timings


class ChatChunk(_Answer):
    """The data of one event; the last event is [DONE]. The chunk with the usage has no choices."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: TokenCounts | None = None
    phi3kit: Timings | None = None


class RawAnswer(_Answer):
    object: Literal["text_completion"]
    choices: list[RawChoice]
    usage: TokenCounts
    phi3kit: Timings


class RawChunk(_Answer):
    """The data of one event; the last event is [DONE]. The chunk with the usage has no choices."""

    object: Literal["text_completion"]
    choices: list[RawChunkChoice]
    usage: TokenCounts | None = None
    phi3kit: Timings | None = None


class Model(_Object):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    wrapper: Literal["transformers", "onnx"]


class Models(_Object):
    object: Literal["list"]
    data: list[Model]


class Tokens(_Object):
    tokens: list[int]
    count: int
    max_model_len: int
    pieces: list[dict[str, Any]] | None = None
    sliding_window: int | None = None


class TokenText(_Object):
    prompt: str


ANSWERS: tuple[type[BaseModel], ...] = (ChatAnswer, ChatChunk, RawAnswer, RawChunk, Model, Models, Tokens, TokenText)
