"""Turns of a worker: from a checked request to pieces of text, the usage, and one record in the outbox.

Knows the engine and the recorder. Knows no HTTP routes.
"""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar, get_args
from urllib.parse import unquote

from phi3kit.core.errors import PromptTooLong, RequestInvalid
from phi3kit.core.records import FinishReason, Interface, Message, Origin, TurnRecord, TurnText, WrapperName
from phi3kit.formats.openai_schema import (
    DEFAULT_MAX_TOKENS,
    MAX_LOGPROBS,
    MAX_N,
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
from phi3kit.worker.tokenization import check_ids, decoded, encoded, ids_of, offsets_of, token_bytes

R = TypeVar("R")


class Compute(Protocol):
    """Where work is done that may take long."""

    async def __call__(self, work: Callable[[], R]) -> R: ...


async def at_once(work: Callable[[], R]) -> R:
    """On the event loop."""
    return work()


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
    def named(cls, user: str, turn_id: str | None = None) -> "Caller":
        """Somebody from outside. turn_id: ours; one from there would let many turns count as one."""
        return cls(turn_id or uuid.uuid4().hex, uuid.uuid4().hex, user[:_MAX_HEADER_TEXT] or "api", "api")

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], user: str | None, request_id: str | None = None) -> "Caller":
        """Whom the X-Phi3kit-* headers of the app name. user: the request's own `user` field.

        request_id: the turn's id where the headers have none.
        """

        def text(name: str) -> str:
            return headers.get(f"x-phi3kit-{name}", "")[:_MAX_HEADER_TEXT]

        turn_id, origin = text("turn-id"), text("origin")
        return cls(
            turn_id=turn_id if _TURN_ID.fullmatch(turn_id) else request_id or uuid.uuid4().hex,
            conversation_id=text("conversation-id") or uuid.uuid4().hex,
            user=unquote(text("user")) or (user or "")[:_MAX_HEADER_TEXT] or "api",
            origin=origin if origin in get_args(Origin) else "api",  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Prompt:
    """What one or several answers of a turn follow."""

    ids: Sequence[int]
    max_tokens: int  # of each answer
    echo: str | None = None  # its text, where it stands before each answer
    offsets: tuple[int, ...] = ()  # characters of the echo before each token, where these are named


@dataclass
class ChoiceInProgress:
    """One of the n answers to one of a turn's prompts, as it grows."""

    prompt: Prompt
    number: int  # among the answers to that prompt
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
    prompts: Sequence[Prompt]
    sampling: Sampling
    stop: tuple[str, ...]
    caller: Caller
    interface: Interface
    wrapper: WrapperName
    model_uri: str
    prompt: tuple[Message, ...] | str  # as it is logged: of several raw prompts their texts, a blank line between them
    choices: list[ChoiceInProgress]
    began_at: float = field(default_factory=time.time)
    received_at: float = field(default_factory=time.perf_counter)
    queue_place: int = 0  # in the engine's queue, from 1; 0: it has begun
    prompt_key: str | None = None
    goes_past_end: bool = False  # see Generation
    _taking: "asyncio.Future[list[TurnPart]] | None" = None  # outputs that are being made parts

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; one with several answers is read once."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def cached_prompt_tokens(self) -> int:
        """Prompt tokens that were found in memory, by the first answer to each: the others find what it has read."""
        firsts = [choice.done for choice in self.choices if choice.number == 0 and choice.done]
        return sum(done.cached_prompt_tokens for done in firsts)

    @property
    def error(self) -> Exception | None:
        """Why an answer broke off; None where none did."""
        return next((choice.done.error for choice in self.choices if choice.done and choice.done.error), None)

    async def parts(self, recorder: Recorder, compute: Compute = at_once) -> AsyncGenerator[list[TurnPart], None]:
        """The new parts each time, until every choice is done; the first list is empty and comes once the turn is queued.

        compute: where parts are made of what the engine writes.
        The turn's record reaches `recorder` before the last parts are given. A reader that goes away cancels the
        generations; the turn is kept all the same.
        Raises Busy, LimitReached, BudgetSpent or RequestInvalid before the first list.
        """
        # The recorder is called in threads: a slow or locked data folder must not hold up other turns, or /health.
        await asyncio.to_thread(self._admit, recorder)
        outputs = OutputQueue()
        generations = [self._generation(index, outputs) for index in range(len(self.choices))]
        try:
            self.engine.submit(*generations)
        except BaseException:
            await asyncio.to_thread(recorder.withdraw, self.record())
            raise
        recorded = False
        try:
            await asyncio.to_thread(recorder.begin, replace(self._whole_record(recorder), error_code="worker_died"))
            self.queue_place = self.engine.place_of(generations[0])
            yield []
            if echoes := [self._echo(index) for index, each in enumerate(self.choices) if each.prompt.echo]:
                yield echoes
            while any(choice.done is None for choice in self.choices):
                parts = await self._taken(await outputs.take(), compute)
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
        if self._taking:
            await asyncio.wait({self._taking})
        while any(choice.done is None for choice in self.choices):
            self._take(await outputs.take())
        await asyncio.to_thread(recorder.end, self._whole_record(recorder))

    def _admit(self, recorder: Recorder) -> None:
        self.prompt_key = recorder.prompt_key(self.prompt)
        recorder.admit(self._whole_record(recorder), len(self.choices))

    def _echo(self, index: int) -> TurnPart:
        return TurnPart(ChoicePart(index, self.choices[index].prompt.echo or ""), self.completion_tokens)

    def _generation(self, index: int, outputs: OutputQueue) -> Generation:
        sampling, choice = self.sampling, self.choices[index]
        if sampling.seed is not None:  # n answers from one seed would be the same
            sampling = replace(sampling, seed=sampling.seed + choice.number)
        return Generation(
            choice.prompt.ids, choice.prompt.max_tokens, sampling, self.stop,
            emit=lambda output: outputs.put(index, output), received_at=self.received_at, user=self.caller.user,
            scores_prompt=bool(choice.prompt.offsets), goes_past_end=self.goes_past_end,
        )  # fmt: skip

    async def _taken(self, outputs: list[tuple[int, Output]], compute: Compute) -> list[TurnPart]:
        # Shielded: cancelled, perhaps several times, it goes on in its thread, and `_drain` waits for it.
        self._taking = asyncio.ensure_future(compute(partial(self._take, outputs)))
        return await asyncio.shield(self._taking)

    def _take(self, outputs: list[tuple[int, Output]]) -> list[TurnPart]:
        """Add the outputs to their choices; a part for each."""
        parts = []
        for index, output in outputs:
            choice = self.choices[index]
            choice.completion_tokens = output.completion_tokens
            logprobs = None if choice.logprobs is None else self._logprobs(choice, output)
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

    def _logprobs(self, choice: ChoiceInProgress, output: Output) -> tuple[TokenLogprob, ...]:
        # The end token has no text. Behind an echo it is named too: who scores a prompt counts on one token more.
        if not isinstance(output, Piece) or output.token is None or (output.is_end and not choice.prompt.offsets):
            return ()
        token, prompt = output.token, choice.prompt
        likeliest = tuple(self._token(other, logprob) for other, logprob in token.likeliest)
        if output.completion_tokens == 0:
            offset = prompt.offsets[len(choice.logprobs or ())]
        else:
            offset = len(prompt.echo or "") + output.offset
        return (self._token(token.id, token.logprob, likeliest, offset),)

    def _token(
        self, token_id: int, logprob: float | None, likeliest: tuple[TokenLogprob, ...] = (), offset: int = 0
    ) -> TokenLogprob:
        written = token_bytes(self.engine.runtime.tokenizer, token_id)
        return TokenLogprob(written.decode(errors="replace"), tuple(written), logprob, likeliest, offset)

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
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_prompt_tokens=self.cached_prompt_tokens,
            duration_s=max((each.duration_s for each in done), default=time.perf_counter() - self.received_at),
            time_to_first_token_s=min(firsts, default=None),
            temperature=self.sampling.temperature,
            max_tokens=max(prompt.max_tokens for prompt in self.prompts),
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
        interface, prompt, logprobs = "openai", request.conversation(), request.likeliest()
        wanted_tokens = request.max_completion_tokens or request.max_tokens
        begun = bool(request.continue_final_message)
        prompts = [_prompt(ids_of(prompt, runtime, begun=begun), wanted_tokens, runtime, "messages")]
    else:
        interface, logprobs = "raw", request.logprobs
        prompts, texts = _raw_prompts(request, runtime)
        prompt = "\n\n".join(texts)
    # 2. Room in the queue.
    count = request.n or 1
    if count * len(prompts) > engine.max_queue:
        raise RequestInvalid(
            what="Too many answers at once.",
            why=f"You asked for {count * len(prompts)}; the limit here is {engine.max_queue}.",
            next_step="Ask for fewer.",
            param="n" if count > 1 else "prompt",
        )
    if len(prompts) * count * ((logprobs or 0) + 1) > MAX_N * (MAX_LOGPROBS + 1):
        raise RequestInvalid(
            "Too many log probabilities.", f"logprobs is {logprobs} for {len(prompts) * count} answers.",
            "Send fewer prompts, or ask for fewer.", param="logprobs",
        )  # fmt: skip
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
        prompts=prompts,
        sampling=sampling,
        stop=tuple(request.stop or ()),
        caller=caller,
        interface=interface,
        wrapper=wrapper,
        model_uri=model_uri,
        prompt=prompt,
        choices=[
            ChoiceInProgress(each, number, logprobs=None if logprobs is None else [])
            for each in prompts
            for number in range(count)
        ],
        goes_past_end=bool(request.ignore_eos),
    )


def _raw_prompts(request: CompletionRequest, runtime: Runtime) -> tuple[list[Prompt], list[str]]:
    """The prompts of a raw completion, and the text of each."""
    prompts, texts = [], []
    for index, given in enumerate(request.raw_prompts()):
        param = "prompt" if len(request.prompt) == 1 else f"prompt[{index}]"
        ids: Sequence[int]
        if isinstance(given, str):
            text, encoding = given, encoded(runtime.tokenizer, given)
            ids, offsets = encoding.ids, tuple(begin for begin, _ in encoding.offsets)
        else:
            check_ids(given, runtime, param)
            ids, text, offsets = given, decoded(runtime.tokenizer, given), ()
        prompt = _prompt(ids, request.max_tokens, runtime, param)
        if request.echo:
            prompt = replace(prompt, echo=text)
            if request.logprobs is not None:
                prompt = replace(prompt, offsets=offsets or offsets_of(runtime.tokenizer, ids))
        prompts.append(prompt)
        texts.append(text)
    return prompts, texts


def _prompt(ids: Sequence[int], wanted_tokens: int | None, runtime: Runtime, param: str) -> Prompt:
    """A prompt with as much room as there is. Raises RequestInvalid or PromptTooLong."""
    if not ids:
        raise RequestInvalid("The prompt is empty.", "It has no tokens.", "Write a prompt.", param=param)
    room = runtime.context_tokens - len(ids)
    wanted = DEFAULT_MAX_TOKENS if wanted_tokens is None else wanted_tokens
    if room < min(wanted, 1):
        raise PromptTooLong(len(ids), runtime.context_tokens, param)
    return Prompt(ids, min(wanted, room))


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
