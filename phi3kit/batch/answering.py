"""Answering: rows through one worker, several at once; a broken worker is replaced.

Knows the client and the worker pool. Knows no files.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from openai import OpenAI

from phi3kit.access.actor import Actor
from phi3kit.batch.request import RowResult, SamplingParams, failed
from phi3kit.core.errors import BatchFailed, BudgetSpent, Busy, RequestInvalid, WorkerFailed
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import Settings
from phi3kit.endpoints.client import ask, connect
from phi3kit.endpoints.records import TurnContext
from phi3kit.endpoints.workers import WorkerPool

Prompt = tuple[Message, ...] | str

_ALONE = 2  # tries of a row alone, after its worker broke
_LONGEST_PAUSE_S = 5  # before a row is asked again of a worker whose queue is full
_BROKEN_IN_A_ROW = 3  # rows that break their worker one after the other: then the fault is not theirs


class Answering:
    """Asks one model's worker. `close` ends what it began."""

    def __init__(
        self,
        pool: WorkerPool,
        model_uri: str,
        sampling: SamplingParams,
        actor: Actor,
        settings: Settings,
        batch_id: str,
    ) -> None:
        """batch_id: the conversation id of every turn, so that a batch's turns are found together."""
        self._pool, self._model_uri, self._sampling = pool, model_uri, sampling
        self._actor, self._settings = actor, settings
        self._conversation_id = batch_id
        self._broken = 0  # rows in a row
        self._line: tuple[Endpoint, OpenAI] | None = None

    def answers(self, rows: Iterable[tuple[int, Prompt]], at_once: int) -> Iterator[RowResult]:
        """A result a row, as they come. Raises BatchFailed, ModelNotFound or WorkerFailed.

        A row that breaks the worker is asked again alone, by a new worker; if it breaks that too, it has failed.
        """
        coming = iter(rows)
        threads = ThreadPoolExecutor(at_once, thread_name_prefix="row")
        under_way: dict[Future[RowResult], tuple[int, Prompt]] = {}
        suspects: list[tuple[int, Prompt]] = []
        try:
            self._connect()
            while True:
                if not suspects:
                    for row, prompt in islice(coming, at_once - len(under_way)):
                        under_way[threads.submit(self._ask, row, prompt)] = (row, prompt)
                if not under_way:
                    if not suspects:
                        return
                    yield self._alone(*suspects.pop(0))
                    continue
                ended, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for each in ended:
                    row_and_prompt = under_way.pop(each)
                    try:
                        yield each.result()
                        self._broken = 0
                    except WorkerFailed:
                        suspects.append(row_and_prompt)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Close the connection; requests that are under way break off."""
        if self._line:
            self._line[1].close()
            self._line = None

    def _alone(self, row: int, prompt: Prompt) -> RowResult:
        """Ask a row whose worker broke, while nothing else is under way."""
        for attempt in range(1, _ALONE + 1):
            self._connect()
            try:
                result = self._ask(row, prompt)
            except WorkerFailed as error:
                if attempt == _ALONE:
                    self._broken += 1
                    if self._broken >= _BROKEN_IN_A_ROW:
                        raise BatchFailed(
                            f"The worker fails on every row: {error.what}",
                            error.why,
                            "Finished rows are kept. Check the worker's log, then start the same batch again.",
                        ) from error
                    return failed(row, error, final=False)
            else:
                self._broken = 0
                return result
        raise AssertionError("a row is asked at least once")

    def _ask(self, row: int, prompt: Prompt) -> RowResult:
        """Raises WorkerFailed, or BatchFailed when no other row can be asked either."""
        assert self._line is not None
        endpoint, connection = self._line
        context = TurnContext(self._actor, "batch", self._conversation_id)
        while True:
            try:
                answer = ask(endpoint, self._sampling.request(prompt), context, self._settings, connection)
            except BudgetSpent as error:
                raise BatchFailed(
                    error.what,
                    error.why,
                    "Finished rows are kept. Start the same batch again then, or raise the budget.",
                ) from error
            except Busy as error:
                time.sleep(min(error.retry_after_s, _LONGEST_PAUSE_S))  # an estimate: there may be a place before
            except RequestInvalid as error:
                return failed(row, error.why, final=True)  # the worker's own words, without the client's
            else:
                tokens = (answer.prompt_tokens, answer.completion_tokens)
                reason = answer.finish_reason or "error"
                return RowResult(row, answer.text, *tokens, reason, duration_s=answer.duration_s)

    def _connect(self) -> None:
        """A ready worker, the running one or a new one, and a connection to it."""
        endpoint = self._pool.endpoint(self._model_uri)
        if self._line is None or self._line[0] != endpoint:
            self.close()
            self._line = (endpoint, connect(endpoint))
