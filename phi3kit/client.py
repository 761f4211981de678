"""Client: ask an endpoint, whole or streamed, and say what the turn cost.

Talks through the `openai` client only; /tokenize, which OpenAI does not have, goes over the same connection.
Knows OpenAI's protocol and its errors. Knows no processes and no pages.
"""

import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import quote

import openai
from openai import OpenAI

from phi3kit.errors import Busy, Phi3KitError, RequestInvalid, WorkerFailed
from phi3kit.openai_schema import DEFAULT_MAX_TOKENS, QUEUE_HEADER
from phi3kit.records import Endpoint, FinishReason, Interface, Message, Origin, TurnRecord
from phi3kit.settings import Settings
from phi3kit.usage.outbox import Outbox

_CONNECT_AND_SILENCE_S = 600.0  # a real Phi-3 may read a long prompt for minutes


@dataclass(frozen=True)
class Request:
    """What is asked: messages (OpenAI format) or one text (a raw prompt), and how to answer."""

    prompt: tuple[Message, ...] | str
    temperature: float = 0.0
    max_tokens: int = DEFAULT_MAX_TOKENS
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def interface(self) -> Interface:
        """The format that `prompt` is in."""
        return "raw" if isinstance(self.prompt, str) else "openai"

    def body(self, model_uri: str) -> dict[str, Any]:
        """The request as JSON, without what only streaming needs."""
        content = _as_json(self.prompt)
        sampling = {"temperature": self.temperature, "max_tokens": self.max_tokens, "top_p": self.top_p}
        optional = {"seed": self.seed, "stop": list(self.stop) or None}
        return {"model": model_uri, **content, **sampling, **{k: v for k, v in optional.items() if v is not None}}


@dataclass(frozen=True)
class TurnContext:
    """Who asks, in which conversation; goes into the turn's run."""

    user: str
    origin: Origin
    conversation_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    turn_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def headers(self) -> dict[str, str]:
        """As the worker reads them."""
        return {
            "X-Phi3kit-Turn-Id": self.turn_id,
            "X-Phi3kit-Conversation-Id": self.conversation_id,
            "X-Phi3kit-User": quote(self.user),  # a header is ASCII, a name need not be
            "X-Phi3kit-Origin": self.origin,
        }


@dataclass(frozen=True)
class Answer:
    """An answer as far as it has come; each streamed step is a longer one."""

    text: str = ""
    finish_reason: FinishReason | None = None  # None while it grows
    queue_place: int = 0  # answers that waited at the worker before this one
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0  # of prompt_tokens, found in the worker's memory
    completion_tokens: int = 0
    time_to_first_token_s: float | None = None
    duration_s: float = 0.0
    tokens_per_second: float | None = None

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


def connect(endpoint: Endpoint) -> OpenAI:
    """A connection for many questions, also from several threads: making one takes 20 ms and more. To be closed."""
    return _client(endpoint)


def ask(
    endpoint: Endpoint, request: Request, context: TurnContext, settings: Settings, connection: OpenAI | None = None
) -> Answer:
    """The whole answer at once. Raises RequestInvalid, Busy or WorkerFailed; the last leaves a turn in the outbox.

    connection: one that `connect` gave; without one the question has its own.
    """
    began, began_at = time.perf_counter(), time.time()
    try:
        with _errors(endpoint), nullcontext(connection) if connection else _client(endpoint) as client:
            create = _resource(client, request.interface).create
            reply: Any = create(
                **request.body(endpoint.model or endpoint.model_uri), stream=False, extra_headers=context.headers()
            )
    except WorkerFailed:
        _record_broken(endpoint, request, context, settings, Answer(), began_at, time.perf_counter() - began)
        raise
    choice = reply.choices[0]
    answer = Answer(
        text=(choice.message.content if request.interface == "openai" else choice.text) or "",
        finish_reason=choice.finish_reason,
        duration_s=time.perf_counter() - began,
    )
    return _with_timings(_with_usage(answer, reply.usage), reply)


def stream(
    endpoint: Endpoint, request: Request, context: TurnContext, settings: Settings
) -> Generator[Answer, None, None]:
    """Longer and longer answers, the first one an empty one; the last one has a finish_reason and its cost.

    Closing the iterator cancels the turn in the worker. A worker that dies leaves a turn in the outbox with what was
    received. Raises RequestInvalid, Busy or WorkerFailed.
    """
    began, began_at = time.perf_counter(), time.time()
    answer = Answer()
    try:
        with _errors(endpoint), _client(endpoint) as client:
            body = request.body(endpoint.model or endpoint.model_uri)
            options = {"include_usage": True, "continuous_usage_stats": True}
            create = _resource(client, request.interface).with_raw_response.create
            reply: Any = create(**body, stream=True, stream_options=options, extra_headers=context.headers())
            answer = Answer(queue_place=_whole(reply.headers.get(QUEUE_HEADER), default=0))
            chunks: Any = reply.parse()
            with chunks:
                yield answer
                for chunk in chunks:
                    answer = _grown(answer, chunk, time.perf_counter() - began)
                    yield answer
            if answer.finish_reason is None:
                raise WorkerFailed(
                    "The answer broke off.", "The worker ended the stream before its end.", "Send the message again."
                )
    except WorkerFailed:
        _record_broken(endpoint, request, context, settings, answer, began_at, time.perf_counter() - began)
        raise


def count_tokens(endpoint: Endpoint, prompt: Sequence[Message] | str) -> int:
    """Prompt tokens as the worker would count them. Raises WorkerFailed or RequestInvalid."""
    with _errors(endpoint), _client(endpoint, root=True) as client:
        reply: Any = client.post("/tokenize", body=_as_json(prompt), cast_to=object)
        return int(reply["count"])


def _as_json(prompt: Sequence[Message] | str) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    return {"messages": [asdict(message) for message in prompt]}


def _resource(client: OpenAI, interface: Interface) -> Any:
    """The client's part for the format. Any: its overloads cannot take a dict of arguments."""
    return client.chat.completions if interface == "openai" else client.completions


def _whole(header: str | None, default: int) -> int:
    return int(header) if header and header.isdecimal() else default


def _client(endpoint: Endpoint, *, root: bool = False) -> OpenAI:
    return OpenAI(
        base_url=endpoint.base_url if root else f"{endpoint.base_url}{endpoint.api_path}",
        api_key=endpoint.api_key or "none",
        max_retries=0,  # a turn that is sent twice is answered, counted and logged twice
        timeout=_CONNECT_AND_SILENCE_S,
    )


def _grown(answer: Answer, chunk: Any, elapsed_s: float) -> Answer:
    for choice in chunk.choices:
        piece = choice.text if hasattr(choice, "text") else choice.delta.content
        answer = replace(
            answer, text=answer.text + (piece or ""), finish_reason=choice.finish_reason or answer.finish_reason
        )
    answer = _with_usage(answer, chunk.usage)
    if answer.time_to_first_token_s is None and answer.completion_tokens:
        answer = replace(answer, time_to_first_token_s=elapsed_s)
    return _with_timings(replace(answer, duration_s=elapsed_s), chunk)


def _with_usage(answer: Answer, usage: Any) -> Answer:
    if usage is None:
        return answer
    details = usage.prompt_tokens_details
    return replace(
        answer,
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=(details.cached_tokens if details else None) or 0,
        completion_tokens=usage.completion_tokens,
    )


def _with_timings(answer: Answer, reply: Any) -> Answer:
    """A phi3kit worker measures where the tokens are made; another endpoint leaves what was seen from here."""
    timings = (reply.model_extra or {}).get("phi3kit")
    if not timings:
        return answer
    names = ("time_to_first_token_s", "duration_s", "tokens_per_second")
    return replace(answer, **{name: timings[name] for name in names})


def _record_broken(
    endpoint: Endpoint,
    request: Request,
    context: TurnContext,
    settings: Settings,
    answer: Answer,
    began_at: float,
    duration_s: float,
) -> None:
    """Keep a turn that the worker may not have been able to record; when it did, its record has the same id and stays."""
    turn = TurnRecord(
        turn_id=context.turn_id,
        at=began_at,
        wrapper=endpoint.wrapper,
        model_uri=endpoint.model_uri,
        interface=request.interface,
        origin=context.origin,
        user=context.user,
        conversation_id=context.conversation_id,
        finish_reason="error",
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_prompt_tokens=answer.cached_prompt_tokens,
        duration_s=duration_s,
        time_to_first_token_s=answer.time_to_first_token_s,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        top_p=request.top_p,
        seed=request.seed,
    )
    Outbox(settings.home).add(turn)


@contextmanager
def _errors(endpoint: Endpoint) -> Iterator[None]:
    """Translate the `openai` client's errors into the kit's."""
    again = "Send it again; the worker is started anew when it is gone."
    try:
        yield
    except Phi3KitError:
        raise
    except openai.RateLimitError as error:
        raise Busy(waiting=0, retry_after_s=_whole(error.response.headers.get("Retry-After"), default=2)) from error
    except openai.APIStatusError as error:
        body: Any = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error)
        if error.status_code in (400, 413, 422):
            raise RequestInvalid(
                "The worker refused the request.", message, "Change the value and send it again.",
                param=body.get("param"), code=str(body.get("code") or "invalid_value"),
            ) from error  # fmt: skip
        raise WorkerFailed(f"The worker answered {error.status_code}.", message, again) from error
    except openai.APIError as error:  # no connection, a broken one, or an error inside a stream
        why = error.message if error.message and error.message != "Connection error." else "The worker is not there."
        raise WorkerFailed("The worker did not finish its answer.", why, again) from error
    except OSError as error:
        raise WorkerFailed("The worker did not finish its answer.", f"{error}.", again) from error
