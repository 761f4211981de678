"""Progress on a terminal, and commands that answer rows as a job that others can watch.

Knows jobs, stdout and stderr. Knows no command.
"""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from phi3kit.access.actor import Actor, process_actor
from phi3kit.cli.ending import Ending
from phi3kit.core.settings import Settings

if TYPE_CHECKING:
    from phi3kit.batch.events import BatchSummary, ReportRows, RowProgress
    from phi3kit.evaluation.results import Evaluation
    from phi3kit.jobs.job_folder import JobKind, JobRequest

_EVERY_S = 2.0  # lines on a terminal


RequestT = TypeVar("RequestT", bound="JobRequest")
ResultT = TypeVar("ResultT", "BatchSummary", "Evaluation")


class TerminalProgress:
    """Prints how far a command is, a line every two seconds at most."""

    def __init__(self) -> None:
        self._shown_at = 0.0

    def show(self, line: str) -> None:
        """Print the line, unless another one was printed a moment ago."""
        now = time.monotonic()
        if now - self._shown_at >= _EVERY_S:
            self._shown_at = now
            print(line, file=sys.stderr, flush=True)


def run_rows(
    kind: "JobKind",
    request: RequestT,
    settings: Settings,
    work: "Callable[[RequestT, Actor, Settings, ReportRows], ResultT]",
    stopped: "Callable[[RowProgress], str] | None" = None,
) -> ResultT:
    """Do the work as a job. Progress goes to stderr and the job's files, the result to the job's files.

    stopped: makes the last line, from the progress, when a signal ends the work.
    """
    from phi3kit.jobs.job_folder import run_as_job

    Ending()
    actor, terminal = process_actor(settings), TerminalProgress()
    last: RowProgress | None = None
    try:
        with run_as_job(kind, request, actor, settings) as job:

            def report(progress: "RowProgress") -> None:
                nonlocal last
                last = progress
                job.progress(vars(progress))
                terminal.show(progress.in_words())

            job.wait()
            result = work(request, actor, settings, report)
            job.line(result.as_json())
    except (KeyboardInterrupt, SystemExit):
        if last and stopped:
            print(stopped(last), file=sys.stderr)
        raise
    return result
