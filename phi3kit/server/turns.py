"""Turns of a worker: from a checked request to pieces of text, the usage, and one record in the outbox.

Knows how a request becomes jobs for the engine. Knows no HTTP routes.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args
from urllib.parse import unquote

from phi3kit.chat_template import prompt_ids
from phi3kit.errors import PromptTooLong, RequestInvalid
from phi3kit.openai_schema import DEFAULT_MAX_TOKENS, ChatRequest, CompletionRequest
from phi3kit.records import FinishReason, Interface, Message, Origin, TurnRecord, WrapperName
from phi3kit.server.engine import Done, Engine, Job, Piece
from phi3kit.server.runtime import Runtime, Sampling

Keep = Callable[[TurnRecord], None]

# Dividing scores by less overflows them; vLLM draws the same line. 0 itself is greedy.
_LOWEST_TEMPERATURE = 0.01
_TURN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # it goes into a filter of MLflow's
_AHEAD = 16  # steps that the engine may be ahead of the sender
_LONGEST_WAIT_MS = 5  # a token
_MAX_HEADER_TEXT = 200  # characters of a name or id that a caller gives


@dataclass(frozen=True)
class Caller:
    """Who asks, as the request's headers say it; a plain client has none of them."""

    turn_id: str
    conversation_id: str
    user: str
    origin: Origin

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], user: str | None) -> "Caller":
        """Read the X-Phi3kit-* headers. user: the request's own `user` field."""

        def text(name: str) -> str:
            return headers.get(f"x-phi3kit-{name}", "")[:_MAX_HEADER_TEXT]

        turn_id, origin = text("turn-id"), text("origin")
        return cls(
            turn_id=turn_id if _TURN_ID.fullmatch(turn_id) else uuid.uuid4().hex,
            conversation_id=text("conversation-id") or uuid.uuid4().hex,
            user=unquote(text("user")) or (user or "")[:_MAX_HEADER_TEXT] or "api",
            origin=origin if origin in get_args(Origin) else "api",  # type: ignore[arg-type]
        )


@dataclass
class Choice:
    """One of a turn's n answers, as it grows."""

    text: str = ""
    completion_tokens: int = 0
    done: Done | None = None


@dataclass
class Turn:
    """One request on its way through the engine."""

    engine: Engine
    prompt_ids: list[int]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    caller: Caller
    interface: Interface
    wrapper: WrapperName
    model_uri: str
    choices: list[Choice]
    began_at: float = field(default_factory=time.time)
    received_at: float = field(default_factory=time.perf_counter)
    _jobs: list[Job] = field(default_factory=list)
    _emitted: int = 0  # steps that the engine gave
    _taken: int = 0  # steps that were sent on

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    async def pieces(self, keep: Keep) -> AsyncGenerator[tuple[int, Piece | Done], None]:
        """(choice index, step) until every choice is done; `keep` gets the turn's record before the last one is given.

        When the reader goes away the generation is cancelled and the turn is kept all the same. Raises Busy.
        """
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[tuple[int, Piece | Done]] = asyncio.Queue()

        def job(index: int) -> Job:
            def emit(step: Piece | Done) -> None:
                self._emitted += 1
                loop.call_soon_threadsafe(steps.put_nowait, (index, step))
                # A small model writes faster than the event loop sends, and a loop that is behind notices late that
                # its reader has gone. Wait for it a little, and never for long: a slow reader must hold up nobody.
                for _ in range(_LONGEST_WAIT_MS):
                    if self._emitted - self._taken <= _AHEAD or self._jobs_cancelled():
                        break
                    time.sleep(0.001)

            sampling = self.sampling
            if sampling.seed is not None:  # n answers to one seed would be n times the same
                sampling = Sampling(sampling.temperature, sampling.top_p, sampling.seed + index)
            return Job(self.prompt_ids, self.max_tokens, sampling, self.stop, emit, received_at=self.received_at)

        recorded = False
        try:
            jobs = [job(index) for index in range(len(self.choices))]
            self.engine.submit(*jobs)
            self._jobs = jobs
            while any(choice.done is None for choice in self.choices):
                index, step = await steps.get()
                self._take(index, step)
                if isinstance(step, Done) and all(choice.done for choice in self.choices):
                    recorded = True
                    keep(self.record())
                yield index, step
        finally:
            for each in self._jobs:
                each.cancelled.set()
            if self._jobs and not recorded:
                # The engine still says what the cancelled answers cost. Shielded: this task may be cancelled itself.
                await asyncio.shield(asyncio.ensure_future(self._drain(steps, keep)))

    async def _drain(self, steps: "asyncio.Queue[tuple[int, Piece | Done]]", keep: Keep) -> None:
        while any(choice.done is None for choice in self.choices):
            self._take(*await steps.get())
        keep(self.record())

    def _jobs_cancelled(self) -> bool:
        return any(job.cancelled.is_set() for job in self._jobs)

    def _take(self, index: int, step: Piece | Done) -> None:
        self._taken += 1
        choice = self.choices[index]
        choice.completion_tokens = step.completion_tokens
        if isinstance(step, Piece):
            choice.text += step.text
        else:
            choice.done = step

    def record(self) -> TurnRecord:
        """What this turn cost."""
        done = [choice.done for choice in self.choices if choice.done]
        reasons: list[FinishReason] = [each.finish_reason for each in done]
        worst: tuple[FinishReason, ...] = ("error", "cancelled", "length", "stop")
        firsts = [each.time_to_first_token_s for each in done if each.time_to_first_token_s is not None]
        return TurnRecord(
            turn_id=self.caller.turn_id,
            at=self.began_at,
            wrapper=self.wrapper,
            model_uri=self.model_uri,
            interface=self.interface,
            origin=self.caller.origin,
            user=self.caller.user,
            conversation_id=self.caller.conversation_id,
            finish_reason=next((reason for reason in worst if reason in reasons), "error"),
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=self.completion_tokens,
            cached_prompt_tokens=0,
            duration_s=max((each.duration_s for each in done), default=time.perf_counter() - self.received_at),
            time_to_first_token_s=min(firsts, default=None),
            temperature=self.sampling.temperature,
            max_tokens=self.max_tokens,
            top_p=self.sampling.top_p,
            seed=self.sampling.seed,
        )


def chat_turn(request: ChatRequest, caller: Caller, engine: Engine, wrapper: WrapperName, model_uri: str) -> Turn:
    """A turn from messages. Raises RequestInvalid or PromptTooLong."""
    ids = message_ids(request.conversation(), engine.runtime)
    max_tokens = request.max_completion_tokens or request.max_tokens
    return _turn(request, ids, max_tokens, caller, engine, "openai", wrapper, model_uri)


def raw_turn(request: CompletionRequest, caller: Caller, engine: Engine, wrapper: WrapperName, model_uri: str) -> Turn:
    """A turn from a raw prompt. Raises RequestInvalid or PromptTooLong."""
    ids = raw_ids(request.raw_prompt(), engine.runtime)
    return _turn(request, ids, request.max_tokens, caller, engine, "raw", wrapper, model_uri)


def message_ids(messages: tuple[Message, ...], runtime: Runtime) -> list[int]:
    """Token ids of messages; special tokens inside them are text."""
    return prompt_ids(messages, lambda text: raw_ids(text, runtime), lambda text: _text_ids(text, runtime))


def raw_ids(text: str, runtime: Runtime) -> list[int]:
    """Token ids of a raw prompt; special tokens are structure."""
    return list(runtime.tokenizer.encode(text, add_special_tokens=False).ids)


def _text_ids(text: str, runtime: Runtime) -> list[int]:
    return list(runtime.text_tokenizer.encode(text, add_special_tokens=False).ids)


def _turn(
    request: ChatRequest | CompletionRequest,
    ids: list[int],
    max_tokens: int | None,
    caller: Caller,
    engine: Engine,
    interface: Interface,
    wrapper: WrapperName,
    model_uri: str,
) -> Turn:
    if not ids:
        raise RequestInvalid("The prompt is empty.", "It has no tokens.", "Write a prompt.", param="prompt")
    room = engine.runtime.context_tokens - len(ids)
    if room < 1:
        param = "messages" if interface == "openai" else "prompt"
        raise PromptTooLong(len(ids), engine.runtime.context_tokens, param)
    if (request.n or 1) > engine.max_queue:
        raise RequestInvalid(
            what="Too many answers at once.",
            why=f"n is {request.n}, and {engine.max_queue} answers may wait here.",
            next_step="Ask for fewer.",
            param="n",
        )
    return Turn(
        engine=engine,
        prompt_ids=ids,
        max_tokens=min(max_tokens or DEFAULT_MAX_TOKENS, room),
        sampling=Sampling(
            temperature=max(request.temperature, _LOWEST_TEMPERATURE) if request.temperature else 0.0,
            top_p=request.top_p if request.top_p is not None else 1.0,
            seed=request.seed,
        ),
        stop=tuple(request.stop or ()),
        caller=caller,
        interface=interface,
        wrapper=wrapper,
        model_uri=model_uri,
        choices=[Choice() for _ in range(request.n or 1)],
    )
