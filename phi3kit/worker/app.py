"""The worker's HTTP: OpenAI's routes, tokenize, MLflow's /invocations, health and metrics.

Knows routes, streams and how a turn looks as OpenAI's JSON. Knows neither the engine's work nor what a request costs.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from phi3kit.access.same_origin import ServedNames
from phi3kit.core.errors import ModelNotFound, Phi3KitError, RequestInvalid, TryLater
from phi3kit.core.machine import Threads
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats import openai_schema
from phi3kit.formats.openai_schema import (
    MAX_PIECES,
    QUEUE_HEADER,
    ChatRequest,
    ChoicePart,
    CompletionRequest,
    DetokenizeRequest,
    StreamOptions,
    TokenizeRequest,
)
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder, Recorder
from phi3kit.worker.engine import Engine
from phi3kit.worker.invocations import Call, Scoring
from phi3kit.worker.loading import sliding_window
from phi3kit.worker.metrics import WorkerMetrics
from phi3kit.worker.openapi_document import describe, gives, takes
from phi3kit.worker.pools import Present, ThreadPool, TokenMeter, around_s
from phi3kit.worker.request_checks import (
    Body,
    BodyTooLarge,
    Guard,
    Keys,
    LastRequest,
    check_characters,
    check_length,
    check_raw_length,
    error_response,
    is_from_app,
    key_user,
    may_watch,
    name_response,
    parsed,
    read_body,
    refusal,
    request_id,
)
from phi3kit.worker.text_work import TEXT_TOKENS_A_TOKEN, TextWork, detokenized, tokenized
from phi3kit.worker.tokenization import encoded
from phi3kit.worker.turns import Caller, Compute, Turn, TurnPart, at_once, turn_of

_REFUSED_REST_S = 0.25  # who was told to try again later and does so at once waits
_GONE = 499  # the status, in logs of proxies, of an answer that nobody waited for

Parts = AsyncGenerator[list[TurnPart], None]
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker serves and to whom."""

    folder: Path
    wrapper: WrapperName
    model_uri: str
    names: ServedNames
    keys: Keys
    threads: Threads
    settings: Settings


def create_app(config: WorkerConfig, engine: Engine, last_request: LastRequest) -> FastAPI:
    """The ASGI application of one worker."""
    limits = config.settings.limits
    metrics = WorkerMetrics(config.wrapper)
    outbox = Outbox(config.settings.home)
    recorder = OutboxRecorder(outbox, limits, log_text=config.settings.log_text, count=metrics.count)
    present = Present(lambda: engine.users)
    tokenizing = ThreadPool("tokenizing", 4, present)
    naming = ThreadPool(
        "naming", 2, present, most_waiting=None
    )  # of likely tokens; the engine's queue bounds its users
    scoring = Scoring(config.folder, config.wrapper, config.settings)
    text_meter = TokenMeter(limits.user_minute_tokens and limits.user_minute_tokens * TEXT_TOKENS_A_TOKEN)
    the_model = {
        "id": config.model_uri, "object": "model", "created": int(time.time()), "owned_by": "phi3kit",
        "wrapper": config.wrapper,
    }  # fmt: skip

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        await scoring.close()
        await asyncio.to_thread(recorder.close)

    app = FastAPI(title="phi3kit worker", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, names=config.names, keys=config.keys, last_request=last_request)
    _add_error_handlers(app)

    @app.get("/health")
    async def health(request: Request) -> Response:
        body: dict[str, Any] = {"state": engine.state, "model_uri": config.model_uri, "wrapper": config.wrapper}
        if may_watch(request):
            body |= figures()
        if engine.failure:
            body["error"] = str(engine.failure)
            body["error_code"] = openai_schema.error_body(engine.failure)[1]["error"]["code"]
        return JSONResponse(body, 200 if engine.state == "ready" else 503)

    def figures() -> dict[str, Any]:
        """What callers do here, all together."""
        found: dict[str, Any] = {"active": engine.active, "waiting": engine.waiting, "threads": asdict(config.threads)}
        if engine.state == "ready":
            found["kv_cache"] = {
                "reserved_bytes": engine.cache.reserved_bytes, "budget_bytes": engine.cache.budget_bytes,
            }  # fmt: skip
        if recorder.in_memory:
            found["turns_in_memory_only"] = recorder.in_memory
        return found

    # As `mlflow models serve` answers them.
    @app.get("/ping")
    async def ping() -> Response:
        return Response("\n", 200 if engine.state == "ready" else 404, media_type="application/json")

    @app.get("/version")
    async def mlflow_version() -> Response:
        return Response(version("mlflow"), media_type="application/json")

    @app.get("/v1/models", openapi_extra=gives("Models"))
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [the_model]}

    # A model URI has slashes.
    @app.get("/v1/models/{model_id:path}", openapi_extra=gives("Model"))
    async def model(model_id: str) -> dict[str, Any]:
        if model_id != config.model_uri:
            raise ModelNotFound(
                f"There is no model {model_id[:200]} here.", f"This worker has {config.model_uri}.", "Ask for that one."
            )
        return the_model

    async def parse(request: Request, kind: type[Body]) -> Body:
        body = await read_body(request)
        return await tokenizing.run(caller_of(request, None).user, partial(parsed, body, kind), around_s(len(body)))

    @app.post("/v1/chat/completions", openapi_extra=takes(ChatRequest, "ChatAnswer", "ChatChunk"))
    async def chat_completions(request: Request) -> Response:
        return await complete(request, await parse(request, ChatRequest))

    @app.post("/v1/completions", openapi_extra=takes(CompletionRequest, "RawAnswer", "RawChunk"))
    async def completions(request: Request) -> Response:
        return await complete(request, await parse(request, CompletionRequest))

    def caller_of(request: Request, user: str | None) -> Caller:
        """user: the request's own `user` field, which counts where no user has limits: anybody could write any."""
        if is_from_app(request):
            return Caller.from_headers(request.headers, user, request_id(request))
        unbound = config.settings.profile == "local" and not limits.bounds_users
        return Caller.named(key_user(request) or (user if unbound and user else "api"), request_id(request))

    async def complete(request: Request, body: ChatRequest | CompletionRequest) -> Response:
        context_tokens = engine.runtime.context_tokens
        if isinstance(body, ChatRequest):
            check_length(body.conversation(), limits, context_tokens)
        else:
            check_raw_length(body.raw_prompts(), limits, context_tokens)
        caller = caller_of(request, body.user)

        def work() -> Turn:
            turn = turn_of(body, caller, engine, config.wrapper, config.model_uri)
            check_characters(turn.prompt, limits)  # of token ids the text is known only now
            return turn

        turn = await tokenizing.run(caller.user, work, goes_on=True)
        compute = at_once if turn.sampling.logprobs is None else partial(naming.run, caller.user)
        try:
            return await _respond(request, body, turn, recorder, compute)
        except TryLater:
            tokenizing.rest(caller.user, _REFUSED_REST_S)
            raise

    async def text_work(request: Request, work: Callable[[], TextWork]) -> Response:
        user = caller_of(request, None).user
        text_meter.check(user)
        try:
            done = await tokenizing.run(user, work, goes_on=True)
        except RequestInvalid:
            text_meter.add(user, MAX_PIECES)  # what is refused may have been cut before
            raise
        text_meter.add(user, done.tokens)
        return Response(done.json, media_type="application/json")

    @app.post("/tokenize", openapi_extra=takes(TokenizeRequest, "Tokens"))
    async def tokenize(request: Request) -> Response:
        body = await parse(request, TokenizeRequest)
        if (body.prompt is None) == (body.messages is None):
            raise RequestInvalid("The request is unclear.", "It needs either prompt or messages.", "Send one of them.")
        messages = tuple(message.as_message() for message in body.messages or ())
        prompt = messages if body.prompt is None else body.prompt
        check_length(prompt, limits, engine.runtime.context_tokens)

        def work() -> TextWork:
            window = sliding_window(config.folder, config.wrapper)
            return tokenized(prompt, engine.runtime, window, pieces=body.return_pieces)

        return await text_work(request, work)

    @app.post("/detokenize", openapi_extra=takes(DetokenizeRequest, "TokenText"))
    async def detokenize(request: Request) -> Response:
        body = await parse(request, DetokenizeRequest)
        return await text_work(request, partial(detokenized, body.tokens, engine.runtime))

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        data = (await read_body(request)).decode("utf-8", errors="replace")
        check_length(data, limits, engine.runtime.context_tokens)
        caller = caller_of(request, None)
        tokens = await tokens_in(caller.user, data)
        await asyncio.to_thread(recorder.admit_call, caller.turn_id, caller.user, tokens)
        call = Call(caller.user, data, request.headers["content-type"])
        try:
            scored = await _unless_gone(request, scoring.answer(call))
            tokens += await tokens_in(caller.user, scored.content)
        except BaseException:
            tokens += call.computed_tokens  # an answer that nobody waited for is paid for as well
            raise
        finally:
            await asyncio.to_thread(recorder.end_call, caller.turn_id, caller.user, tokens)
        return Response(scored.content, scored.status, media_type=scored.media_type)

    async def tokens_in(user: str, text: str) -> int:
        return await tokenizing.run(user, lambda: len(encoded(engine.runtime.tokenizer, text)))

    @app.get("/metrics")
    async def prometheus() -> Response:
        metrics.waiting.set(engine.waiting)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    describe(app, ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        return refusal(404, f"There is nothing at {request.method} {request.url.path}.", "not_found")

    @app.exception_handler(405)
    async def wrong_method(request: Request, error: Exception) -> Response:
        allowed: dict[str, str] = getattr(error, "headers", None) or {}
        return refusal(405, f"{request.url.path} does not take {request.method}.", "method_not_allowed", allowed)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_GONE)  # nobody is there to read it, and nothing is wrong here

    @app.exception_handler(Phi3KitError)
    @app.exception_handler(ValidationError)
    @app.exception_handler(BodyTooLarge)
    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        response = error_response(error)
        name_response(response.headers, request)  # a 500 is sent past the guard
        return response


async def _respond(
    request: Request, body: ChatRequest | CompletionRequest, turn: Turn, recorder: Recorder, compute: Compute
) -> Response:
    """The response to a turn: a stream, or one JSON object when the turn has ended. compute: where it is put together."""
    parts = turn.parts(recorder, compute)
    # The first step is awaited here, so that a full queue is still a 429 and not a broken stream.
    await anext(parts)
    headers = {QUEUE_HEADER: str(turn.queue_place)}
    if body.stream:
        lines = _event_stream(turn, parts, body.stream_options or StreamOptions(), compute)
        headers["Cache-Control"] = "no-cache"
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
    await _unless_gone(request, _run(parts))
    if turn.error:
        raise turn.error
    content = await compute(partial(_whole_answer, turn))
    return Response(content, media_type="application/json", headers=headers)


def _whole_answer(turn: Turn) -> bytes:
    choices = [
        ChoicePart(index, (choice.prompt.echo or "") + choice.text, choice.done.finish_reason, choice.logprobs)
        for index, choice in enumerate(turn.choices)
        if choice.done
    ]
    chat = turn.interface == "openai"
    answer = openai_schema.response(_new_id(turn), turn.model_uri, choices, _usage(turn, turn.completion_tokens), chat)
    return json.dumps(answer | {"phi3kit": _timings(turn)}, ensure_ascii=False).encode()


async def _run(parts: Parts) -> None:
    """Run a turn to its end. Cancelled, it is recorded all the same."""
    async with contextlib.aclosing(parts):
        async for _ in parts:
            pass


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of work that is cancelled when the client goes away: then this raises ClientDisconnect."""

    async def gone() -> None:
        while not await request.is_disconnected():  # noqa: ASYNC110  (ASGI has no event to wait for)
            await asyncio.sleep(0.02)

    running, watching = asyncio.create_task(work), asyncio.create_task(gone())
    await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if running.done():
        return running.result()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    raise ClientDisconnect


async def _event_stream(turn: Turn, parts: Parts, options: StreamOptions, compute: Compute) -> AsyncIterator[str]:
    """Server-sent events: chunks, the usage when it is wanted, [DONE]. Closing it cancels the turn."""
    response_id, created, chat = _new_id(turn), int(time.time()), turn.interface == "openai"
    counted = options.continuous_usage_stats

    def event(choice: ChoicePart | None, usage: dict[str, Any] | None = None, *, role: bool = False) -> str:
        chunk = openai_schema.chunk(response_id, created, turn.model_uri, chat, choice, role=role)
        if usage is not None:
            chunk["usage"] = usage
        if choice is None:
            chunk["phi3kit"] = _timings(turn)
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def events(new: list[TurnPart]) -> str:
        return "".join(
            event(part.choice, _usage(turn, part.completion_tokens) if counted else None)
            for part in new
            if part.choice.text or part.choice.finish_reason or part.choice.logprobs or counted
        )

    async with contextlib.aclosing(parts):
        if chat:
            yield "".join(event(ChoicePart(index), role=True) for index in range(len(turn.choices)))
        async for each in parts:
            if turn.error:
                _, body = openai_schema.error_body(turn.error)
                yield f"data: {json.dumps(body)}\n\n"
                return
            if lines := await compute(partial(events, each)):
                yield lines
        if options.include_usage:
            yield event(None, _usage(turn, turn.completion_tokens))
        yield "data: [DONE]\n\n"


def _new_id(turn: Turn) -> str:
    return openai_schema.new_id("chatcmpl" if turn.interface == "openai" else "cmpl")


def _usage(turn: Turn, completion_tokens: int) -> dict[str, Any]:
    return openai_schema.usage(turn.prompt_tokens, completion_tokens, turn.cached_prompt_tokens)


def _timings(turn: Turn) -> dict[str, Any]:
    """Beside OpenAI's fields: the turn's id in the log, and its times."""
    record = turn.record()
    return {
        "turn_id": record.turn_id,
        "time_to_first_token_s": record.time_to_first_token_s,
        "duration_s": record.duration_s,
        "tokens_per_second": record.tokens_per_second,
    }
