"""Events: the progress of a batch and its summary; JSON in a job's files.

Knows rows and the clock. Answers none.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

_REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class RowProgress:
    """The progress of a batch. Rates are of this run, without what earlier runs left."""

    done: int  # rows, those of earlier runs too
    total: int
    failed: int  # rows of this run with an error
    rows_per_s: float
    tokens_per_s: float  # completion tokens
    seconds_left: float | None  # None until a rate is known

    def in_words(self) -> str:
        """One line for a terminal."""
        words = f"{self.done:,} of {self.total:,} rows"
        if self.failed:
            words += f", {self.failed:,} failed"
        if self.rows_per_s:
            words += f", {self.rows_per_s:,.1f} rows/s, {self.tokens_per_s:,.0f} tokens/s"
        return words + (f", {self.seconds_left:,.0f} s left" if self.seconds_left is not None else "")


ReportRows = Callable[[RowProgress], None]


@dataclass(frozen=True)
class BatchSummary:
    """A finished batch; field names are the JSON keys of the CLI's line."""

    output: str
    rows: int
    computed: int  # in this run
    kept: int  # from earlier runs
    failed: int
    prompt_tokens: int  # of all rows
    completion_tokens: int
    seconds: float  # of this run
    tokens_per_s: float | None  # completion tokens of this run; None when nothing was computed

    def as_json(self) -> dict[str, Any]:
        """The keys and values of the CLI's line."""
        return asdict(self)


class Pace:
    """Counts rows and tokens of this run against the clock, and reports them at the beginning and twice a second."""

    def __init__(self, total: int, kept: int, report: ReportRows) -> None:
        self._total, self._kept, self._report = total, kept, report
        self._began = time.perf_counter()
        self.computed = self.failed = self.completion_tokens = 0
        self.report()

    def count(self, completion_tokens: int, is_error: bool) -> None:
        """One more row."""
        self.computed += 1
        self.failed += is_error
        self.completion_tokens += completion_tokens
        if time.perf_counter() - self._reported_at >= _REPORT_EVERY_S:
            self.report()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._began

    def report(self) -> None:
        """Report how far it is now."""
        self._reported_at = time.perf_counter()
        seconds = max(self.seconds, 1e-9)  # a coarse clock may not have moved yet
        rate = self.computed / seconds
        left = self._total - self._kept - self.computed
        progress = RowProgress(
            done=self._kept + self.computed,
            total=self._total,
            failed=self.failed,
            rows_per_s=rate,
            tokens_per_s=self.completion_tokens / seconds,
            seconds_left=left / rate if self.computed else None,
        )
        self._report(progress)
