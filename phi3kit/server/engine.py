"""Engine: the one thread that owns the model, and the queue in front of it.

Knows who is next, when an answer is over, and what it cost. Knows no HTTP.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phi3kit.errors import Busy, Phi3KitError, WorkerFailed
from phi3kit.records import FinishReason, WrapperName
from phi3kit.server.loading import load_runtime
from phi3kit.server.runtime import Runtime, Sampling
from phi3kit.server.text import AnswerText

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True)
class Piece:
    """A step of an answer: new text (perhaps none yet) and the tokens written so far."""

    text: str
    completion_tokens: int


@dataclass(frozen=True)
class Done:
    """The end of an answer, with what it cost."""

    finish_reason: FinishReason
    completion_tokens: int  # every written id, the end token too
    time_to_first_token_s: float | None  # from the moment the request came in; None when none was written
    duration_s: float
    error: Exception | None = None


Emit = Callable[[Piece | Done], None]


@dataclass
class Job:
    """One answer to be written. `cancelled` may be set from any thread."""

    prompt_ids: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...]
    emit: Emit  # called on the engine's thread
    cancelled: threading.Event = field(default_factory=threading.Event)
    received_at: float = field(default_factory=time.perf_counter)


class Engine:
    """Loads the model and writes one answer after the other."""

    def __init__(self, folder: Path, wrapper: WrapperName, max_queue: int) -> None:
        self._folder, self._wrapper = folder, wrapper
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._submitting = threading.Lock()
        self.max_queue = max_queue
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._runtime: Runtime | None = None
        self.state: State = "loading"
        self.failure: Phi3KitError | None = None
        self.active = 0

    def start(self) -> None:
        """Begin to load the model; `state` says how far it is."""
        self._thread.start()

    def close(self) -> None:
        """Take no more jobs; the one in progress ends by its own cancelled flag."""
        self._jobs.put(None)

    @property
    def runtime(self) -> Runtime:
        """The loaded model. Raises WorkerFailed while there is none."""
        if self._runtime is None:
            raise self.failure or WorkerFailed(
                "The model is not ready.", "It is still being loaded.", "Try again in a few seconds."
            )
        return self._runtime

    @property
    def waiting(self) -> int:
        """Jobs in the queue, not counting the active one."""
        return self._jobs.qsize()

    def submit(self, *jobs: Job) -> None:
        """Queue jobs that belong together, all or none. Raises Busy when there is no room for them."""
        with self._submitting:
            if self.waiting + len(jobs) > self.max_queue:
                raise Busy(waiting=self.waiting, retry_after_s=2)
            for job in jobs:
                self._jobs.put(job)

    def _work(self) -> None:
        try:
            self._runtime = load_runtime(self._folder, self._wrapper)
            self.state = "ready"
        except Phi3KitError as error:
            self.failure, self.state = error, "failed"
            return
        while (job := self._jobs.get()) is not None:
            self.active = 1
            try:
                self._answer(self._runtime, job)
            finally:
                self.active = 0

    def _answer(self, runtime: Runtime, job: Job) -> None:
        text = AnswerText(runtime.tokenizer, job.stop)
        written = 0
        first_at: float | None = None
        finish_reason: FinishReason = "length"

        def on_token(token_id: int) -> bool:
            nonlocal written, first_at, finish_reason
            if job.cancelled.is_set():  # this token was computed, and nobody reads it
                written += 1
                finish_reason = "cancelled"
                return False
            first_at = first_at or time.perf_counter()
            written += 1
            ended = token_id in runtime.end_ids
            piece = "" if ended else text.push(token_id)
            if ended or text.stopped:
                finish_reason = "stop"
            job.emit(Piece(piece, written))
            return not (ended or text.stopped) and written < job.max_tokens

        error: Exception | None = None
        if job.cancelled.is_set():
            finish_reason = "cancelled"
        else:
            try:
                runtime.generate(list(job.prompt_ids), job.max_tokens, job.sampling, on_token)
                if rest := text.finish():
                    job.emit(Piece(rest, written))
            except Exception as caught:  # the engines raise many kinds; the worker lives on and the caller is told
                error, finish_reason = caught, "error"
        job.emit(
            Done(
                finish_reason=finish_reason,
                completion_tokens=written,
                time_to_first_token_s=first_at - job.received_at if first_at else None,
                duration_s=time.perf_counter() - job.received_at,
                error=error,
            )
        )
