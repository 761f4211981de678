"""Engine: the one thread that owns the model, the queue in front of it, and the schedule.

Active answers advance together. In each round every answer that is being written gets one token, all in one step of the
model, and one prompt is read a slice further. So no caller waits for another's whole answer, and between two tokens of an
answer lies one slice at the most. An answer becomes active when there is memory for its prompt and max_tokens; users
take turns and have equal shares of the time, and one of several has half the places and half the memory at most: nobody waits
behind all that one asked for.
A panic in the tokenizer's Rust is a BaseException and no Exception: it ends its answer and not the thread.
Knows no HTTP.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from phi3kit.core.errors import (
    Busy,
    OutOfMemory,
    Phi3KitError,
    RequestInvalid,
    WorkerFailed,
    panicked,
    seconds_to_wait,
)
from phi3kit.core.machine import is_out_of_memory
from phi3kit.core.records import FinishReason
from phi3kit.worker.detokenizer import Detokenizer
from phi3kit.worker.kv_cache import KvCache, Slot
from phi3kit.worker.runtime import Logits, Runtime, TokenSequence, Work
from phi3kit.worker.sampling import SampledToken, Sampler, Sampling
from phi3kit.worker.time_shares import TimeShares

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]

_MAX_ACTIVE = 8  # more would only make each one slower
_BESIDE_OTHER_USERS = 2  # answers of one user in a round, so that many of one do not slow down those of another
_SAME_ROUNDS = 16  # in which they are the same: other ones must be brought together in memory first
_REMEMBERED = 8  # answers, whose mean tells how long one takes
_SOON_S = 2.0  # where nothing is known
_SLICE = 64  # tokens of a prompt that are computed in one step
_SLICE_BESIDE_OTHERS = 16  # shorter: answers that are being written wait for it


@dataclass(frozen=True)
class Piece:
    """New text of an answer, perhaps empty, and the tokens written so far: none while the prompt is scored."""

    text: str
    completion_tokens: int
    token: SampledToken | None = None  # None for text that was held back until the end
    is_end: bool = False  # the token ends the answer and writes nothing
    offset: int = 0  # characters of the answer that were decoded before the token


@dataclass(frozen=True)
class Done:
    """The end of an answer, and what it cost."""

    finish_reason: FinishReason
    completion_tokens: int  # every written id, the end token too
    cached_prompt_tokens: int  # of the prompt, found in memory
    time_to_first_token_s: float | None  # from the arrival of the request; None when no token was written
    duration_s: float
    error: Exception | None = None


Output = Piece | Done  # what a generation gives, in this order: pieces, then its end


@dataclass(eq=False)
class Generation:
    """One answer to be written. `cancelled` may be set from any thread."""

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    emit: Callable[[Output], None]  # called on the engine's thread
    cancelled: threading.Event = field(default_factory=threading.Event)
    received_at: float = field(default_factory=time.perf_counter)
    user: str = ""  # whose it is: users take turns, and their sequences in memory are kept apart
    scores_prompt: bool = False  # a piece comes for each token of the prompt, too; it is computed token by token
    goes_past_end: bool = False  # only max_tokens and stop strings end it


class Engine:
    """Loads the model and writes answers."""

    def __init__(
        self, load: Callable[[], tuple[Runtime, KvCache]], max_queue: int, *, several_users: bool = False
    ) -> None:
        """load: called on the engine's thread; raises Phi3KitError when there is no such model.

        several_users: whether one user leaves room for others also while there are none.
        """
        self._load, self._several_users = load, several_users
        self._waiting: deque[Generation] = deque()
        self._changed = threading.Condition()  # guards _waiting and _closing
        self._closing = False
        self._active: list[_ActiveAnswer] = []
        self._shares = TimeShares()
        self._rounds_shared = 0
        self._reader = ""  # the user whose prompt was read last
        self._usual_s: float | None = None  # how long answers took lately, from when they became active
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._loaded: tuple[Runtime, KvCache] | None = None
        self.max_queue = max_queue
        self.state: State = "loading"
        self.failure: Phi3KitError | None = None

    def start(self) -> None:
        """Begin to load the model; see `state`."""
        try:
            self._thread.start()
        except RuntimeError as error:
            self.failure, self.state = _not_loaded(error), "failed"

    def close(self) -> None:
        """Begin no more generations and drop the waiting ones; active ones end by their own cancelled flag."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    @property
    def runtime(self) -> Runtime:
        """The loaded model. Raises WorkerFailed while there is none."""
        return self._parts()[0]

    @property
    def cache(self) -> KvCache:
        """The sequences in memory. Raises WorkerFailed while there is no model."""
        return self._parts()[1]

    def _parts(self) -> tuple[Runtime, KvCache]:
        if self._loaded is None:
            raise self.failure or WorkerFailed(
                "The model is not ready.", "It is still being loaded.", "Try again in a few seconds."
            )
        return self._loaded

    @property
    def active(self) -> int:
        """Answers being written."""
        return len(self._active)

    @property
    def users(self) -> set[str]:
        """Whose answers are being written or wait."""
        return {answer.user for answer in list(self._active)} | {each.user for each in list(self._waiting)}

    @property
    def waiting(self) -> int:
        """Answers in the queue, not counting the active ones."""
        return len(self._waiting)

    def submit(self, *generations: Generation) -> None:
        """Queue generations that belong together, all or none.

        Raises Busy when there is no room for them, RequestInvalid when one could never have the memory it needs.
        """
        for generation in generations:
            tokens = len(generation.prompt_ids) + generation.max_tokens
            if not self.cache.fits(tokens):
                raise RequestInvalid(
                    what="The request needs too much memory.",
                    why=f"Prompt and answer are {tokens:,} tokens at most, and PHI3KIT_KV_BUDGET_MB allows fewer.",
                    next_step="Lower max_tokens, shorten the prompt, or raise PHI3KIT_KV_BUDGET_MB.",
                    param="max_tokens",
                    code="kv_budget_exceeded",
                )
        with self._changed:
            if self.failure:
                raise self.failure
            before = len(self._waiting)
            if (too_many := before + len(generations) - self.max_queue) > 0:
                raise Busy(waiting=before, retry_after_s=seconds_to_wait(self._begun_in_s(too_many)))
            self._waiting.extend(generations)
            self._changed.notify()

    def place_of(self, generation: Generation) -> int:
        """Its place in the queue, from 1; 0 when it has begun, or begins at once."""
        with self._changed:
            if generation not in self._waiting:
                return 0
            place = self._waiting.index(generation) + 1
            return place if self._active or place > 1 else 0

    def _begun_in_s(self, places: int) -> float:
        """About how long until so many of those that wait have begun, by what is under way."""
        left = sorted(answer.left_s(self._usual_s) for answer in list(self._active))
        if not left:
            return _SOON_S
        rounds, last = divmod(places - 1, len(left))
        return left[last] + rounds * (self._usual_s or left[-1])

    def _work(self) -> None:
        try:
            runtime, cache = self._loaded = self._load()
        except Phi3KitError as error:
            self.failure, self.state = error, "failed"
            return
        except BaseException as error:  # a thread that ended silently would leave the worker loading for ever
            log.exception("the model was not loaded")
            self.failure, self.state = _not_loaded(error), "failed"
            return
        self.state = "ready"
        try:
            while self._wait_for_work():
                if not self._closing:
                    self._admit(runtime, cache)
                self._round(runtime, cache)
        except BaseException as bug:  # a thread that ended silently would leave callers waiting
            log.exception("the engine ended")
            with self._changed:
                self.failure = failure = _broken(bug)
            for answer in self._active:
                answer.fail(failure)
                answer.end()
            self._active.clear()
        finally:
            self.state = "failed"  # no thread, no answers: also when it was closed
        for generation in self._waiting:
            generation.emit(_unwritten(generation, "error" if self.failure else "cancelled", self.failure))

    def _round(self, runtime: Runtime, cache: KvCache) -> None:
        for answer in [answer for answer in self._active if answer.cancelled]:
            self._end(answer, cache, cancelled=True)
        able = self._shares.able(
            {answer.user for answer in self._active}, [answer.user for answer in self._active if not answer.reading]
        )
        writing = self._shared([answer for answer in self._active if not answer.reading and answer.user in able])
        reading = [answer for answer in self._active if answer.reading and answer.user in able]
        began_at = time.perf_counter()
        for answer, result in zip(writing, _computed(runtime, [answer.token for answer in writing]), strict=True):
            if not answer.take(result):
                self._end(answer, cache)
        read_at = time.perf_counter()
        if writing:
            self._shares.charge(Counter(answer.user for answer in writing), read_at - began_at)
        if reading:
            answer = next((answer for answer in reading if answer.user != self._reader), reading[0])
            self._reader = answer.user
            answer.cached += cache.extend(answer.slot, answer.prompt_ids)  # others may have read the same text since
            (result,) = _computed(runtime, [answer.slice(_SLICE_BESIDE_OTHERS if writing else _SLICE)])
            if not answer.take(result):
                self._end(answer, cache)
            elif answer.reading:  # round robin: the next prompt comes first
                self._active.remove(answer)
                self._active.append(answer)
            self._shares.charge_one(answer.user, time.perf_counter() - read_at)

    def _shared(self, writing: "list[_ActiveAnswer]") -> "list[_ActiveAnswer]":
        """The answers that get a token in this round: all of one user's; of several users' a few of each."""
        if len({answer.user for answer in self._active}) <= 1:
            return writing
        left = Counter({answer.user: _BESIDE_OTHER_USERS for answer in writing})
        chosen = []
        self._rounds_shared += 1
        for answer in writing:
            if left[answer.user]:
                left[answer.user] -= 1
                chosen.append(answer)
        if self._rounds_shared % _SAME_ROUNDS == 0:
            for answer in chosen:  # the user's others come first from now on
                self._active.remove(answer)
                self._active.append(answer)
        return chosen

    def _end(self, answer: "_ActiveAnswer", cache: KvCache, *, cancelled: bool = False) -> None:
        self._active.remove(answer)
        cache.release(answer.slot, keep=answer.error is None)
        answer.end(cancelled=cancelled)
        if not cancelled:
            usual_s = answer.age_s if self._usual_s is None else self._usual_s
            self._usual_s = usual_s + (answer.age_s - usual_s) / _REMEMBERED

    def _wait_for_work(self) -> bool:
        """Block until there is work; False once there will be none."""
        with self._changed:
            while not (self._active or self._waiting or self._closing):
                self._changed.wait()
            return bool(self._active) or not self._closing

    def _admit(self, runtime: Runtime, cache: KvCache) -> None:
        """Make waiting generations active while there is memory."""
        self._drop_cancelled()
        while self._waiting and len(self._active) < _MAX_ACTIVE:
            generation, slot = self._next(cache), None
            if generation is None:
                return
            try:
                slot = cache.acquire(
                    generation.prompt_ids, generation.max_tokens, generation.user, reuse=not generation.scores_prompt
                )
                if slot is None:
                    return
                answer = _ActiveAnswer(generation, slot, runtime)
            except BaseException as error:  # there was less memory than was counted, or a tokenizer that cannot decode
                log.exception("an answer did not begin")
                if slot is not None:
                    cache.release(slot, keep=False)
                self._take(generation)
                generation.emit(_unwritten(generation, "error", _named(error)))
                continue
            self._take(generation)
            self._active.append(answer)

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled = [generation for generation in self._waiting if generation.cancelled.is_set()]
            for generation in cancelled:
                self._waiting.remove(generation)
        for generation in cancelled:
            generation.emit(_unwritten(generation, "cancelled"))

    def _next(self, cache: KvCache) -> Generation | None:
        """The waiting generation of the user who has fewest answers being written; of equals the one that came first.

        None while all that waits is of users who have their share.
        """
        active = Counter(answer.user for answer in self._active)
        with self._changed:
            shared = self._several_users or len(active | Counter(each.user for each in self._waiting)) > 1
            able = [each for each in self._waiting if not shared or _in_share(each, active[each.user], cache)]
            return min(able, key=lambda generation: active[generation.user], default=None)

    def _take(self, generation: Generation) -> None:
        with self._changed:
            self._waiting.remove(generation)


def _in_share(generation: Generation, active: int, cache: KvCache) -> bool:
    tokens = len(generation.prompt_ids) + generation.max_tokens
    return active < _MAX_ACTIVE // 2 and cache.leaves_room(tokens, generation.user)


def _unwritten(generation: Generation, finish_reason: FinishReason, error: Exception | None = None) -> Done:
    """The end of a generation that never became active."""
    return Done(finish_reason, 0, 0, None, time.perf_counter() - generation.received_at, error)


def _not_loaded(error: BaseException) -> WorkerFailed:
    kind = OutOfMemory if is_out_of_memory(error) else WorkerFailed
    return kind("The model could not be loaded.", f"{type(error).__name__}: {error}.", "Check the worker's log.")


def _broken(bug: BaseException) -> WorkerFailed:
    return WorkerFailed("The worker failed.", f"{type(bug).__name__}: {bug}.", "Send the request again.")


def _named(error: BaseException) -> Exception:
    """The error that callers see: OutOfMemory where that was the cause, WorkerFailed for a panic, else the error itself."""
    if not isinstance(error, Exception):
        return panicked(error)
    if not is_out_of_memory(error):
        return error
    named = OutOfMemory(
        what="The worker ran out of memory.",
        why="There was too little for this answer; others continue.",
        next_step="Ask for fewer tokens, unload other models, or lower PHI3KIT_KV_BUDGET_MB.",
    )
    named.__cause__ = error
    return named


def _computed(runtime: Runtime, work: Work) -> list[Logits | Exception]:
    """The results of a step; where it fails as a whole, its error for each sequence."""
    try:
        return runtime.step(work) if work else []
    except BaseException as error:  # the runtimes raise many kinds; the callers see it and the worker goes on
        return [_named(error)] * len(work)


class _ActiveAnswer:
    """One answer that is being written. `error`: why it broke off."""

    def __init__(self, generation: Generation, slot: Slot, runtime: Runtime) -> None:
        self.slot = slot
        self.error: Exception | None = None
        self._generation = generation
        self._end_ids = frozenset[int]() if generation.goes_past_end else runtime.end_ids
        self._sampler = Sampler(generation.sampling)
        self._text = Detokenizer(runtime.tokenizer, generation.stop, generation.prompt_ids)
        self.cached = len(slot.sequence.ids)  # prompt tokens found in memory
        self._written = 0
        self._last: int | None = None  # the last token: written, and not computed yet
        self._given: deque[int] = deque()  # tokens of a scored prompt, which are taken as if they were written
        if generation.scores_prompt:
            self._last, *given = generation.prompt_ids
            self._given.extend(given)
            generation.emit(Piece("", 0, SampledToken(self._last)))
        self._began_at = time.perf_counter()
        self._first_at: float | None = None
        self._finish_reason: FinishReason = "length"

    @property
    def reading(self) -> bool:
        """Whether its prompt is still being read."""
        return self._last is None

    @property
    def cancelled(self) -> bool:
        """Whether its caller has gone."""
        return self._generation.cancelled.is_set()

    @property
    def user(self) -> str:
        """Whose it is."""
        return self._generation.user

    @property
    def age_s(self) -> float:
        """Since when it is active."""
        return time.perf_counter() - self._began_at

    def left_s(self, usual_s: float | None) -> float:
        """About how long until its end. usual_s: how long others took, where that is known."""
        age_s = self.age_s
        # Who takes longer than others, or has no others, has as much before them as behind them.
        left_s = max(age_s, _SOON_S) if usual_s is None or age_s >= usual_s else usual_s - age_s
        written = self._written
        return min(left_s, age_s / written * (self._generation.max_tokens - written)) if written else left_s

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The prompt."""
        return self._generation.prompt_ids

    @property
    def token(self) -> tuple[TokenSequence, Sequence[int]]:
        """The work of its next step while it is written: its last token."""
        assert self._last is not None
        return self.slot.sequence, (self._last,)

    def slice(self, tokens: int) -> tuple[TokenSequence, Sequence[int]]:
        """The work of its next step while its prompt is read."""
        begin = len(self.slot.sequence.ids)
        return self.slot.sequence, self.prompt_ids[begin : begin + tokens]

    def take(self, result: Logits | Exception) -> bool:
        """Take the result of its step; False when the answer has ended."""
        try:
            if isinstance(result, Exception):
                raise result
            if self._given:
                return self._score(result)
            if len(self.slot.sequence.ids) < len(self.prompt_ids):
                return True
            return self._generation.max_tokens > 0 and self._write(self._sampler.choose(result))
        except BaseException as error:  # sampling and detokenizing can fail too, and end only this answer
            log.exception("an answer broke off")
            self.fail(_named(error))
            return False

    def fail(self, error: Exception) -> None:
        """Note why it breaks off."""
        self.error, self._finish_reason = error, "error"

    def end(self, *, cancelled: bool = False) -> None:
        """Emit its end."""
        generation = self._generation
        if cancelled:
            self._finish_reason = "cancelled"
        if self._finish_reason != "error":
            try:
                if rest := self._text.finish():
                    generation.emit(Piece(rest, self._written))
            except BaseException as error:  # the whole text is decoded once more
                log.exception("an answer has no end")
                self.fail(_named(error))
        generation.emit(
            Done(
                finish_reason=self._finish_reason,
                completion_tokens=self._written,
                cached_prompt_tokens=self.cached,
                time_to_first_token_s=self._first_at - generation.received_at if self._first_at else None,
                duration_s=time.perf_counter() - generation.received_at,
                error=self.error,
            )
        )

    def _score(self, result: Logits) -> bool:
        self._last = self._given.popleft()
        self._generation.emit(Piece("", 0, self._sampler.named(result, self._last)))
        return bool(self._given) or self._generation.max_tokens > 0

    def _write(self, token: SampledToken) -> bool:
        self._first_at = self._first_at or time.perf_counter()
        self._written += 1
        self._last = token.id
        ended, offset = token.id in self._end_ids, self._text.length
        piece = "" if ended else self._text.push(token.id)
        if ended or self._text.stopped:
            self._finish_reason = "stop"
        self._generation.emit(Piece(piece, self._written, token, ended, offset))
        return not (ended or self._text.stopped) and self._written < self._generation.max_tokens
