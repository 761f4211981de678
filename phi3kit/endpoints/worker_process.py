"""Worker process: start one for a logged model, wait until it has loaded, watch it, and say how it ended.

Knows its port, key and log. Knows no other workers and no answers. A process that hangs is ended, which also ends the
waiting of its callers.
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import psutil
from prometheus_client.parser import text_string_to_metric_families

from phi3kit.core.child_environment import worker_environment
from phi3kit.core.data_folder import writing
from phi3kit.core.errors import ModelNotFound, WorkerFailed
from phi3kit.core.operating_system import was_killed
from phi3kit.core.processes import end, killed_after, log_tail
from phi3kit.core.records import Endpoint, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.endpoints.outbound import loopback_client
from phi3kit.tracking.logged_models import ResolvedModel

log = logging.getLogger(__name__)

WorkerState = Literal["starting", "ready", "stopped"]

_LOG_LINES_IN_ERROR = 3
_LOOK_S = 2.0  # a page waits so long for a worker's own figures
_WATCH_EVERY_S = 2.0
_SILENCE_S = 5.0  # whatever it computes, a worker answers /health within 0.1 s
_SILENT_LOOKS = 2  # the first may fail because the app itself, or the whole machine, stood still
_IDLE_CPU_S = 0.05  # a silent process that computes more is busy: a library holds Python's lock
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


class WorkerProcess:
    """One `python -m phi3kit.worker` that serves this app alone."""

    def __init__(self, model: ResolvedModel, settings: Settings) -> None:
        """Start it, and wait until it has a port. Raises WorkerFailed, or StorageFailed without a log file."""
        self.model_uri, self.wrapper = model.model_uri, model.wrapper
        self.given_uris: tuple[str, ...] = ()
        self.used_at = 0.0  # monotonic
        self.ready = False
        self._hung = False
        self._patience_s = settings.start_seconds
        # 1. Its log.
        name = f"worker-{model.wrapper}-{hashlib.sha256(model.model_uri.encode()).hexdigest()[:10]}.log"
        self._log_file = settings.home / "logs" / name
        with writing(settings.home):
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            printed = self._log_file.open("a", encoding="utf-8")
        # 2. The process, with a key of its own.
        key = secrets.token_urlsafe(24)
        command = [sys.executable, "-m", "phi3kit.worker", str(model.folder), "--wrapper", model.wrapper]
        command += ["--model-uri", model.model_uri, "--managed"]
        environment = worker_environment(settings) | {"PHI3KIT_API_KEY": key}
        self._started_at, self.began_at = time.time(), time.monotonic()
        with printed:
            self.process = subprocess.Popen(  # noqa: S603 -- a list of our own making
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=printed, text=True
            )
        # 3. Its port, which it prints first.
        first_line = _first_line(self.process, self._patience_s)
        if not first_line:
            timed_out = time.monotonic() - self.began_at >= self._patience_s
            end(self.process)  # closes its pipes
            raise self.not_started(timed_out=timed_out)
        url = f"http://127.0.0.1:{json.loads(first_line)['port']}"
        self.endpoint = Endpoint(url, key, model.model_uri, model.wrapper, why_gone=self._why_gone)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def wait_until_ready(self) -> bool:
        """Wait until it has loaded its model; False when that takes too long. Raises ModelNotFound or WorkerFailed."""
        deadline = time.monotonic() + self._patience_s
        with loopback_client(self.endpoint.base_url, timeout_s=5) as client:
            while not self._has_loaded(client):
                if not self.alive:
                    raise self.not_started()
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
        self.ready = True
        threading.Thread(target=self._watch, name="worker-watch", daemon=True).start()
        return True

    def status(self) -> WorkerStatus:
        """How it is."""
        pid, memory = self.process.pid, None
        with suppress(psutil.Error):  # it has just ended
            memory = int(psutil.Process(pid).memory_info().rss) if self.alive else None
        state: WorkerState = "stopped" if memory is None else "ready" if self.ready else "starting"
        return WorkerStatus(
            self.model_uri, self.wrapper, state, pid, memory, self._log_file, self._started_at, self.given_uris
        )

    def activity(self) -> WorkerActivity | None:
        """Its own figures; None when it gives none."""
        headers = {"Authorization": f"Bearer {self.endpoint.api_key}"}
        try:
            with loopback_client(self.endpoint.base_url, _LOOK_S, headers) as client:
                return _activity(client.get("/health").json(), client.get("/metrics").text)
        except (httpx2.HTTPError, ValueError, KeyError):  # it is ending, or too busy to answer
            return None

    def _has_loaded(self, client: httpx2.Client) -> bool:
        try:
            answer = client.get("/health")
        except httpx2.HTTPError:  # not listening yet, or just gone
            return False
        if answer.status_code == 200:
            return True
        if "error" in (said := answer.json()):
            what = f"The worker for {self.model_uri} could not load its model."
            if said["error_code"] == "model_not_found":
                raise ModelNotFound(what, said["error"], "Build the model again on Build.")
            where = f"The full log is {self._log_file.name} in the data folder's logs."
            raise WorkerFailed(what, said["error"], where)
        return False

    def _watch(self) -> None:
        """For as long as it lives: end it when it hangs."""
        silent = 0
        with loopback_client(self.endpoint.base_url, _SILENCE_S) as client:
            while silent < _SILENT_LOOKS:
                if not silent:
                    time.sleep(_WATCH_EVERY_S)
                if not self.alive:
                    return
                silent = silent + 1 if self._is_silent(client) else 0
        log.warning("the worker for %s hangs and is ended", self.model_uri)
        self._hung = True
        self.process.kill()

    def _is_silent(self, client: httpx2.Client) -> bool:
        """Whether it neither answers nor computes."""
        before = _cpu_s(self.process)
        with suppress(httpx2.TransportError):
            try:
                client.get("/health")
            except httpx2.TimeoutException:
                return _cpu_s(self.process) - before < _IDLE_CPU_S
        return False

    def _why_gone(self) -> str | None:
        """How it ended, in a sentence; None while it runs."""
        try:
            code = self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            return None
        if self._hung:
            return f"It hung and was stopped: for {_SILENCE_S * _SILENT_LOOKS:.0f} s it neither answered nor computed."
        if was_killed(code):
            return "Its process was killed, perhaps because memory ran out."
        return "It was stopped." if code in (0, -signal.SIGTERM) else f"Its process ended with exit code {code}."

    def not_started(self, *, timed_out: bool = False) -> WorkerFailed:
        """The error for a start that failed, once it has ended."""
        how = f"it ended with exit code {self.process.returncode}"
        if timed_out:
            how = f"it was not ready after {self._patience_s} s"
        elif was_killed(self.process.returncode):
            how = "it was killed, perhaps because memory ran out"
        return WorkerFailed(
            what=f"The worker for {self.model_uri} did not start:",
            why=f"{how}. {' '.join(log_tail(self._log_file, _LOG_LINES_IN_ERROR))}".strip(),
            next_step=f"Try again. The full log is {self._log_file.name} in the data folder's logs.",
        )


def _first_line(process: subprocess.Popen[str], patience_s: float) -> str:
    """What a process prints first; nothing when it ends before. It is killed when it takes too long."""
    assert process.stdout is not None
    with killed_after(patience_s, process.kill):
        return process.stdout.readline()


def _cpu_s(process: subprocess.Popen[str]) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)


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
