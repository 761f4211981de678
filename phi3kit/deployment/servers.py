"""Servers: `mlflow models serve` as a child process of the app: start it, watch it, ask it, end it.

Knows MLflow's command line. Knows nothing of phi3kit's own workers (endpoints/workers.py).
"""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import httpx2

from phi3kit.access.actor import Actor
from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import RequestInvalid, WorkerFailed
from phi3kit.core.processes import end, log_tail, tell_to_end
from phi3kit.core.records import Endpoint, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.endpoints import invocations
from phi3kit.endpoints.invocations import ScoringResponse
from phi3kit.endpoints.outbound import loopback_client
from phi3kit.tracking.logged_models import resolve
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.recorder import OutboxRecorder

ServerState = Literal["starting", "ready", "ended"]

TIMEOUT_S = 600  # of one request; MLflow's own 60 s are too few for a real Phi-3 on a CPU
_GRACE_S = 10.0  # of the supervisor, which itself gives the server up to 9 s
_LOOK_S = 2.0
_BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class ServerStatus:
    """The state of a scoring server."""

    model_uri: str  # the logged model's own
    wrapper: WrapperName
    port: int
    state: ServerState
    exit_code: int | None
    pid: int
    started_at: float  # seconds since the epoch
    command: str  # as typed in a shell
    log_file: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}/invocations"


@dataclass
class _Server:
    process: subprocess.Popen[str]
    first: ServerStatus
    ready: bool = False


class ScoringServers:
    """The `mlflow models serve` processes of one app, one a logged model. Safe to share between sessions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[str, _Server] = {}
        self._guard = threading.Lock()

    def start(self, model_uri: str, actor: Actor, port: int | None = None) -> ServerStatus:
        """Start a server for the model, or return the running one. statuses() tells when it is ready, seconds later.

        port: None takes a free one.
        Raises NotAllowed, ModelNotFound, StorageFailed, or RequestInvalid for a port in use.
        """
        actor.require("serve")
        model = resolve(model_uri, self._settings)
        with self._guard:
            running = self._servers.get(model.model_uri)
            if running and running.process.poll() is None:
                return _status(running)
            chosen = free_port() if port is None else port
            check_port(chosen)
            server = self._launch(model.model_uri, model_uri, model.wrapper, chosen)
            if running:
                end(running.process)  # closes its pipes
            self._servers[model.model_uri] = server
            return _status(server)

    def statuses(self) -> list[ServerStatus]:
        """Every server that was started and not stopped, including those that ended by themselves."""
        with self._guard:
            servers = list(self._servers.values())
        return [_status(server) for server in servers]

    def ask(self, server: ServerStatus, body: str, actor: Actor) -> ScoringResponse:
        """Send JSON to a server's /invocations in the actor's name; its answer, which may be an error of any status.

        MLflow's server knows no users: the call counts against the actor's limits here.
        Raises NotAllowed, LimitReached or BudgetSpent; WorkerFailed while the server starts, and when it has ended.
        """
        actor.require("invoke")
        if server.state == "starting":
            raise WorkerFailed(
                "The server is not ready yet.", "It is loading the model.", "Try again in a few seconds."
            )
        endpoint = Endpoint(server.url.removesuffix("/invocations"), "", server.model_uri, server.wrapper)
        recorder = OutboxRecorder(Outbox(self._settings.home), self._settings.limits, log_text=False)
        call_id, tokens = uuid.uuid4().hex, _tokens_in(body)
        recorder.admit_call(call_id, actor.name, tokens)
        try:
            answer = invocations.send(endpoint, body, timeout_s=TIMEOUT_S)
            tokens += _tokens_in(answer.text)
            return answer
        except WorkerFailed as error:
            tail = " ".join(log_tail(server.log_file, 2))
            what = f"The server at {server.url} did not answer."
            raise WorkerFailed(what, f"{error.why} {tail}", "Start it again.") from error
        finally:
            recorder.end_call(call_id, actor.name, tokens)

    def stop(self, model_uri: str, actor: Actor) -> None:
        """End the model's server, if there is one. model_uri: as statuses() names it. Raises NotAllowed."""
        actor.require("serve")
        with self._guard:
            server = self._servers.pop(model_uri, None)
        if server:
            tell_to_end(server.process)
            end(server.process, _GRACE_S)

    def close(self) -> None:
        """End all of them."""
        with self._guard:
            servers, self._servers = list(self._servers.values()), {}
        for server in servers:
            tell_to_end(server.process)
        for server in servers:
            end(server.process, _GRACE_S)

    def _launch(self, model_uri: str, given_uri: str, wrapper: WrapperName, port: int) -> _Server:
        logs = self._settings.home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log_file = logs / f"scoring-{wrapper}-{port}.log"
        command = serve_command(model_uri, port)
        with log_file.open("w", encoding="utf-8") as log:
            process = subprocess.Popen(  # noqa: S603 -- a list of our own making
                [sys.executable, "-m", "phi3kit.deployment.supervisor", *command],
                env=environment(self._settings),
                cwd=logs,  # not the project: MLflow puts the working folder on the model's import path
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        typed = shlex.join(serve_command(given_uri, port))
        first = ServerStatus(model_uri, wrapper, port, "starting", None, process.pid, time.time(), typed, log_file)
        return _Server(process, first)


def serve_command(model_uri: str, port: int) -> list[str]:
    """MLflow's command for a scoring server with the packages installed here."""
    return [
        *("mlflow", "models", "serve", "--model-uri", model_uri, "--port", str(port)),
        *("--env-manager", "local", "--timeout", str(TIMEOUT_S)),
    ]


def environment(settings: Settings) -> dict[str, str]:
    """Variables for the server. MLflow starts uvicorn by name: without its folder on PATH it ends with code 127."""
    programs = str(Path(sys.executable).parent)
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    return child_environment(settings) | {"PATH": path, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


def _tokens_in(text: str) -> int:
    """About how many, for limits: MLflow's server counts none, and no tokenizer is loaded here."""
    return len(text.encode(errors="replace")) // _BYTES_A_TOKEN


def free_port() -> int:
    """A free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def first_free_port(wanted: int) -> int:
    """The wanted port or one of the hundred after it, whichever is free first; else any free one."""
    for port in range(wanted, min(wanted + 100, 65_536)):
        with contextlib.suppress(RequestInvalid):
            check_port(port)
            return port
    return free_port()


def check_port(port: int) -> None:
    """Raises RequestInvalid for a number that is no port, and for a port in use."""
    why = None if 0 < port < 65_536 else "Ports go from 1 to 65,535"
    try:
        if why is None:
            socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise RequestInvalid(
            f"Port {port} cannot be used.",
            f"{why}.",
            "Choose another port, leave it empty for a free one, or stop the program that uses it.",
            param="port",
        )


def _status(server: _Server) -> ServerStatus:
    code = server.process.poll()
    if code is None and not server.ready:
        try:
            with loopback_client(f"http://127.0.0.1:{server.first.port}", _LOOK_S) as client:
                server.ready = client.get("/health").is_success
        except httpx2.HTTPError:
            server.ready = False
    state: ServerState = "ended" if code is not None else "ready" if server.ready else "starting"
    return replace(server.first, state=state, exit_code=code)
