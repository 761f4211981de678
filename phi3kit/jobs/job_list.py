"""Job list: the jobs of one kind, seen from outside: start one, look at all, end one.

Knows child processes. Knows neither the files of a job (see job_folder) nor what a kind of work reports.
"""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from phi3kit.access.actor import Actor
from phi3kit.core.child_environment import child_environment
from phi3kit.core.data_folder import writing
from phi3kit.core.errors import LimitReached
from phi3kit.core.settings import Settings
from phi3kit.jobs.job_folder import (
    JOB_VARIABLE,
    Job,
    JobKind,
    JobRequest,
    JobState,
    alive,
    began_at,
    end_of,
    end_process,
    last_event,
    read_lines,
    say_cancelled,
    say_stopped_by,
    write_owner,
)

AnyJob = TypeVar("AnyJob", bound=Job)

_LOOK_S = 0.02
_PERSONS = 3  # one person has this part of the places, and one place at least


@dataclass(frozen=True)
class AnothersJob:
    """What everybody may know of another person's job: that it is under way."""

    state: JobState
    seconds: float


class JobList(Generic[AnyJob]):
    """The jobs of one kind in one data folder. Safe to share between sessions."""

    def __init__(self, kind: JobKind, settings: Settings, read: Callable[[Path], AnyJob]) -> None:
        """read: gives a job as it stands now from its folder. A job whose files are damaged is left out."""
        self._kind, self._settings, self._read_folder = kind, settings, read
        self._started: list[tuple[Path, subprocess.Popen[bytes]]] = []  # by this process; read while others add
        self._places = threading.Lock()  # two that look for the last place at once would both find it

    def all(self) -> list[AnyJob]:
        """Every job that is known, newest first. For the kit alone: a page draws what `seen_by` gives."""
        self._reap()
        return [job for folder in reversed(self._kind.folders(self._settings)) if (job := self._read(folder))]

    def seen_by(self, actor: Actor) -> list[AnyJob]:
        """The jobs whose request, error and log a person may see, newest first: their own, or an admin's everybody's."""
        return [job for job in self.all() if job.belongs_to(actor)]

    def anothers(self, actor: Actor) -> AnothersJob | None:
        """Of the jobs under way that a person may not see, the oldest."""
        hidden = [job for job in self.all() if job.active and not job.belongs_to(actor)]
        return AnothersJob(hidden[-1].state, hidden[-1].seconds) if hidden else None

    def latest(self, actor: Actor, asked_for: str | None = None) -> AnyJob | None:
        """The job that a page shows: of those under way the oldest, or the one that ended last.

        actor: who sees it, whose own jobs go before those of others. asked_for: the job that this tab asked for goes
        before all while it is under way, and afterwards before those of others.
        """
        jobs = self.seen_by(actor)
        under_way = [job for job in reversed(jobs) if job.active]
        here = [job for job in jobs if job.job_id == asked_for]
        own = [job for job in under_way if job.user == actor.name]
        return next(iter([*(job for job in here if job.active), *own, *here, *under_way, *jobs]), None)

    def last_event_at(self) -> float:
        """When a job last reported a step or its end, in seconds since the epoch; 0 without jobs. Reads no job."""
        return max((last_event(folder) for folder in self._kind.folders(self._settings)), default=0.0)

    def find(self, job_id: str, actor: Actor) -> AnyJob | None:
        """One job; None when it is not there, or not the actor's to see."""
        self._reap()
        job = next((self._read(each) for each in self._kind.folders(self._settings) if each.name == job_id), None)
        return job if job and job.belongs_to(actor) else None

    def launch(self, request_in: Callable[[Path], JobRequest], actor: Actor, options: Sequence[str] = ()) -> AnyJob:
        """Start a request's command as a job; it waits for those before it. Raises LimitReached or StorageFailed.

        request_in: gives the request from the job's folder, into which it may put files. actor: who asks for it.
        options: more arguments of the command.
        """
        with self._places:
            self._check_places(actor)
            return self._launch(request_in, actor, options)

    def _check_places(self, actor: Actor) -> None:
        """Each waiting job is a live process already. Raises LimitReached."""
        if (most := self._settings.limits.waiting_jobs) is None:
            return
        under_way = [job.user for job in self.all() if job.active]
        own, share = under_way.count(actor.name), max(1, most // _PERSONS)
        if len(under_way) >= most:
            why = f"{len(under_way)} {self._kind.name} are running or queued; the limit is {most}."
            next_step = "Try again when one has finished."
        elif own >= share:
            why = f"{own} of your {self._kind.name} are running or queued; the limit per user is {share}."
            next_step = "Try again when one of them has finished, or stop one."
        else:
            return
        raise LimitReached(f"The {self._kind.word} cannot start.", why, next_step, retry_after_s=60)

    def _launch(self, request_in: Callable[[Path], JobRequest], actor: Actor, options: Sequence[str]) -> AnyJob:
        with writing(self._settings.home):
            folder = self._kind.new_folder(self._settings)
            try:
                request = request_in(folder)
            except BaseException:  # a folder without a job would never make room
                shutil.rmtree(folder, ignore_errors=True)
                raise
            with (folder / "log.txt").open("wb") as log_file:
                process = subprocess.Popen(  # noqa: S603 -- a list of our own making
                    [sys.executable, "-m", "phi3kit", *request.command(), *options],
                    env=child_environment(self._settings) | actor.environment() | {JOB_VARIABLE: folder.name},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # it writes its events to the job's own file
                    stderr=log_file,
                    start_new_session=True,  # a closed terminal does not end it, and it ends with its children
                )
            write_owner(folder, request, process.pid, actor.name)
            self._started.append((folder, process))
            # Otherwise the ended child stays in the process table until a page asks for the jobs.
            threading.Thread(target=process.wait, name="job-end", daemon=True).start()
        job = self._read(folder)
        assert job is not None
        return job

    def cancel(self, job: AnyJob, actor: Actor) -> None:
        """End a job and wait until it has said so, or is gone. Raises NotAllowed when it is somebody else's.

        A process that has said its end still puts its worker and itself away for a moment; a thread sees that it does.
        actor: who asks.
        """
        if not job.belongs_to(actor):
            actor.require("administer")
        if alive(job.folder):
            say_stopped_by(job.folder, actor.name)
        self._cancel(job.folder, job.began_at)

    def close(self) -> None:
        """End what this process started."""
        for folder, _ in self._started:
            if alive(folder):
                self._cancel(folder, began_at(folder))
        for _, process in self._started:
            process.wait()

    def _cancel(self, folder: Path, began: float) -> None:
        ending: Future[None] = Future()
        threading.Thread(target=self._end, args=(folder, began, ending), name="ending", daemon=True).start()
        while not ending.done() and end_of(read_lines(folder)) is None:
            wait([ending], _LOOK_S)
        if ending.done():
            ending.result()
        self._reap()

    def _end(self, folder: Path, began: float, ending: "Future[None]") -> None:
        try:
            if end_process(folder):
                with writing(self._settings.home):
                    say_cancelled(folder, time.time() - began)
        except BaseException as error:
            ending.set_exception(error)
        else:
            ending.set_result(None)

    def _reap(self) -> None:
        """Collect the ended children, which would look alive otherwise."""
        for _, process in self._started:
            process.poll()

    def _read(self, folder: Path) -> AnyJob | None:
        """None when its files are damaged, or were removed a moment ago."""
        try:
            return self._read_folder(folder)
        except (OSError, ValueError, KeyError, TypeError):
            return None
