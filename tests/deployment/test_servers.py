"""`mlflow models serve` as a child of the app: real processes of MLflow's own command line."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import ModelNotFound, RequestInvalid, WorkerFailed
from phi3kit.core.processes import log_tail
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import ScoringServers, ServerStatus
from tests.conftest import Built
from tests.support.actors import ADMIN
from tests.support.waiting import has_ended, wait_for

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}]}
PROMPT = {"prompt": "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"}


@pytest.fixture
def scoring(built: Built) -> Iterator[ScoringServers]:
    started = ScoringServers(built.settings)
    yield started
    started.close()


def ready(scoring: ScoringServers) -> ServerStatus:
    def find() -> ServerStatus | None:
        (status,) = scoring.statuses()
        assert status.state != "ended", log_tail(status.log_file, 20)
        return status if status.state == "ready" else None

    return wait_for("a ready scoring server", find, 90)


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


class TestScoringServers:
    def test_it_starts_answers_and_ends_with_all_its_processes(self, scoring: ScoringServers, built: Built) -> None:
        first = scoring.start(built.uri("onnx"), ADMIN)
        assert (first.state, first.wrapper) == ("starting", "onnx")
        with pytest.raises(WorkerFailed, match="not ready yet"):
            scoring.ask(first, "{}", ADMIN)
        assert scoring.start(built.uri("onnx"), ADMIN).pid == first.pid  # one a model
        status = ready(scoring)
        answer = scoring.ask(status, json.dumps(PROMPT), ADMIN)
        assert (answer.status, json.loads(answer.text)) == (200, ["The capital of Spain is Madrid."])
        assert 0 < answer.seconds < 30
        wrong = scoring.ask(status, json.dumps(QUESTION), ADMIN)
        assert wrong.status == 400
        assert "prompt" in wrong.text
        assert any("Uvicorn running" in line for line in log_tail(status.log_file, 50))
        processes = family(status.pid)
        assert len(processes) >= 3  # the supervisor, MLflow's command, uvicorn
        scoring.stop(status.model_uri, ADMIN)
        assert [has_ended(each.pid) for each in processes] == [True] * len(processes)
        assert scoring.statuses() == []
        with pytest.raises(WorkerFailed, match="did not answer"):
            scoring.ask(status, "{}", ADMIN)

    def test_a_port_in_use_is_said_before_anything_starts(self, scoring: ScoringServers, built: Built) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(RequestInvalid, match=f"Port {port} cannot be used. Address already in use"):
                scoring.start(built.uri("onnx"), ADMIN, port)
        assert scoring.statuses() == []

    @pytest.mark.parametrize("port", [-1, 70_000])
    def test_a_port_that_is_none_is_refused(self, scoring: ScoringServers, built: Built, port: int) -> None:
        with pytest.raises(RequestInvalid, match=f"Port {port} cannot be used"):
            scoring.start(built.uri("onnx"), ADMIN, port)

    def test_an_unknown_model_starts_nothing(self, built: Built, scoring: ScoringServers) -> None:
        with pytest.raises(ModelNotFound):
            scoring.start("models:/nobody@champion", ADMIN)
        assert scoring.statuses() == []

    def test_a_server_that_died_is_seen_with_its_log_and_started_anew(
        self, scoring: ScoringServers, built: Built
    ) -> None:
        first = scoring.start(built.uri("onnx"), ADMIN)
        children = wait_for("its processes", lambda: family(first.pid)[1:])
        for each in children:
            each.kill()
        ended = wait_for("its end", lambda: next((s for s in scoring.statuses() if s.state == "ended"), None))
        assert ended.exit_code not in (None, 0)
        assert scoring.start(built.uri("onnx"), ADMIN).pid != first.pid

    def test_it_ends_when_the_app_is_killed(self, built: Built) -> None:
        script = (
            "import sys, time\nfrom phi3kit.deployment.servers import ScoringServers\n"
            "from phi3kit.access.actor import process_actor\nfrom phi3kit.core.settings import read_settings\n"
            "print(ScoringServers(read_settings()).start(sys.argv[1], process_actor(read_settings())).pid, flush=True)\ntime.sleep(600)\n"
        )
        command = [sys.executable, "-c", script, built.uri("onnx")]
        with subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=child_environment(built.settings), stdout=subprocess.PIPE, text=True
        ) as app:
            assert app.stdout is not None
            supervisor = int(app.stdout.readline())
            started = wait_for(
                "MLflow's command and uvicorn", lambda: found if len(found := family(supervisor)) > 2 else None
            )
            app.kill()
        wait_for("the end of all", lambda: all(has_ended(each.pid) for each in started))
