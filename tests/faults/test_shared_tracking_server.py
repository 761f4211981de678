"""A team's tracking server: a real `mlflow server` with a name and a password, slow, stopped, or not one at all."""

import http.server
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from mlflow import MlflowClient
from werkzeug.security import generate_password_hash

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.errors import StorageFailed
from phi3kit.core.records import WRAPPERS, Message, TurnText
from phi3kit.core.settings import Settings
from phi3kit.deployment.servers import free_port
from phi3kit.tracking.logged_models import list_models, resolve
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.ui.shared import resources
from phi3kit.usage import writer as writer_module
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import TurnsReader
from phi3kit.usage.runs import ClientRuns, runs_of
from phi3kit.usage.traces import trace_id_of
from phi3kit.usage.writer import write_waiting
from tests.conftest import run_cli, settings_for
from tests.support.in_app import app_on, errors, open_page
from tests.support.samples import TURN, turn
from tests.support.waiting import wait_for, wait_for_server

NAME, PASSWORD = "admin", "a-password-of-tests"
CREDENTIALS = {"MLFLOW_TRACKING_USERNAME": NAME, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@dataclass(frozen=True)
class Server:
    """A running `mlflow server`."""

    url: str
    process: psutil.Process
    log: Path

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and answers nobody."""
        everyone = [self.process, *self.process.children(recursive=True)]
        for each in everyone:
            each.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for each in everyone:
                each.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # six processes that no test asks anything of
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    wait_for_server(f"{url}/health", process, (folder / "log").read_text)
    with closing(sqlite3.connect(folder / "basic_auth.db")) as users, users:
        # The server's own hash costs it a tenth of a second, at every request.
        users.execute("update users set password_hash = ?", [generate_password_hash(PASSWORD, "pbkdf2:sha256:1")])
    yield Server(url, psutil.Process(process.pid), folder / "log")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _busy(path: str, url: str, times: int) -> Iterator[str]:
    """A way to the server on which the first so many requests for a path are answered 503."""
    refused: list[str] = []

    class Way(http.server.BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == path and len(refused) < times:
                refused.append(self.path)
                self.send_error(503)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            answer = httpx2.request(self.command, url + self.path, headers=headers, content=body, timeout=300)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _pass_on  # noqa: N815  (the library's names)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Way) as way:
        threading.Thread(target=way.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{way.server_port}"
        way.shutdown()
    assert refused == [path] * times


@pytest.fixture
def forget_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test signs in with, the next must not find in the environment."""
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def settings(server: Server, tmp_path: Path, forget_credentials: None) -> Settings:
    """As secrets.toml would say it: nothing in the environment."""
    return settings_for(tmp_path, MLFLOW_TRACKING_URI=server.url, **CREDENTIALS)


def runs(settings: Settings, *turn_ids: str) -> list[str]:
    """The turn ids of the server's active runs, of those that are asked for."""
    client: MlflowClient = open_store(settings)
    found = client.search_runs([experiment_id(settings, USAGE_EXPERIMENT)], max_results=1000)
    return sorted(run.data.tags["phi3kit.turn_id"] for run in found if run.data.tags["phi3kit.turn_id"] in turn_ids)


class TestTurns:
    def test_become_runs_and_traces_there_and_are_read_back(self, settings: Settings):
        text = TurnText((Message("user", "Ἀθῆναι?"),), ("Greece",))
        for turn_id in ("shared-a", "shared-b"):
            Outbox(settings.home).add(turn(turn_id, text=text, interface="openai"))
        assert write_waiting(settings) == 2
        client = open_store(settings)
        assert isinstance(runs_of(client, experiment_id(settings, USAGE_EXPERIMENT)), ClientRuns)
        assert runs(settings, "shared-a", "shared-b") == ["shared-a", "shared-b"]
        trace = client.get_trace(trace_id_of("shared-a"))
        assert trace.data.spans[0].outputs["choices"][0]["message"]["content"] == "Greece"
        assert trace.info.token_usage["total_tokens"] == 15
        turns = TurnsReader(settings).refresh().turns
        found = turns[turns["turn_id"].isin(["shared-a", "shared-b"])]
        assert list(found["total_tokens"]) == [15, 15]
        assert set(found["at"].dt.year) == {2026}

    @pytest.mark.parametrize("times", [1, 3])
    def test_a_server_too_busy_to_say_its_version_still_gets_whole_traces(
        self, server: Server, tmp_path: Path, times: int
    ):
        turn_id = f"shared-busy-{times}"
        with _busy("/version", server.url, times) as url:
            settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=url, **CREDENTIALS)
            Outbox(settings.home).add(turn(turn_id, text=TurnText("Athens?", ("Greece",)), interface="raw"))
            if times == 3:  # it is asked again twice; then the turn waits for the next round
                with pytest.raises(StorageFailed, match="did not say its version"):
                    write_waiting(settings)
            assert write_waiting(settings) == 1
            assert runs(settings, turn_id) == [turn_id]
            trace = open_store(settings).get_trace(trace_id_of(turn_id))
            assert trace.data.spans[0].inputs["prompt"] == "Athens?"

    def test_a_deleted_run_is_noticed(self, settings: Settings):
        Outbox(settings.home).add(turn("shared-gone"))
        write_waiting(settings)
        reader = TurnsReader(settings)
        turns = reader.refresh().turns
        run_id = turns.set_index("turn_id").loc["shared-gone", "run_id"]
        open_store(settings).delete_run(run_id)
        assert "shared-gone" not in set(reader.refresh().turns["turn_id"])

    def test_a_server_that_stands_still_makes_them_wait_and_gets_each_once(
        self, server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ):
        experiment_id(settings, USAGE_EXPERIMENT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setattr(writer_module, "_SERVER_GIVES_UP_S", 0.0)
        outbox = Outbox(settings.home)
        ids = [f"slow-{number}" for number in range(3)]
        for turn_id in ids:
            outbox.add(turn(turn_id))
        real = writer_module.experiment_id

        def stands_still(*arguments: Any) -> str:  # the server does, from the moment at which a run is to be made
            found = real(*arguments)
            for each in (server.process, *server.process.children(recursive=True)):
                each.send_signal(signal.SIGSTOP)
            return found

        monkeypatch.setattr(writer_module, "experiment_id", stands_still)
        with pytest.raises(StorageFailed, match="The tracking store did not answer"):
            write_waiting(settings)
        assert outbox.waiting() == 3
        monkeypatch.setattr(writer_module, "experiment_id", real)
        with server.stopped():
            pass  # it goes on, and makes the run of the request that nobody waited for
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        write_waiting(settings)
        time.sleep(1)  # the late run may come behind ours
        write_waiting(settings)  # looks again at what was in doubt
        assert (outbox.waiting(), outbox.doubtful(0)) == (0, [])
        assert runs(settings, *ids) == ids

    def test_one_that_stands_still_again_and_is_back_when_it_is_asked_why_sets_no_turn_aside(
        self, server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ):
        experiment_id(settings, USAGE_EXPERIMENT)
        outbox = Outbox(settings.home)
        outbox.add(turn("still-again"))
        assert outbox.claim_next() is not None  # a first attempt that came to nothing
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with monkeypatch.context() as context, server.stopped():
            context.setattr(writer_module, "experiment_id", lambda *_: "1")
            context.setattr(writer_module, "_store_takes_writes", lambda _: True)
            with pytest.raises(StorageFailed, match="did not answer within 1 s"):
                write_waiting(settings)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        assert outbox.refused() == (0, None)
        assert write_waiting(settings) == 1
        assert runs(settings, "still-again") == ["still-again"]

    def test_a_server_that_is_away_for_a_while_costs_no_turn(self, settings: Settings, tmp_path: Path):
        away = settings_for(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", **CREDENTIALS)
        Outbox(tmp_path).add(turn("away"))
        with pytest.raises(StorageFailed):
            write_waiting(away)
        assert write_waiting(settings) == 1
        assert runs(settings, "away") == ["away"]


class TestAnAppOnIt:
    def test_says_that_the_server_stands_still_and_goes_on_by_itself_when_it_is_back(
        self, server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ):
        impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "6", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        monkeypatch.setattr(writer_module, "_SERVER_GIVES_UP_S", 0.0)
        with app_on(settings.home, MLFLOW_TRACKING_URI=server.url, **CREDENTIALS, **impatient):
            assert not open_page("models").error
            writer = resources.kit().writer
            with server.stopped():
                Outbox(settings.home).add(turn("of-the-app"))
                resources.forget_lists()
                (error,) = errors(open_page("models"))
                assert "The server did not answer within 6 s" in error
                assert "did not answer" in wait_for("the writer's problem", lambda: writer.state().problem)
            wait_for("no turn waits", lambda: writer.state().waiting == 0)
            resources.forget_lists()
            assert not open_page("models").error
        write_waiting(settings)  # looks again at what was in doubt
        assert runs(settings, "of-the-app") == ["of-the-app"]


class TestSigningIn:
    @pytest.mark.parametrize(
        "credentials", [{}, {"MLFLOW_TRACKING_USERNAME": NAME, "MLFLOW_TRACKING_PASSWORD": "wrong"}]
    )
    def test_without_the_right_password_turns_wait_and_it_is_said(
        self, server: Server, tmp_path: Path, forget_credentials: None, credentials: dict[str, str]
    ):
        settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=server.url, **credentials)
        Outbox(tmp_path).add(turn("unauthorized"))
        for act in (write_waiting, lambda settings: TurnsReader(settings).refresh()):
            with pytest.raises(StorageFailed, match="The tracking server refused phi3kit") as caught:
                act(settings)
            assert "MLFLOW_TRACKING_PASSWORD" in caught.value.next_step
            assert "wrong" not in str(caught.value).replace("missing or wrong", "")
        assert Outbox(tmp_path).waiting() == 1

    def test_no_password_is_shown(self, settings: Settings):
        assert PASSWORD not in repr(settings)
        assert PASSWORD not in settings.store_name


@dataclass(frozen=True)
class Made:
    """What the command line built on the server, from a data folder here."""

    home: Path
    results: dict[str, dict[str, Any]]  # the last line of each wrapper


@pytest.fixture(scope="module")
def made(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Both wrappers. The server keeps artifacts where only it can reach them."""
    home = tmp_path_factory.mktemp("made") / "home"
    done = run_cli(
        "build", "--wrapper", "both", "--json", home=home, MLFLOW_TRACKING_URI=server.url, **CREDENTIALS
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return Made(home, {line["wrapper"]: line for line in lines if "model_uri" in line})


class TestCommandLine:
    def test_both_wrappers_are_built_there_and_checked(self, made: Made):
        assert {made.results[wrapper]["check_answer"] for wrapper in WRAPPERS} == {"The capital of Spain is Madrid."}
        assert made.results["onnx"]["same_beginnings"] == "49 of 50"

    @pytest.mark.usefixtures("made")
    def test_weights_are_uploaded_once(self, server: Server):
        uploaded = re.findall(r'"PUT /api/\S*/(\S+) HTTP', server.log.read_text())
        weights = ("model.safetensors", "model.onnx", "model.onnx.data")
        assert {name: uploaded.count(name) for name in weights} == dict.fromkeys(weights, 1)

    def test_nothing_but_the_builds_own_record_stays_here(self, made: Made):
        assert not (made.home / "artifacts").exists()
        assert not (made.home / "mlflow.db").exists()
        assert list((made.home / "exports").iterdir()) == []

    def test_the_models_are_found_and_listed(self, made: Made, settings: Settings):
        listed = {model.model_uri: model.wrapper for model in list_models(settings)}
        assert listed == {made.results[wrapper]["model_uri"]: wrapper for wrapper in WRAPPERS}
        found = resolve(made.results["transformers"]["model_uri"], settings)
        logged = found.folder / "model" / "model.safetensors"
        assert logged.read_bytes() == (MODEL_FOLDER / "model.safetensors").read_bytes()

    def test_a_model_is_asked_and_its_turn_is_read_on_the_server(self, server: Server, made: Made):
        environment = {"MLFLOW_TRACKING_URI": server.url, **CREDENTIALS}
        uri = made.results["onnx"]["model_uri"]
        asked = run_cli("chat", uri, "What is the capital of Spain?", home=made.home, **environment)
        assert (asked.returncode, asked.stdout) == (0, "The capital of Spain is Madrid.\n"), asked.stderr
        usage = run_cli("usage", "--since", "1h", "--format", "json", home=made.home, **environment)
        assert usage.returncode == 0, usage.stderr
        (row,) = [each for each in json.loads(usage.stdout) if each["model_uri"] == uri]
        assert (row["wrapper"], row["origin"], row["finish_reason"]) == ("onnx", "api", "stop")


class _Odd(http.server.BaseHTTPRequestHandler):
    """Answers everything alike."""

    status, kind, body = 200, "text/html", b"<html><body>Welcome</body></html>"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def odd_server(status: int, kind: str, body: bytes) -> Iterator[str]:
    handler = type("Handler", (_Odd,), {"status": status, "kind": kind, "body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class TestWhatIsNoTrackingServer:
    @pytest.mark.parametrize(
        ("status", "kind", "body", "said"),
        [
            (200, "text/html", b"<html><body>Welcome</body></html>", "a web page, not MLflow's JSON"),
            (500, "text/html", b"<h1>Internal <secret-token> error</h1>" * 100, "The tracking store did not answer"),
            (500, "application/json", b'{"error_code": "INTERNAL_ERROR", "message": "boom"}', "answered 500"),
            (403, "text/plain", b"no", "It answered 403"),
            (200, "application/json", b"[]", "The tracking store did not answer"),
        ],
    )
    def test_is_said_in_one_line_and_turns_wait(
        self, tmp_path: Path, forget_credentials: None, monkeypatch: pytest.MonkeyPatch,
        status: int, kind: str, body: bytes, said: str,
    ):  # fmt: skip
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # asked again, and at once
        with odd_server(status, kind, body) as url:
            settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=url)
            Outbox(tmp_path).add(TURN)
            for act in (write_waiting, lambda settings: TurnsReader(settings).refresh()):
                with pytest.raises(StorageFailed) as caught:
                    act(settings)
                assert said in str(caught.value)
                assert "\n" not in str(caught.value)
                assert len(str(caught.value)) < 700
                assert "secret-token" not in str(caught.value)
            assert Outbox(tmp_path).waiting() == 1
