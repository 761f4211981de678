"""Client: ask an endpoint, whole or streamed, and say what the turn cost.

Uses the `openai` client. A worker measures and records its turns; those of a remote endpoint are measured and recorded
here. Knows no processes and no pages.
"""

import codecs
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai._streaming import ServerSentEvent, SSEDecoder

from phi3kit.core.errors import EndpointFailed, Phi3KitError, RequestInvalid, WorkerFailed
from phi3kit.core.limits import Limits
from phi3kit.core.records import Endpoint, FinishReason, Interface, Message, TurnRecord, TurnText, tokens_per_second
from phi3kit.core.settings import Settings
from phi3kit.endpoints import invocations
from phi3kit.endpoints.claims import Bounds
from phi3kit.endpoints.records import CONTINUES, Answer, Request, TurnContext, as_json
from phi3kit.endpoints.transport import (
    Cancellation,
    errors,
    http_client,
    json_of,
    not_the_protocol,
    parsing,
    whole_number,
)
from phi3kit.formats.openai_schema import QUEUE_HEADER
from phi3kit.formats.tokens import Tokenized, read_tokenized
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder

_HEARTBEAT_S = 0.1
_LONGEST_TEXT = 2**20  # characters of a streamed answer
_WHOLE_STEPS = 2**15  # characters of a remote answer: behind them a step is made now and then, as each copies the text
_STEP_S = 0.05
_MOST_CHOICES = 8  # of an event; one is asked for


class _Events(SSEDecoder):
    """Server-sent events as their standard has them: one without data is none, and a first byte order mark is no name."""

    def decode(self, line: str) -> ServerSentEvent | None:
        event = super().decode(line.removeprefix("\ufeff"))
        return event if event and event.data else None


class _Client(OpenAI):
    def _make_sse_decoder(self) -> SSEDecoder:  # openai's own takes `retry:` alone for an answer's piece
        return _Events()


def connect(endpoint: Endpoint, cancellation: Cancellation | None = None) -> OpenAI:
    """A client for many requests, also from several threads: making one takes 20 ms and more. To be closed."""
    return _Client(
        base_url=f"{endpoint.base_url}{endpoint.api_path}",
        api_key=endpoint.api_key or "none",
        max_retries=0,  # a turn that is sent twice is answered, counted and logged twice
        timeout=endpoint.silence_s,
        http_client=http_client(endpoint, cancellation),
    )


def ask(
    endpoint: Endpoint, request: Request, context: TurnContext, settings: Settings, connection: OpenAI | None = None
) -> Answer:
    """The whole answer at once.

    connection: of `connect`; None makes one for this request. Raises NotAllowed, RequestInvalid, Busy, LimitReached,
    BudgetSpent, and WorkerFailed or EndpointFailed, which leave a turn in the outbox.
    """
    context.actor.require("talk")
    if endpoint.wrapper == "remote":
        *_, answer = stream(endpoint, request, context, settings)
        return answer
    turn = _Turn(endpoint, request, context, settings)
    try:
        with errors(endpoint), nullcontext(connection) if connection else connect(endpoint) as client:
            create = _resource(client, request.interface).create
            arguments = _arguments(request, endpoint.model_uri)
            with parsing(endpoint):
                reply: Any = create(**arguments, stream=False, extra_headers=context.headers())
                return _whole_answer(request, reply, turn.elapsed_s)
    except WorkerFailed:
        turn.end(Answer(), "error")  # where the worker has recorded the turn, its record has the same id and stays
        raise


def stream(
    endpoint: Endpoint,
    request: Request,
    context: TurnContext,
    settings: Settings,
    cancellation: Cancellation | None = None,
) -> Generator[Answer, None, None]:
    """Longer and longer answers, the first one empty; the last one has a finish_reason and its cost.

    Closing the iterator cancels the turn at the endpoint. So does `cancellation`, from another thread: the last answer then
    has no finish_reason. Turns of a remote endpoint, and of a worker that dies, are put into the outbox here.
    Raises NotAllowed, RequestInvalid, Busy, LimitReached, BudgetSpent, and WorkerFailed or EndpointFailed.
    """
    context.actor.require("talk")
    cancellation = cancellation or Cancellation()
    remote = endpoint.wrapper == "remote"
    turn = _Turn(endpoint, request, context, settings)
    answer = Answer(tokens_counted=not remote)
    ended: FinishReason | None = None  # to be recorded here
    if remote:
        turn.begin(answer)
    steps = (_invoked if endpoint.protocol == "invocations" else _streamed)(endpoint, request, context, cancellation)
    try:
        for answer in steps:
            yield answer
        ended = answer.finish_reason if remote else None
    except GeneratorExit:
        ended = (answer.finish_reason or "cancelled") if remote else None
        raise
    except (WorkerFailed, EndpointFailed):
        if not cancellation.cancelled:
            ended = "error"
            raise
        ended = "cancelled" if remote else None
    except Phi3KitError:  # a remote endpoint refused the request: nothing was answered
        if remote:
            turn.withdraw(answer)
        raise
    finally:
        steps.close()
        if ended:
            turn.end(answer, ended)


def _streamed(
    endpoint: Endpoint, request: Request, context: TurnContext, cancellation: Cancellation
) -> Generator[Answer, None, None]:
    """By OpenAI's protocol."""
    began = time.perf_counter()
    remote = endpoint.wrapper == "remote"
    with errors(endpoint), connect(endpoint, cancellation) as client:
        arguments = _arguments(request, endpoint.model or endpoint.model_uri)
        # Counts with each piece: vLLM has them too, others refuse unknown fields.
        options = {"include_usage": True, **({} if remote else {"continuous_usage_stats": True})}
        create = _resource(client, request.interface).with_raw_response.create
        headers = context.headers_to(endpoint)
        reply: Any = create(**arguments, stream=True, stream_options=options, extra_headers=headers)
        if remote and not (kind := reply.headers.get("Content-Type", "nothing")).lower().startswith(
            "text/event-stream"
        ):
            raise not_the_protocol(endpoint, f"It answered with {kind[:60]}, not with a stream of events.")
        answer = Answer(queue_place=whole_number(reply.headers.get(QUEUE_HEADER)), tokens_counted=not remote)
        foreign = _Foreign(Bounds.of(request)) if remote else None
        with parsing(endpoint), reply.parse() as chunks:
            yield answer
            for chunk in chunks:
                answer = _grown(answer, chunk, time.perf_counter() - began, foreign)
                if len(answer.text) + (foreign.waiting if foreign else 0) > _LONGEST_TEXT:
                    raise _too_long(endpoint)
                if foreign is None or foreign.is_due(answer):
                    answer = foreign.joined(answer) if foreign else answer
                    yield answer
            if foreign and foreign.pieces:
                yield (answer := foreign.joined(answer))
        if answer.finish_reason is None:
            raise _broken_off(endpoint)


def _too_long(endpoint: Endpoint) -> WorkerFailed | EndpointFailed:
    if endpoint.wrapper == "remote":
        return not_the_protocol(endpoint, f"The text of its answer is longer than {_LONGEST_TEXT:,} characters.")
    return WorkerFailed(
        "The answer is too long.", f"It has more than {_LONGEST_TEXT:,} characters.", "Ask for fewer tokens."
    )


def _broken_off(endpoint: Endpoint) -> WorkerFailed | EndpointFailed:
    if endpoint.wrapper == "remote":
        return EndpointFailed(
            f"The answer of {endpoint.name} was interrupted.",
            "The endpoint closed the stream too early.",
            "Send it again.",
            kind="server",
        )
    why = endpoint.why_gone() or "The worker closed the stream too early."
    return WorkerFailed("The answer was interrupted.", why, "Send the message again.")


def _invoked(
    endpoint: Endpoint, request: Request, context: TurnContext, cancellation: Cancellation
) -> Generator[Answer, None, None]:
    """By MLflow's /invocations: empty answers until the whole one is there, so that a reader can stop."""
    began = time.perf_counter()
    if request.continues:
        raise RequestInvalid(
            "This endpoint cannot continue an answer.",
            "MLflow's /invocations would treat the existing text as a whole answer.",
            "Ask again, or continue with another model.",
            param="continue_final_message",
        )
    body = invocations.payload(request, endpoint.takes)
    thread = ThreadPoolExecutor(1)
    coming = thread.submit(invocations.invoke, endpoint, body, context.headers_to(endpoint), cancellation)
    thread.shutdown(wait=False)  # it ends with its request
    try:
        while not coming.done():
            yield Answer(tokens_counted=False)
            wait([coming], timeout=_HEARTBEAT_S)
    finally:
        if not coming.done():
            cancellation.cancel()
    reply = coming.result()
    answer = Answer(reply.text, reply.finish_reason, tokens_counted=False, duration_s=time.perf_counter() - began)
    if reply.prompt_tokens is not None and reply.completion_tokens is not None:
        answer = replace(
            answer, prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens, tokens_counted=True
        )
    yield _believed(answer, Bounds.of(request), len(answer.text.encode()))


def tokenize(endpoint: Endpoint, prompt: Sequence[Message] | str) -> Tokenized:
    """The tokens of a prompt, as a phi3kit worker cuts it. Raises WorkerFailed or RequestInvalid."""
    return read_tokenized(json_of(endpoint, "POST", "/tokenize", {**as_json(prompt), "return_pieces": True}))


def _arguments(request: Request, model: str) -> dict[str, Any]:
    """The request as arguments of the `openai` client, which takes fields that OpenAI does not have as extra_body."""
    body = request.body(model)
    extra = {name: body.pop(name) for name in CONTINUES if name in body}
    return {**body, "extra_body": extra}


def _resource(client: OpenAI, interface: Interface) -> Any:
    """The client's resource for the format. Any: its overloads take no dict of arguments."""
    return client.chat.completions if interface == "openai" else client.completions


def _whole_answer(request: Request, reply: Any, elapsed_s: float) -> Answer:
    choice = reply.choices[0]
    text = choice.message.content if request.interface == "openai" else choice.text
    answer = Answer(text=text or "", finish_reason=choice.finish_reason, duration_s=elapsed_s)
    return _with_timings(_with_usage(answer, reply.usage), reply)


@dataclass
class _Foreign:
    """How a remote endpoint's stream is read, and what of its text is still in pieces."""

    bounds: Bounds
    pieces: list[str] = field(default_factory=list)
    waiting: int = 0  # characters of the pieces
    bytes: int = 0  # of all the text
    joined_at: float = 0.0
    # A character's halves may come in two pieces.
    halves: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-16-le")("replace")
    )

    def take(self, piece: str) -> None:
        """A piece of the text; a half of a character waits for the other."""
        if piece:
            self.pieces.append(piece)
            self.waiting += len(piece)
            self.bytes += len(piece.encode())

    def is_due(self, answer: Answer) -> bool:
        """Whether the answer's next step is to be made."""
        return len(answer.text) < _WHOLE_STEPS or time.perf_counter() - self.joined_at > _STEP_S

    def joined(self, answer: Answer) -> Answer:
        """The answer with all pieces."""
        text, self.pieces, self.waiting, self.joined_at = "".join(self.pieces), [], 0, time.perf_counter()
        return replace(answer, text=answer.text + text) if text else answer


def _grown(answer: Answer, chunk: Any, elapsed_s: float, foreign: _Foreign | None) -> Answer:
    """The answer with one more piece. foreign: None for a worker's."""
    if chunk.usage is None and "choices" not in chunk.model_fields_set:
        raise ValueError("neither choices nor usage")
    choices = chunk.choices or ()
    if len(choices) > _MOST_CHOICES:
        raise ValueError("more choices than were asked for")
    for choice in choices:
        piece = choice.text if hasattr(choice, "text") else choice.delta and choice.delta.content
        reason = choice.finish_reason
        if foreign:
            piece = foreign.halves.decode((piece or "").encode("utf-16-le", "surrogatepass"), final=bool(reason))
            reason = invocations.finish_reason_of(reason) if reason else None
            foreign.take(piece)
            piece = None
        answer = replace(answer, text=answer.text + (piece or ""), finish_reason=reason or answer.finish_reason)
    answer = _with_usage(answer, chunk.usage)
    if foreign and chunk.usage is not None:
        answer = _believed(answer, foreign.bounds, foreign.bytes)
    if answer.time_to_first_token_s is None and (foreign.bytes if foreign else answer.completion_tokens):
        answer = replace(answer, time_to_first_token_s=elapsed_s)
    answer = replace(answer, duration_s=elapsed_s)
    return _with_seen_speed(answer) if foreign else _with_timings(answer, chunk)


def _with_usage(answer: Answer, usage: Any) -> Answer:
    if usage is None:
        return answer
    details = usage.prompt_tokens_details
    prompt_tokens = invocations.count_of(usage.prompt_tokens)
    completion_tokens = invocations.count_of(usage.completion_tokens)
    if prompt_tokens is None or completion_tokens is None:
        return answer
    cached_tokens = invocations.count_of(details.cached_tokens if details else None) or 0
    all_tokens = prompt_tokens + cached_tokens + completion_tokens
    if cached_tokens > prompt_tokens or (cached_tokens and usage.total_tokens == all_tokens):
        prompt_tokens += cached_tokens  # some servers count them apart
    return replace(
        answer,
        prompt_tokens=prompt_tokens,
        cached_prompt_tokens=cached_tokens,
        completion_tokens=completion_tokens,
        tokens_counted=True,
    )


def _believed(answer: Answer, bounds: Bounds, text_bytes: int) -> Answer:
    """The answer without counts that it cannot have."""
    if bounds.allow(text_bytes, answer.prompt_tokens, answer.cached_prompt_tokens, answer.completion_tokens):
        return answer
    return replace(answer, prompt_tokens=0, cached_prompt_tokens=0, completion_tokens=0, tokens_counted=False)


def _with_timings(answer: Answer, reply: Any) -> Answer:
    """With a worker's own measurements."""
    timings = (reply.model_extra or {}).get("phi3kit")
    if not timings:
        return answer
    names = ("time_to_first_token_s", "duration_s", "tokens_per_second")
    return replace(answer, **{name: timings[name] for name in names})


def _with_seen_speed(answer: Answer) -> Answer:
    """With the speed as it is seen from here, the network's time included."""
    speed = tokens_per_second(answer.completion_tokens, answer.duration_s, answer.time_to_first_token_s)
    return replace(answer, tokens_per_second=speed)


@dataclass(frozen=True)
class _Turn:
    """A turn that is recorded here."""

    endpoint: Endpoint
    request: Request
    context: TurnContext
    settings: Settings
    began: float = field(default_factory=time.perf_counter)
    began_at: float = field(default_factory=time.time)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.began

    def begin(self, answer: Answer) -> None:
        """Raises Busy, LimitReached or BudgetSpent."""
        record = self._record(answer)
        self._recorder.admit(record)
        self._recorder.begin(replace(record, error_code="app_died"))

    def withdraw(self, answer: Answer) -> None:
        self._recorder.withdraw(self._record(answer))

    def end(self, answer: Answer, reason: FinishReason) -> None:
        duration_s = answer.duration_s or self.elapsed_s
        self._recorder.end(self._record(replace(answer, finish_reason=reason, duration_s=duration_s)))

    @property
    def _recorder(self) -> OutboxRecorder:
        return _recorder(self.settings.home, self.settings.limits, self.settings.log_text)

    def _record(self, answer: Answer) -> TurnRecord:
        request, text = self.request, TurnText(self.request.prompt, (answer.text,))
        return TurnRecord(
            turn_id=self.context.turn_id,
            at=self.began_at,
            wrapper=self.endpoint.wrapper,
            model_uri=self.endpoint.model_uri,
            interface=request.interface,
            origin=self.context.origin,
            user=self.context.actor.name,
            conversation_id=self.context.conversation_id,
            finish_reason=answer.finish_reason or "error",
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            cached_prompt_tokens=answer.cached_prompt_tokens,
            duration_s=answer.duration_s,
            time_to_first_token_s=answer.time_to_first_token_s,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            top_p=request.top_p,
            seed=request.seed,
            tokens_counted=answer.tokens_counted,
            prompt_key=self._recorder.prompt_key(request.prompt),
            text=text if self.settings.log_text else None,
        )


@lru_cache(maxsize=4)
def _recorder(home: Path, limits: Limits, log_text: bool) -> OutboxRecorder:
    """One for the process: it holds the lock by which the turns of a dead process are found."""
    return OutboxRecorder(Outbox(home), limits, log_text=log_text)
