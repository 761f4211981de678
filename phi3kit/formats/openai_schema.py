"""OpenAI's wire format: what a worker accepts and how it answers.

Knows names, bounds and shapes of requests, responses, chunks and errors. Knows neither model nor server.
Source: OpenAI's API reference, "Chat" and "Completions"; /tokenize, continuous_usage_stats, continue_final_message and
add_generation_prompt as vLLM has them.
"""

import hashlib
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from phi3kit import __version__
from phi3kit.core.errors import (
    BudgetSpent,
    Busy,
    LimitReached,
    ModelNotFound,
    NotAllowed,
    OutOfMemory,
    Phi3KitError,
    RequestInvalid,
    StorageFailed,
    WorkerFailed,
)
from phi3kit.core.records import MESSAGE_ROLES, FinishReason, Message

DEFAULT_MAX_TOKENS = 1024  # of a request without max_tokens; memory for them is reserved at once
MAX_N = 8
MAX_STOP_STRINGS, MAX_STOP_CHARACTERS = 16, 500
MAX_LOGIT_BIASES = 1024
MAX_MESSAGES = 10_000
MAX_PROMPTS = 32  # of one request
MAX_NAME_CHARACTERS = 512  # of a model, a user, an author
MAX_TOKENS_LISTED = 131_072  # ids that /tokenize gives and /detokenize takes: the longest context of a Phi-3
MAX_PIECES = 32_768  # of them that /tokenize describes one by one
MAX_LOGPROBS = 20
_SHOWN_CHARACTERS = 200  # of a field's name in an error: somebody chose it, and it stands there twice
_UNSUPPORTED = "unsupported_parameter"
_NOTHING: tuple[Any, ...] = (None, "", [], {})
QUEUE_HEADER = "X-Phi3kit-Queue-Place"  # of a response: its place in the queue, from 1; 0: it has begun
# HTTP status, type and code of an error. OutOfMemory is a WorkerFailed too, so it stands before it.
_STATUSES: tuple[tuple[type[Phi3KitError], int, str, str], ...] = (
    (ModelNotFound, 404, "invalid_request_error", "model_not_found"),
    (Busy, 429, "rate_limit_error", "queue_full"),
    (LimitReached, 429, "rate_limit_error", "rate_limit_exceeded"),
    (NotAllowed, 403, "permission_error", "not_allowed"),
    (BudgetSpent, 429, "insufficient_quota", "insufficient_quota"),
    (StorageFailed, 503, "server_error", "turns_not_kept"),
    (OutOfMemory, 503, "server_error", "out_of_memory"),
    (WorkerFailed, 503, "server_error", "not_ready"),
)


def _whole_characters(value: str) -> str:
    """JSON can contain half a character, which no tokenizer reads."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate") from None
    return value


def _stop_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _at_most(count: int) -> Callable[[Any], Any]:
    """A check of an object's size before its entries are looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise ValueError(f"it has {len(value):,} entries; the limit is {count:,}")
        return value

    return check


def _no_empty_strings(value: list[str] | None) -> list[str] | None:
    if value and not all(value):
        raise ValueError("a stop string must not be empty")
    return value


def _unsupported(why: str) -> PydanticCustomError:
    return PydanticCustomError(_UNSUPPORTED, why)  # type: ignore[arg-type]


def _only_empty(value: Any) -> Any:
    if value:
        raise _unsupported("this server does not support it; leave it out")
    return value


def _only(*harmless: Any) -> AfterValidator:
    """A field that may say what this server does anyway."""

    def check(value: Any) -> Any:
        if value is not None and value not in harmless:
            raise _unsupported("this server writes plain text and calls no tools; leave it out")
        return value

    return AfterValidator(check)


def _system_for_developer(value: Any) -> Any:
    return "system" if value == "developer" else value


def joined_text_parts(value: Any) -> Any:
    """A content may be a list of parts; the text ones are joined."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise ValueError("only text parts are supported: a text, or a list of {type: text, text: …}")
    return "".join(part["text"] for part in value)


def _prompts(value: Any) -> "tuple[RawPrompt, ...]":
    """The prompts of a request: one text or its token ids, or a list of several."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_id, value))):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, a list of texts, a list of token ids, or a list of such lists")
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"it has {len(value):,} prompts; the limit is {MAX_PROMPTS}")
    return tuple(_raw_prompt(each) for each in value)


def _raw_prompt(value: Any) -> "RawPrompt":
    if isinstance(value, str):
        return _whole_characters(value)
    if not isinstance(value, list) or not all(map(_is_id, value)):
        raise ValueError("each prompt must be a text or a list of token ids")
    if len(value) > MAX_TOKENS_LISTED:
        raise ValueError(f"a prompt has {len(value):,} tokens; the limit is {MAX_TOKENS_LISTED:,}")
    return tuple(value)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


RawPrompt = str | tuple[int, ...]  # a text, or its token ids
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1},
        {
            "type": "array", "minItems": 1, "maxItems": MAX_PROMPTS,
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}, "minItems": 1},
        },
    ]
}  # fmt: skip
Text = Annotated[str, AfterValidator(_whole_characters)]
Name = Annotated[Text, Field(max_length=MAX_NAME_CHARACTERS)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Refused = Annotated[Any, AfterValidator(_only_empty)]  # would change the answer
Ignored = Any  # changes no answer


class _Strict(BaseModel):
    """A JSON object without other fields than its own; an unknown one that is null or empty asks for nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        unknown = (name for name, value in values.items() if name not in cls.model_fields and value not in _NOTHING)
        # An error for each of a hundred thousand would take a second to make, and the first one is told.
        return {name: values[name] for name in (*cls.model_fields, *itertools.islice(unknown, 1)) if name in values}


class StreamOptions(_Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Ignored = None


class _Request(_Strict):
    """The fields that chat and raw completions share."""

    model: Name | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None  # 0: greedy
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stop: Annotated[
        list[Annotated[Text, Field(max_length=MAX_STOP_CHARACTERS)]] | None,
        Field(max_length=MAX_STOP_STRINGS),
        BeforeValidator(_stop_list),
        AfterValidator(_no_empty_strings),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[
        dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[Number, Field(ge=-100, le=100)]] | None,
        BeforeValidator(_at_most(MAX_LOGIT_BIASES)),
    ] = None
    ignore_eos: bool | None = None  # the answer goes on past its end, to max_tokens: for measuring
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None

    @model_validator(mode="after")
    def _of_no_likelihood_only_the_likeliest(self) -> Self:
        if self.top_p == 0:
            self.top_p, self.temperature = None, 0.0
        return self


class ChatMessage(_Strict):
    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_system_for_developer)]
    content: Annotated[Text, BeforeValidator(joined_text_parts)]
    name: Name | None = None
    refusal: Refused = None
    audio: Refused = None
    tool_calls: Refused = None
    function_call: Refused = None
    annotations: Ignored = None
    metadata: Ignored = None  # as gradio sends it, and the next
    options: Ignored = None

    def as_message(self) -> Message:
        return Message(self.role, self.content)


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    continue_final_message: bool | None = None  # the last message is the beginning of the answer
    add_generation_prompt: bool | None = None  # its opposite
    tools: Refused = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    functions: Refused = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"], [])] = None
    audio: Refused = None
    prediction: Refused = None
    web_search_options: Refused = None
    parallel_tool_calls: Ignored = None
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        BeforeValidator(_at_most(16)),
    ] = None
    store: bool | None = None

    def likeliest(self) -> int | None:
        """Number of top_logprobs at each token; None: no log probabilities. Raises RequestInvalid."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestInvalid(
                "The request is unclear.", "top_logprobs needs logprobs.", "Set logprobs to true.", param="top_logprobs"
            )
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> tuple[Message, ...]:
        """The messages. Raises RequestInvalid when there is nothing to answer."""
        messages = tuple(message.as_message() for message in self.messages)
        for index, message in enumerate(messages):
            if message.role == "user" and not message.content.strip():
                raise RequestInvalid(
                    what="A message is empty.",
                    why=f"messages[{index}].content has no text.",
                    next_step="Write something, or leave the message out.",
                    param=f"messages[{index}].content",
                )
        self._check_end(messages[-1])
        return messages

    def _check_end(self, last: Message) -> None:
        begun = bool(self.continue_final_message)
        if begun and last.role != "assistant":
            raise RequestInvalid(
                what="There is no answer to continue.",
                why=f"continue_final_message is true, and the last message is the {last.role}'s.",
                next_step="End the messages with the assistant's, or leave continue_final_message out.",
                param="continue_final_message",
            )
        if self.add_generation_prompt is begun:
            raise RequestInvalid(
                what="The request is unclear.",
                why="An answer either continues the last message or follows it: of continue_final_message and "
                "add_generation_prompt one is true.",
                next_step="Leave add_generation_prompt out.",
                param="add_generation_prompt",
            )


class CompletionRequest(_Request):
    """The body of POST /v1/completions: one raw prompt, or several, each with answers of its own."""

    prompt: Annotated[tuple[RawPrompt, ...], PlainValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
    max_tokens: Annotated[int, Field(ge=0)] | None = None  # 0: nothing is written, an echo may be scored
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None  # the prompt stands before the answer, and logprobs are of both
    suffix: Refused = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @field_validator("best_of")
    @classmethod
    def _all_that_are_written_are_sent(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, info.data.get("n") or 1):
            raise _unsupported("this server sends every answer that it writes; leave it out")
        return value

    def raw_prompts(self) -> tuple[RawPrompt, ...]:
        """The prompts. Raises RequestInvalid when one is empty."""
        for index, prompt in enumerate(self.prompt):
            if not prompt:
                where = "prompt" if len(self.prompt) == 1 else f"prompt[{index}]"
                raise RequestInvalid(
                    "The prompt is empty.", f"{where} has no text.",
                    "Write a prompt; the template's parts are on Prompt.", param=where,
                )  # fmt: skip
        return self.prompt


class TokenizeRequest(_Strict):
    """The body of POST /tokenize: a raw prompt or messages. return_pieces: each token's text, bytes, kind and span."""

    model: Name | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    return_pieces: bool = False


class DetokenizeRequest(_Strict):
    """The body of POST /detokenize."""

    model: Name | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=MAX_TOKENS_LISTED, fail_fast=True)]


def new_id(kind: Literal["chatcmpl", "cmpl"]) -> str:
    """An id for a response, in OpenAI's form."""
    return f"{kind}-{uuid.uuid4().hex}"


def usage(prompt_tokens: int, completion_tokens: int, cached_prompt_tokens: int) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_prompt_tokens},
    }


@dataclass(frozen=True)
class TokenLogprob:
    """A token, how likely it was, and the likeliest tokens at its place."""

    token: str
    bytes: tuple[int, ...]
    logprob: float | None  # None: the first token of a prompt follows nothing
    likeliest: tuple["TokenLogprob", ...] = ()
    offset: int = 0  # characters of the choice's text before it


@dataclass(frozen=True)
class ChoicePart:
    """One of the n answers, or a piece of it."""

    index: int
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: Sequence[TokenLogprob] | None = None  # None: not requested


def response(
    response_id: str, model: str, choices: list[ChoicePart], usage_: dict[str, Any], chat: bool
) -> dict[str, Any]:
    """A whole answer."""

    def body(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}} if chat else {"text": text}

    return {
        "id": response_id,
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": _fingerprint(model),
        "choices": [_choice(choice, chat) | body(choice.text) for choice in choices],
        "usage": usage_,
    }


def chunk(
    response_id: str, created: int, model: str, chat: bool, choice: ChoicePart | None = None, *, role: bool = False
) -> dict[str, Any]:
    """One streamed piece; without a choice, the chunk that carries the usage. role: the first one of an answer."""
    choices = []
    if choice is not None:
        delta = {"role": "assistant"} if role else {}
        delta |= {"content": choice.text} if role or choice.text else {}
        choices.append(_choice(choice, chat) | ({"delta": delta} if chat else {"text": choice.text}))
    return {
        "id": response_id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": created,
        "model": model,
        "system_fingerprint": _fingerprint(model),
        "choices": choices,
    }


@cache
def _fingerprint(model: str) -> str:
    """Changes where the same seed may give another answer: with the model, and with this server's version."""
    return f"fp_{hashlib.sha256(f'{__version__} {model}'.encode()).hexdigest()[:12]}"


def _choice(choice: ChoicePart, chat: bool) -> dict[str, Any]:
    logprobs = None if choice.logprobs is None else _logprobs(choice.logprobs, chat)
    return {"index": choice.index, "finish_reason": choice.finish_reason, "logprobs": logprobs}


def _logprobs(tokens: Sequence[TokenLogprob], chat: bool) -> dict[str, Any]:
    if chat:
        return {"content": [_token(each) | {"top_logprobs": list(map(_token, each.likeliest))} for each in tokens]}
    return {
        "tokens": [each.token for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [
            None if each.logprob is None else {other.token: other.logprob for other in each.likeliest}
            for each in tokens
        ],
        "text_offset": [each.offset for each in tokens],
    }


def _token(each: TokenLogprob) -> dict[str, Any]:
    return {"token": each.token, "logprob": each.logprob, "bytes": list(each.bytes)}


def error_body(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and OpenAI's error object for an exception."""
    if isinstance(error, ValidationError):
        return _validation_error(error)
    message = str(error) if isinstance(error, Phi3KitError) else "The worker failed. Its log has the details."
    if isinstance(error, RequestInvalid):
        return 400, _error(message, "invalid_request_error", error.code, error.param)
    known = (each[1:] for each in _STATUSES if isinstance(error, each[0]))
    status, kind, code = next(known, (500, "server_error", "internal_error"))
    return status, _error(message, kind, code, "model" if isinstance(error, ModelNotFound) else None)


def simple_error(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object for what the server itself refuses."""
    return _error(message, "server_error" if status >= 500 else "invalid_request_error", code, param)


def _error(message: str, kind: str, code: str | None, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def _validation_error(error: ValidationError) -> tuple[int, dict[str, Any]]:
    first = error.errors()[0]
    loc = first["loc"]
    steps = (f"[{part}]" if isinstance(part, int) else f".{part[:_SHOWN_CHARACTERS]}" for part in loc)
    param = "".join(steps).lstrip(".") or None
    if first["type"] == "extra_forbidden":
        return 400, simple_error(400, f"Unrecognized request argument supplied: {param}.", "unknown_parameter", param)
    if first["type"] == "missing":
        text = f"Missing required parameter: {param}."
        return 400, simple_error(400, text, "missing_required_parameter", param)
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == _UNSUPPORTED:
        return 400, simple_error(400, f"{param} is not supported: {reason}.", _UNSUPPORTED, param)
    if first["type"] == "literal_error" and loc[-1] == "role":
        reason = f"it must be one of {', '.join(MESSAGE_ROLES)}"
    return 400, simple_error(
        400, f"Invalid value for {param or 'the body'}: {reason[:1].lower()}{reason[1:]}.", "invalid_value", param
    )
