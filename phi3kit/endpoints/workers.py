"""Workers: the worker processes of one app, one a logged model, started when needed.

Knows how many may be loaded and which URIs lead to which. Knows no process' insides (see worker_process). A worker belongs
to a logged model and not to the URI that was given: an alias that moved leads to the worker of its new model, and turns
are logged under models:/m-…, so that no chart mixes two models.
"""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

from phi3kit.access.actor import Actor
from phi3kit.core.errors import Busy
from phi3kit.core.processes import end, tell_to_end
from phi3kit.core.records import Endpoint
from phi3kit.core.settings import Settings
from phi3kit.endpoints.load_times import LoadTimes
from phi3kit.endpoints.worker_process import WorkerActivity, WorkerProcess, WorkerStatus
from phi3kit.tracking.logged_models import resolve
from phi3kit.tracking.model_uris import canonical


class WorkerPool:
    """The workers of one app. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[str, WorkerProcess] = {}  # by the logged model's own URI
        self._guard = threading.Lock()  # for the two dictionaries
        self._room = threading.Lock()  # with a limit of workers they start one after the other
        self._starting: dict[str, threading.Lock] = {}  # one a model, so that two models start side by side

    def endpoint(self, model_uri: str, on_wait: Callable[[str], None] = lambda what: None) -> Endpoint:
        """A ready worker for the model: the running one, or a new one in the place of one that died.

        model_uri: anything that MLflow resolves; an alias is followed with each call. on_wait: called with what is being
        waited for. Raises ModelNotFound, WorkerFailed, StorageFailed, or Busy when no more workers may be loaded.
        """
        given, model_uri = model_uri, canonical(model_uri, self._settings)
        with self._guard:
            starting = self._starting.setdefault(model_uri, threading.Lock())
        with starting:
            worker = self._running(model_uri)
            if worker is None:
                on_wait("Starting the worker")
                with self._room if self._settings.limits.workers else nullcontext():
                    self._make_room()
                    worker = self._start(model_uri)
            worker.used_at = time.monotonic()
            self._remember(given, worker)
            if not worker.ready:
                load_times = LoadTimes(self._settings.home)
                seconds = load_times.seconds(model_uri)
                on_wait(
                    "Loading the model" if seconds is None else f"Loading the model: about {max(1, round(seconds))} s"
                )
                if not worker.wait_until_ready():
                    self.stop(model_uri)
                    raise worker.not_started(timed_out=True)
                load_times.keep(model_uri, time.monotonic() - worker.began_at)
            return worker.endpoint

    def statuses(self) -> list[WorkerStatus]:
        """Every worker that was started, in the order of starting."""
        with self._guard:
            workers = list(self._workers.values())
        return [worker.status() for worker in workers]

    def activity(self, model_uri: str) -> WorkerActivity | None:
        """The own figures of the model's worker; None when none answers. model_uri: as statuses() names it."""
        worker = self._running(model_uri)
        return worker.activity() if worker and worker.ready else None

    def unload(self, model_uri: str, actor: Actor) -> None:
        """End the model's worker in somebody's name. Raises NotAllowed."""
        actor.require("serve")
        self.stop(model_uri)

    def stop(self, model_uri: str) -> None:
        """End the model's worker, if there is one. model_uri: as statuses() names it."""
        with self._guard:
            worker = self._workers.pop(model_uri, None)
        if worker:
            end(worker.process)

    def close(self) -> None:
        """End all workers."""
        with self._guard:
            workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            tell_to_end(worker.process)  # all are told first, then waited for
        for worker in workers:
            end(worker.process)

    def _make_room(self) -> None:
        """With a limit of workers: end the idle one that was unused longest. Raises Busy when all are answering."""
        if (most := self._settings.limits.workers) is None:
            return
        with self._guard:
            running = [each for each in self._workers.values() if each.alive]
        for worker in sorted(running, key=lambda each: each.used_at):
            if len(running) < most:
                return
            activity = self.activity(worker.model_uri)
            if activity is not None and not activity.active and not activity.waiting:
                self.stop(worker.model_uri)
                running.remove(worker)
        if len(running) >= most:
            raise Busy(waiting=0, retry_after_s=5)

    def _remember(self, given: str, worker: WorkerProcess) -> None:
        """An alias or a version leads to one worker: the last one."""
        if given == worker.model_uri:
            return
        with self._guard:
            for each in self._workers.values():
                each.given_uris = tuple(uri for uri in each.given_uris if uri != given)
            worker.given_uris += (given,)

    def _running(self, model_uri: str) -> WorkerProcess | None:
        with self._guard:
            worker = self._workers.get(model_uri)
        return worker if worker and worker.alive else None

    def _start(self, model_uri: str) -> WorkerProcess:
        worker = WorkerProcess(resolve(model_uri, self._settings), self._settings)
        with self._guard:
            died = self._workers.get(model_uri)
            self._workers[model_uri] = worker
        if died:
            worker.given_uris = died.given_uris
            end(died.process)  # closes its pipes
        return worker
