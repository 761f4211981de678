"""The worker's HTTP: OpenAI's routes, tokenize, MLflow's /invocations, health and metrics.

Knows routes and streams. What is let in, and what an answer is, the modules beside it know.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError

from phi3kit.core.errors import Phi3KitError, RequestInvalid
from phi3kit.core.limits import Limits
from phi3kit.core.machine import Threads
from phi3kit.core.records import WrapperName
from phi3kit.formats import openai_schema
from phi3kit.formats.openai_schema import (
    QUEUE_HEADER,
    ChatRequest,
    ChoicePart,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder
from phi3kit.worker.engine import Engine
from phi3kit.worker.loading import sliding_window
from phi3kit.worker.metrics import WorkerMetrics
from phi3kit.worker.openapi_document import add_schemas, takes
from phi3kit.worker.request_checks import (
    BodyTooLarge,
    Guard,
    Keys,
    LastRequest,
    check_length,
    error_response,
    key_user,
    parse,
    read_body,
    refusal,
)
from phi3kit.worker.tokenization import message_ids, raw_ids, raw_tokens, tokens_of
from phi3kit.worker.turns import Caller, Turn, TurnPart, chat_turn, raw_turn

log = logging.getLogger(__name__)

Parts = AsyncGenerator[list[TurnPart], None]


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker serves and to whom."""

    folder: Path
    wrapper: WrapperName
    model_uri: str
    home: Path
    keys: Keys
    max_queue: int
    threads: Threads
    limits: Limits
    log_text: bool


def create_app(config: WorkerConfig, engine: Engine, last_request: LastRequest) -> FastAPI:
    """The ASGI application of one worker."""
    metrics = WorkerMetrics(config.wrapper)
    recorder = OutboxRecorder(Outbox(config.home), config.limits, log_text=config.log_text, count=metrics.count)
    started_at = int(time.time())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        engine.close()
        recorder.close()

    app = FastAPI(title="phi3kit worker", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)

    app.add_middleware(Guard, keys=config.keys, last_request=last_request)

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        return refusal(404, f"There is nothing at {request.method} {request.url.path}.", "not_found")

    @app.exception_handler(405)
    async def wrong_method(request: Request, error: Exception) -> Response:
        return refusal(405, f"{request.url.path} does not take {request.method}.", "method_not_allowed")

    @app.exception_handler(Phi3KitError)
    async def deliberate(request: Request, error: Phi3KitError) -> Response:
        return error_response(error)

    @app.exception_handler(ValidationError)
    @app.exception_handler(BodyTooLarge)
    @app.exception_handler(Exception)
    async def other(request: Request, error: Exception) -> Response:
        return error_response(error)

    @app.get("/health")
    async def health() -> Response:
        body: dict[str, Any] = {"state": engine.state, "model_uri": config.model_uri, "wrapper": config.wrapper}
        body |= {"active": engine.active, "waiting": engine.waiting, "threads": asdict(config.threads)}
        if engine.state == "ready":
            body["kv_cache"] = {
                "reserved_bytes": engine.cache.reserved_bytes, "budget_bytes": engine.cache.budget_bytes,
            }  # fmt: skip
        if recorder.in_memory:
            body["turns_in_memory_only"] = recorder.in_memory
        if engine.failure:
            body["error"] = str(engine.failure)
            body["error_code"] = openai_schema.error_body(engine.failure)[1]["error"]["code"]
        return JSONResponse(body, 200 if engine.state == "ready" else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": config.model_uri, "object": "model", "created": started_at, "owned_by": "phi3kit"}
        return {"object": "list", "data": [model | {"wrapper": config.wrapper}]}

    @app.post("/v1/chat/completions", openapi_extra=takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        body = await parse(request, ChatRequest)
        check_length((message.content for message in body.conversation()), config.limits, "messages")
        caller = Caller.from_headers(request.headers, body.user, key_user(request))
        # In a thread: a text of megabytes takes seconds to cut, and /health must answer meanwhile.
        turn = await asyncio.to_thread(chat_turn, body, caller, engine, config.wrapper, config.model_uri)
        return await _answer(request, body, turn)

    @app.post("/v1/completions", openapi_extra=takes(CompletionRequest))
    async def completions(request: Request) -> Response:
        body = await parse(request, CompletionRequest)
        check_length([body.raw_prompt()], config.limits, "prompt")
        caller = Caller.from_headers(request.headers, body.user, key_user(request))
        turn = await asyncio.to_thread(raw_turn, body, caller, engine, config.wrapper, config.model_uri)
        return await _answer(request, body, turn)

    @app.post("/tokenize", openapi_extra=takes(TokenizeRequest))
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await parse(request, TokenizeRequest)
        if (body.prompt is None) == (body.messages is None):
            raise RequestInvalid("The request is unclear.", "It needs either prompt or messages.", "Send one of them.")
        said = [body.prompt or ""] if body.messages is None else [each.as_message().content for each in body.messages]
        check_length(said, config.limits, "prompt" if body.messages is None else "messages")
        return await asyncio.to_thread(_tokenized, body, engine, config)

    @app.post("/detokenize", openapi_extra=takes(DetokenizeRequest))
    async def detokenize(request: Request) -> dict[str, Any]:
        body = await parse(request, DetokenizeRequest)
        vocabulary = engine.runtime.tokenizer.get_vocab_size()
        for position, token in enumerate(body.tokens):
            if token >= vocabulary:
                raise RequestInvalid(
                    what=f"tokens[{position}] is no token.",
                    why=f"It is {token}; ids go from 0 to {vocabulary - 1}.",
                    next_step="Send ids that /tokenize gave.",
                    param=f"tokens[{position}]",
                )
        return {"prompt": engine.runtime.tokenizer.decode(body.tokens, skip_special_tokens=False)}

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        from phi3kit.worker.invocations import answer

        data = (await read_body(request)).decode("utf-8", errors="replace")
        content_type = request.headers.get("content-type", "application/json")
        caller = Caller.from_headers(request.headers, None, key_user(request))
        with recorder.counted(caller.turn_id, caller.user):
            status, media_type, content = await asyncio.to_thread(answer, config.folder, data, content_type)
        return Response(content, status, media_type=media_type)

    @app.get("/metrics")
    async def prometheus() -> Response:
        metrics.waiting.set(engine.waiting)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _answer(request: Request, body: ChatRequest | CompletionRequest, turn: Turn) -> Response:
        chat = isinstance(body, ChatRequest)
        parts = turn.parts(recorder)
        # The first step is awaited here, so that a full queue is still a 429 and not a broken stream.
        await anext(parts)
        headers = {QUEUE_HEADER: str(turn.queue_place)}
        if body.stream:
            options = body.stream_options or openai_schema.StreamOptions()
            lines = _event_stream(turn, parts, options, chat, config.model_uri)
            headers["Cache-Control"] = "no-cache"
            return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
        if not await _run_unless_gone(request, parts):
            return Response(status_code=499)  # nobody is there to read it
        if error := _failure(turn):
            raise error
        choices = [
            ChoicePart(index, choice.text, choice.done.finish_reason, choice.logprobs)
            for index, choice in enumerate(turn.choices)
            if choice.done
        ]
        response_id = openai_schema.new_id("chatcmpl" if chat else "cmpl")
        answer = openai_schema.response(
            response_id, config.model_uri, choices, _usage(turn, turn.completion_tokens), chat
        )
        return JSONResponse(answer | {"phi3kit": _timings(turn)}, headers=headers)

    add_schemas(app.openapi(), ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
    return app


def _tokenized(body: TokenizeRequest, engine: Engine, config: WorkerConfig) -> dict[str, Any]:
    runtime = engine.runtime
    if body.messages is not None:
        ids = message_ids(tuple(message.as_message() for message in body.messages), runtime)
    else:
        ids = raw_ids(body.prompt or "", runtime)
    answer = {"tokens": ids, "count": len(ids), "max_model_len": runtime.context_tokens}
    if body.return_pieces:
        tokens = (
            tokens_of(runtime.tokenizer, ids) if body.prompt is None else raw_tokens(runtime.tokenizer, body.prompt)
        )
        answer["pieces"] = [token.as_json() for token in tokens]
        answer["sliding_window"] = sliding_window(config.folder, config.wrapper)
    return answer


async def _run_unless_gone(request: Request, parts: Parts) -> bool:
    """Run a turn to its end; False when the client went away before (the turn is then cancelled and recorded)."""

    async def run() -> None:
        async with contextlib.aclosing(parts):
            async for _ in parts:
                pass

    async def gone() -> None:
        while not await request.is_disconnected():  # noqa: ASYNC110  (ASGI has no event to wait for)
            await asyncio.sleep(0.02)

    running, watching = asyncio.create_task(run()), asyncio.create_task(gone())
    await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if running.done():
        running.result()
        return True
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return False


async def _event_stream(
    turn: Turn, parts: Parts, options: openai_schema.StreamOptions, chat: bool, model: str
) -> AsyncIterator[str]:
    """Server-sent events: chunks, the usage when asked for, [DONE]. Closing it cancels the turn."""
    response_id = openai_schema.new_id("chatcmpl" if chat else "cmpl")
    created = int(time.time())

    def event(choice: ChoicePart | None, usage: dict[str, Any] | None = None, *, role: bool = False) -> str:
        chunk = openai_schema.chunk(response_id, created, model, chat, choice, role=role)
        if usage is not None:
            chunk["usage"] = usage
        if choice is None:
            chunk["phi3kit"] = _timings(turn)
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    counted = options.continuous_usage_stats
    async with contextlib.aclosing(parts):
        if chat:
            yield "".join(event(ChoicePart(index), role=True) for index in range(len(turn.choices)))
        async for each in parts:
            if error := _failure(turn):
                _, body = openai_schema.error_body(error)
                yield f"data: {json.dumps(body)}\n\n"
                return
            lines = [
                event(part.choice, _usage(turn, part.completion_tokens) if counted else None)
                for part in each
                if part.choice.text or part.choice.finish_reason or counted
            ]
            if lines:
                yield "".join(lines)
        if options.include_usage:
            yield event(None, _usage(turn, turn.completion_tokens))
        yield "data: [DONE]\n\n"


def _usage(turn: Turn, completion_tokens: int) -> dict[str, Any]:
    return openai_schema.usage(len(turn.prompt_ids), completion_tokens, turn.cached_prompt_tokens)


def _timings(turn: Turn) -> dict[str, Any]:
    """Beside OpenAI's fields: what this turn is called in the log, and how long it took."""
    record = turn.record()
    return {
        "turn_id": record.turn_id,
        "time_to_first_token_s": record.time_to_first_token_s,
        "duration_s": record.duration_s,
        "tokens_per_second": record.tokens_per_second,
    }


def _failure(turn: Turn) -> Exception | None:
    return next((choice.done.error for choice in turn.choices if choice.done and choice.done.error), None)
