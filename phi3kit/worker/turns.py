"""Turns of a worker: from a checked request to pieces of text, the usage, and one record in the outbox.

Knows the engine and the recorder. Knows no HTTP routes.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args
from urllib.parse import unquote

from phi3kit.core.errors import PromptTooLong, RequestInvalid
from phi3kit.core.records import FinishReason, Interface, Message, Origin, TurnRecord, TurnText, WrapperName
from phi3kit.formats.openai_schema import (
    DEFAULT_MAX_TOKENS,
    ChatRequest,
    ChoicePart,
    CompletionRequest,
    TokenLogprob,
    error_body,
)
from phi3kit.usage.recorder import Recorder
from phi3kit.worker.engine import Done, Engine, Generation, Output, Piece
from phi3kit.worker.output_queue import OutputQueue
from phi3kit.worker.runtime import Runtime
from phi3kit.worker.sampling import Sampling
from phi3kit.worker.tokenization import ids_of, token_bytes

_TURN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)  # safe within a filter of MLflow's
_MAX_HEADER_TEXT = 200  # characters of a name or id that a caller gives


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    turn_id: str
    conversation_id: str
    user: str
    origin: Origin

    @classmethod
    def named(cls, user: str) -> "Caller":
        """Somebody from outside. A turn's id from there would let many turns count as one."""
        return cls(uuid.uuid4().hex, uuid.uuid4().hex, user[:_MAX_HEADER_TEXT] or "api", "api")

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], user: str | None) -> "Caller":
        """Whom the X-Phi3kit-* headers of the app name. user: the request's own `user` field."""

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
class ChoiceInProgress:
    """One of a turn's n answers, as it grows."""

    completion_tokens: int = 0
    text: str = ""
    logprobs: list[TokenLogprob] | None = None  # None: not wanted
    done: Done | None = None


@dataclass(frozen=True)
class TurnPart:
    """A piece of one of the answers, or its end."""

    choice: ChoicePart
    completion_tokens: int  # of all answers, this piece's too


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
    prompt: tuple[Message, ...] | str  # what prompt_ids were made of
    choices: list[ChoiceInProgress]
    began_at: float = field(default_factory=time.time)
    received_at: float = field(default_factory=time.perf_counter)
    queue_place: int = 0  # answers that waited before this one
    prompt_key: str | None = None

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens that were found in memory, by the first choice: the others find what it has read."""
        done = self.choices[0].done
        return done.cached_prompt_tokens if done else 0

    @property
    def error(self) -> Exception | None:
        """Why an answer broke off; None where none did."""
        return next((choice.done.error for choice in self.choices if choice.done and choice.done.error), None)

    async def parts(self, recorder: Recorder) -> AsyncGenerator[list[TurnPart], None]:
        """The new parts each time, until every choice is done; the first list is empty and comes once the turn is queued.

        The turn's record reaches `recorder` before the last parts are given. A reader that goes away cancels the
        generations; the turn is kept all the same.
        Raises Busy, LimitReached, BudgetSpent or RequestInvalid before the first list.
        """
        # The recorder is called in threads: a slow or locked data folder must not hold up other turns, or /health.
        await asyncio.to_thread(self._admit, recorder)
        outputs = OutputQueue()
        generations = [self._generation(index, outputs) for index in range(len(self.choices))]
        try:
            self.queue_place = self.engine.submit(*generations)
        except BaseException:
            await asyncio.to_thread(recorder.withdraw, self.record())
            raise
        recorded = False
        try:
            await asyncio.to_thread(recorder.begin, replace(self._whole_record(recorder), error_code="worker_died"))
            yield []
            while any(choice.done is None for choice in self.choices):
                parts = self._take(await outputs.take())
                if all(choice.done for choice in self.choices):
                    recorded = True
                    await asyncio.to_thread(recorder.end, self._whole_record(recorder))
                yield parts
        finally:
            for generation in generations:
                generation.cancelled.set()
            if not recorded:
                # The engine still reports what the cancelled answers cost. Shielded: this task may be cancelled too.
                await asyncio.shield(asyncio.ensure_future(self._drain(outputs, recorder)))

    async def _drain(self, outputs: OutputQueue, recorder: Recorder) -> None:
        while any(choice.done is None for choice in self.choices):
            self._take(await outputs.take())
        await asyncio.to_thread(recorder.end, self._whole_record(recorder))

    def _admit(self, recorder: Recorder) -> None:
        self.prompt_key = recorder.prompt_key(self.prompt)
        recorder.admit(self._whole_record(recorder), len(self.choices))

    def _generation(self, index: int, outputs: OutputQueue) -> Generation:
        sampling = self.sampling
        if sampling.seed is not None:  # n answers from one seed would be the same
            sampling = replace(sampling, seed=sampling.seed + index)
        return Generation(
            self.prompt_ids, self.max_tokens, sampling, self.stop,
            emit=lambda output: outputs.put(index, output), received_at=self.received_at, user=self.caller.user,
        )  # fmt: skip

    def _take(self, outputs: list[tuple[int, Output]]) -> list[TurnPart]:
        """Add the outputs to their choices; a part for each."""
        parts = []
        for index, output in outputs:
            choice = self.choices[index]
            choice.completion_tokens = output.completion_tokens
            logprobs = None if choice.logprobs is None else self._logprobs(output)
            if isinstance(output, Done):
                choice.done = output
                part = ChoicePart(index, finish_reason=output.finish_reason, logprobs=logprobs)
            else:
                choice.text += output.text
                part = ChoicePart(index, output.text, logprobs=logprobs)
            if choice.logprobs is not None:
                choice.logprobs += logprobs or ()
            parts.append(TurnPart(part, self.completion_tokens))
        return parts

    def _logprobs(self, output: Output) -> tuple[TokenLogprob, ...]:
        token = output.token if isinstance(output, Piece) else None
        if token is None or token.logprob is None:
            return ()
        likeliest = tuple(self._token(other, logprob) for other, logprob in token.likeliest)
        return (self._token(token.id, token.logprob, likeliest),)

    def _token(self, token_id: int, logprob: float, likeliest: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        written = token_bytes(self.engine.runtime.tokenizer, token_id)
        return TokenLogprob(written.decode(errors="replace"), tuple(written), logprob, likeliest)

    def _whole_record(self, recorder: Recorder) -> TurnRecord:
        """What this turn cost; with its text where text is logged."""
        text = TurnText(self.prompt, tuple(choice.text for choice in self.choices)) if recorder.log_text else None
        return replace(self.record(), text=text, prompt_key=self.prompt_key)

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
            cached_prompt_tokens=self.cached_prompt_tokens,
            duration_s=max((each.duration_s for each in done), default=time.perf_counter() - self.received_at),
            time_to_first_token_s=min(firsts, default=None),
            temperature=self.sampling.temperature,
            max_tokens=self.max_tokens,
            top_p=self.sampling.top_p,
            seed=self.sampling.seed,
            error_code=error_body(self.error)[1]["error"]["code"] if self.error else None,
        )


def turn_of(
    request: ChatRequest | CompletionRequest, caller: Caller, engine: Engine, wrapper: WrapperName, model_uri: str
) -> Turn:
    """The turn that a request asks for. Raises RequestInvalid or PromptTooLong."""
    runtime = engine.runtime
    # 1. What the two formats name differently.
    interface: Interface
    prompt: tuple[Message, ...] | str
    if isinstance(request, ChatRequest):
        interface, param, prompt = "openai", "messages", request.conversation()
        begun, logprobs = bool(request.continue_final_message), request.likeliest()
        wanted_tokens = request.max_completion_tokens or request.max_tokens
    else:
        interface, param, prompt = "raw", "prompt", request.raw_prompt()
        begun, logprobs, wanted_tokens = False, request.logprobs, request.max_tokens
    # 2. Room in the context and in the queue.
    prompt_ids = ids_of(prompt, runtime, begun=begun)
    if not prompt_ids:
        raise RequestInvalid("The prompt is empty.", "It has no tokens.", "Write a prompt.", param="prompt")
    room = runtime.context_tokens - len(prompt_ids)
    if room < 1:
        raise PromptTooLong(len(prompt_ids), runtime.context_tokens, param)
    count = request.n or 1
    if count > engine.max_queue:
        raise RequestInvalid(
            what="Too many answers at once.",
            why=f"n is {count}, and {engine.max_queue} answers may wait here.",
            next_step="Ask for fewer.",
            param="n",
        )
    # 3. The turn.
    sampling = Sampling(
        temperature=request.temperature or 0.0,
        top_p=request.top_p if request.top_p is not None else 1.0,
        seed=request.seed,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=_logit_bias(request.logit_bias or {}, runtime),
        logprobs=logprobs,
    )
    return Turn(
        engine=engine,
        prompt_ids=prompt_ids,
        max_tokens=min(wanted_tokens or DEFAULT_MAX_TOKENS, room),
        sampling=sampling,
        stop=tuple(request.stop or ()),
        caller=caller,
        interface=interface,
        wrapper=wrapper,
        model_uri=model_uri,
        prompt=prompt,
        choices=[ChoiceInProgress(logprobs=None if logprobs is None else []) for _ in range(count)],
    )


def _logit_bias(given: Mapping[str, float], runtime: Runtime) -> dict[int, float]:
    biases = {int(token): bias for token, bias in given.items()}
    vocabulary = runtime.tokenizer.get_vocab_size()
    if unknown := [token for token in biases if token >= vocabulary]:
        raise RequestInvalid(
            what="A token of logit_bias does not exist.",
            why=f"It is {unknown[0]}; ids go from 0 to {vocabulary - 1}.",
            next_step="Send ids that /tokenize gave.",
            param="logit_bias",
        )
    return biases
