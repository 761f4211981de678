"""Workers: start one process a logged model when it is needed, watch it, stop it.

Knows processes, ports and keys. What a worker answers, the client knows. A worker belongs to a logged model and not to
the name it was asked by: an alias that moved gets the worker of the model it points to now, and turns are logged under
the model itself (models:/m-…), so that no chart mixes two models. A worker that hangs is ended: who waits for it hears of
it, and the next question gets a new one.
"""

import hashlib
import json
import logging
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from phi3kit.access.actor import Actor
from phi3kit.core.child_environment import worker_environment
from phi3kit.core.data_folder import writing
from phi3kit.core.errors import Busy, ModelNotFound, WorkerFailed
from phi3kit.core.operating_system import was_killed
from phi3kit.core.processes import end, log_tail, tell_to_end
from phi3kit.core.records import Endpoint, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.tracking.logged_models import resolve
from phi3kit.tracking.model_uris import canonical

log = logging.getLogger(__name__)

WorkerState = Literal["starting", "ready", "stopped"]

_LOG_LINES_IN_ERROR = 3
_LOOK_S = 2.0  # a page waits so long for a worker's own figures
_WATCH_EVERY_S = 2.0
_SILENCE_S = 5.0  # whatever it computes, a worker says within 0.1 s how it is
_SILENT_LOOKS = 2  # the first may fail because the app itself, or the whole machine, stood still
_IDLE_CPU_S = 0.05  # who computes more meanwhile is busy: a library that holds Python's lock lets nobody speak
_ENDING_S = 2.0  # a killed process' connections close a moment before it is gone


@dataclass(frozen=True)
class WorkerStatus:
    """What the pages show of a worker."""

    model_uri: str  # the logged model's own
    wrapper: WrapperName
    state: WorkerState
    pid: int
    memory_bytes: int | None  # resident set; None when the process is gone
    log_file: Path
    started_at: float  # seconds since the epoch
    given_uris: tuple[str, ...]  # the URIs that led to it: aliases, versions


@dataclass(frozen=True)
class WorkerActivity:
    """What a ready worker says of itself."""

    turns: int  # since it started
    prompt_tokens: int
    completion_tokens: int
    active: int  # answers being written now
    waiting: int
    kv_reserved_bytes: int
    kv_budget_bytes: int
    threads: int


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    endpoint: Endpoint
    wrapper: WrapperName
    log_file: Path
    started_at: float
    given_uris: tuple[str, ...] = ()
    ready: bool = False
    used_at: float = 0.0  # monotonic
    hung: bool = False


class WorkerPool:
    """The workers of one app. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[str, _Worker] = {}
        self._guard = threading.Lock()  # for the two dictionaries
        self._room = threading.Lock()  # where only so many may be loaded, they start one after the other
        self._starting: dict[str, threading.Lock] = {}  # one a model, so that two models start side by side

    def endpoint(self, model_uri: str, on_wait: Callable[[str], None] = lambda what: None) -> Endpoint:
        """A ready worker for the model: the running one, or a new one in the place of one that died.

        model_uri: anything that MLflow resolves; an alias is followed with each call.
        on_wait is called with what is being waited for. Raises ModelNotFound, WorkerFailed, StorageFailed, or Busy when no more workers may be loaded.
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
                on_wait("Loading the model")
                self._wait_until_ready(worker)
            return worker.endpoint

    def statuses(self) -> list[WorkerStatus]:
        """Every worker that was started, in the order of starting."""
        with self._guard:
            workers = list(self._workers.values())
        return [_status(worker) for worker in workers]

    def activity(self, model_uri: str) -> WorkerActivity | None:
        """What the model's worker counts, as it says itself; None when there is none that answers.

        model_uri: as statuses() names it.
        """
        worker = self._running(model_uri)
        if worker is None or not worker.ready:
            return None
        headers = {"Authorization": f"Bearer {worker.endpoint.api_key}"}
        try:
            with httpx2.Client(base_url=worker.endpoint.base_url, headers=headers, timeout=_LOOK_S) as client:
                return _activity(client.get("/health").json(), client.get("/metrics").text)
        except (httpx2.HTTPError, ValueError, KeyError):  # it ends at this moment, or is too busy to say
            return None

    def unload(self, model_uri: str, actor: Actor) -> None:
        """End the model's worker because somebody asks for it. Raises NotAllowed."""
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
        """Where only so many workers may be loaded, end the one that was unused longest. Raises Busy when all answer."""
        if (most := self._settings.limits.workers) is None:
            return
        with self._guard:
            running = [each for each in self._workers.values() if each.process.poll() is None]
        for worker in sorted(running, key=lambda each: each.used_at):
            if len(running) < most:
                return
            at_work = self.activity(worker.endpoint.model_uri)
            if at_work is not None and not at_work.active and not at_work.waiting:
                self.stop(worker.endpoint.model_uri)
                running.remove(worker)
        if len(running) >= most:
            raise Busy(waiting=0, retry_after_s=5)

    def _remember(self, given: str, worker: _Worker) -> None:
        """An alias or a version leads to one worker: the one that it led to last."""
        if given == worker.endpoint.model_uri:
            return
        with self._guard:
            for each in self._workers.values():
                each.given_uris = tuple(uri for uri in each.given_uris if uri != given)
            worker.given_uris += (given,)

    def _running(self, model_uri: str) -> _Worker | None:
        with self._guard:
            worker = self._workers.get(model_uri)
        return worker if worker and worker.process.poll() is None else None

    def _start(self, model_uri: str) -> _Worker:
        model = resolve(model_uri, self._settings)
        logs = self._settings.home / "logs"
        log_file = logs / f"worker-{model.wrapper}-{hashlib.sha256(model_uri.encode()).hexdigest()[:10]}.log"
        with writing(self._settings.home):
            logs.mkdir(parents=True, exist_ok=True)
            printed = log_file.open("a", encoding="utf-8")
        key = secrets.token_urlsafe(24)
        command = [sys.executable, "-m", "phi3kit.worker", str(model.folder), "--wrapper", model.wrapper]
        command += ["--model-uri", model_uri, "--managed"]
        environment = worker_environment(self._settings) | {"PHI3KIT_API_KEY": key}
        with printed:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, text=True
            )
        began, patience_s = time.monotonic(), self._settings.start_seconds
        first_line = _first_line(process, patience_s)
        if not first_line:
            took_s = time.monotonic() - began
            end(process)  # closes its pipes
            how = f"it was not ready after {patience_s} s" if took_s >= patience_s else _exit(process)
            raise _did_not_start(model_uri, log_file, how)
        port = json.loads(first_line)["port"]
        endpoint = Endpoint(
            f"http://127.0.0.1:{port}", key, model_uri, model.wrapper, why_gone=lambda: _why_gone(worker)
        )
        worker = _Worker(process, endpoint, model.wrapper, log_file, time.time())
        with self._guard:
            died = self._workers.get(model_uri)
            self._workers[model_uri] = worker
        if died:
            worker.given_uris = died.given_uris
            end(died.process)  # closes its pipes
        return worker

    def _wait_until_ready(self, worker: _Worker) -> None:
        patience_s = self._settings.start_seconds
        deadline = time.monotonic() + patience_s
        with httpx2.Client(base_url=worker.endpoint.base_url, timeout=5) as client:
            while not _has_loaded(worker, client):
                if worker.process.poll() is not None:
                    raise _did_not_start(worker.endpoint.model_uri, worker.log_file, _exit(worker.process))
                if time.monotonic() >= deadline:
                    self.stop(worker.endpoint.model_uri)
                    how = f"it was not ready after {patience_s} s"
                    raise _did_not_start(worker.endpoint.model_uri, worker.log_file, how)
                time.sleep(0.05)
        worker.ready = True
        threading.Thread(target=_watch, args=(worker,), name="worker-watch", daemon=True).start()


def _has_loaded(worker: _Worker, client: httpx2.Client) -> bool:
    """Whether a worker has its model. Raises ModelNotFound or WorkerFailed when it could not load it."""
    try:
        answer = client.get("/health")
    except httpx2.HTTPError:  # not listening yet, or just gone
        return False
    if answer.status_code != 200 and "error" in (said := answer.json()):
        raise _could_not_load(worker, said)
    return answer.status_code == 200


def _first_line(process: subprocess.Popen[str], patience_s: float) -> str:
    """What a process prints first; nothing when it ends before. It is killed when it takes too long."""
    assert process.stdout is not None
    patience = threading.Timer(patience_s, process.kill)
    patience.start()
    try:
        return process.stdout.readline()
    finally:
        patience.cancel()


def _watch(worker: _Worker) -> None:
    """For as long as a worker lives: end it when it hangs, which also ends the waiting of those who asked it."""
    silent = 0
    with httpx2.Client(base_url=worker.endpoint.base_url, timeout=_SILENCE_S) as client:
        while silent < _SILENT_LOOKS:
            if not silent:
                time.sleep(_WATCH_EVERY_S)
            if worker.process.poll() is not None:
                return
            silent = silent + 1 if _is_silent(worker, client) else 0
    log.warning("the worker for %s hangs and is ended", worker.endpoint.model_uri)
    worker.hung = True
    worker.process.kill()


def _is_silent(worker: _Worker, client: httpx2.Client) -> bool:
    """Whether a worker neither says how it is nor computes."""
    before = _cpu_s(worker)
    with suppress(httpx2.TransportError):
        try:
            client.get("/health")
        except httpx2.TimeoutException:
            return _cpu_s(worker) - before < _IDLE_CPU_S
    return False


def _cpu_s(worker: _Worker) -> float:
    try:
        times = psutil.Process(worker.process.pid).cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


def _could_not_load(worker: _Worker, said: dict[str, Any]) -> ModelNotFound | WorkerFailed:
    what = f"The worker for {worker.endpoint.model_uri} could not load its model."
    if said["error_code"] == "model_not_found":
        return ModelNotFound(what, said["error"], "Build the model again on Build.")
    return WorkerFailed(what, said["error"], f"The whole log is {worker.log_file.name} in the data folder's logs.")


def _why_gone(worker: _Worker) -> str | None:
    """How a worker ended, in a sentence; None while it runs."""
    try:
        code = worker.process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        return None
    if worker.hung:
        return f"It hung: for {_SILENCE_S * _SILENT_LOOKS:.0f} s it neither answered nor computed, and was ended."
    if was_killed(code):
        return "Its process was killed, perhaps because memory ran out."
    return "It was ended." if code in (0, -signal.SIGTERM) else f"Its process ended with exit code {code}."


def _exit(process: subprocess.Popen[str]) -> str:
    killed = was_killed(process.returncode)
    return (
        "it was killed, perhaps because memory ran out" if killed else f"it ended with exit code {process.returncode}"
    )


def _did_not_start(model_uri: str, log_file: Path, how: str) -> WorkerFailed:
    tail = " ".join(log_tail(log_file, _LOG_LINES_IN_ERROR))
    return WorkerFailed(
        what=f"The worker for {model_uri} did not start:",
        why=f"{how}. {tail}".strip(),
        next_step=f"Try again; the whole log is {log_file.name} in the data folder's logs.",
    )


def _status(worker: _Worker) -> WorkerStatus:
    alive = worker.process.poll() is None
    memory: int | None = None
    if alive:
        try:
            memory = int(psutil.Process(worker.process.pid).memory_info().rss)
        except psutil.Error:  # it ended between the two looks
            alive = False
    state: WorkerState = "stopped" if not alive else "ready" if worker.ready else "starting"
    return WorkerStatus(
        worker.endpoint.model_uri,
        worker.wrapper,
        state,
        worker.process.pid,
        memory,
        worker.log_file,
        worker.started_at,
        worker.given_uris,
    )


def _activity(health: dict[str, Any], metrics: str) -> WorkerActivity:
    counted: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            counted[sample.name] = counted.get(sample.name, 0) + sample.value  # over all finish reasons
    return WorkerActivity(
        turns=int(counted.get("phi3kit_turns_total", 0)),
        prompt_tokens=int(counted.get("phi3kit_prompt_tokens_total", 0)),
        completion_tokens=int(counted.get("phi3kit_completion_tokens_total", 0)),
        active=int(health["active"]),
        waiting=int(health["waiting"]),
        kv_reserved_bytes=int(health["kv_cache"]["reserved_bytes"]),
        kv_budget_bytes=int(health["kv_cache"]["budget_bytes"]),
        threads=int(health["threads"]["count"]),
    )
