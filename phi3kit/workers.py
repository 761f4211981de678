"""Workers: start one process a logged model when it is needed, watch it, stop it.

Knows processes, ports and keys. What a worker answers, the client knows.
"""

import hashlib
import json
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil

from phi3kit.errors import ModelNotFound, WorkerFailed
from phi3kit.logged_models import resolve
from phi3kit.records import Endpoint, Served
from phi3kit.settings import Settings, child_environment

WorkerState = Literal["starting", "ready", "stopped"]

_LOG_LINES_IN_ERROR = 3


@dataclass(frozen=True)
class WorkerStatus:
    """What the pages show of a worker."""

    model_uri: str
    wrapper: Served
    state: WorkerState
    pid: int
    memory_bytes: int | None  # resident set; None when the process is gone
    log_file: Path


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    endpoint: Endpoint
    log_file: Path
    ready: bool = False


class WorkerPool:
    """The workers of one app. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[str, _Worker] = {}
        self._guard = threading.Lock()  # for the two dictionaries
        self._starting: dict[str, threading.Lock] = {}  # one a model, so that two models start side by side

    def endpoint(self, model_uri: str, on_wait: Callable[[str], None] = lambda what: None) -> Endpoint:
        """A ready worker for the model: the running one, or a new one in the place of one that died.

        on_wait is called with what is being waited for. Raises ModelNotFound or WorkerFailed.
        """
        with self._guard:
            starting = self._starting.setdefault(model_uri, threading.Lock())
        with starting:
            worker = self._running(model_uri)
            if worker is None:
                on_wait("Starting the worker")
                worker = self._start(model_uri)
            if not worker.ready:
                on_wait("Loading the model")
                self._wait_until_ready(worker)
            return worker.endpoint

    def statuses(self) -> list[WorkerStatus]:
        """Every worker that was started, in the order of starting."""
        with self._guard:
            workers = list(self._workers.values())
        return [_status(worker) for worker in workers]

    def stop(self, model_uri: str) -> None:
        """End the model's worker, if there is one."""
        with self._guard:
            worker = self._workers.pop(model_uri, None)
        if worker:
            _end(worker.process)

    def close(self) -> None:
        """End all workers."""
        with self._guard:
            workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            if worker.process.stdin:
                worker.process.stdin.close()  # all are told first, then waited for
        for worker in workers:
            _end(worker.process)

    def _running(self, model_uri: str) -> _Worker | None:
        with self._guard:
            worker = self._workers.get(model_uri)
        return worker if worker and worker.process.poll() is None else None

    def _start(self, model_uri: str) -> _Worker:
        model = resolve(model_uri, self._settings)
        logs = self._settings.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log_file = logs / f"worker-{model.wrapper}-{hashlib.sha256(model_uri.encode()).hexdigest()[:10]}.log"
        key = secrets.token_urlsafe(24)
        command = [sys.executable, "-m", "phi3kit.server", str(model.folder), "--wrapper", model.wrapper]
        command += ["--model-uri", model_uri, "--managed"]
        environment = child_environment(self._settings) | {"PHI3KIT_API_KEY": key}
        with log_file.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert process.stdout is not None
        first_line = process.stdout.readline()
        if not first_line:
            process.wait()
            raise _did_not_start(model_uri, log_file, f"it ended with exit code {process.returncode}")
        endpoint = Endpoint(f"http://127.0.0.1:{json.loads(first_line)['port']}", key, model_uri, model.wrapper)
        worker = _Worker(process, endpoint, log_file)
        with self._guard:
            died = self._workers.get(model_uri)
            self._workers[model_uri] = worker
        if died:
            _end(died.process)  # closes its pipes
        return worker

    def _wait_until_ready(self, worker: _Worker) -> None:
        deadline = time.monotonic() + self._settings.start_seconds
        url = f"{worker.endpoint.base_url}/health"
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(url, timeout=5)
                if answer.status_code == 200:
                    worker.ready = True
                    return
                if "error" in answer.json():
                    raise ModelNotFound(
                        f"The worker for {worker.endpoint.model_uri} could not load its model.",
                        answer.json()["error"],
                        "Build the model again on Build.",
                    )
            except httpx.HTTPError:
                pass  # not listening yet, or just gone: the next line tells which
            if worker.process.poll() is not None:
                raise _did_not_start(
                    worker.endpoint.model_uri, worker.log_file, f"it ended with exit code {worker.process.returncode}"
                )
            time.sleep(0.05)
        self.stop(worker.endpoint.model_uri)
        raise _did_not_start(
            worker.endpoint.model_uri, worker.log_file, f"it was not ready after {self._settings.start_seconds} s"
        )


def log_tail(log_file: Path, lines: int) -> list[str]:
    """The last lines of a worker's log."""
    try:
        with log_file.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, maxlen=lines)]
    except OSError:
        return []


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
        worker.endpoint.model_uri, worker.endpoint.wrapper, state, worker.process.pid, memory, worker.log_file
    )


def _end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
