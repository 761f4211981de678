"""Faults of a worker: hung, out of memory, its port in other hands. What is said, who recovers, and that no turn is lost."""

import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import WorkerFailed
from phi3kit.core.records import Endpoint, Message
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.endpoints.client import ask, stream
from phi3kit.endpoints.records import Answer, Request, TurnContext
from phi3kit.endpoints.worker_process import WorkerProcess, WorkerStatus
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.tracking.logged_models import resolve
from phi3kit.usage.outbox import Outbox
from tests.conftest import Built, settings_for
from tests.support.actors import admin
from tests.support.scripted_server import event_stream, http_answer, scripted
from tests.support.stored import with_models_of, written_at_last
from tests.support.system_limits import memory_group
from tests.support.waiting import has_ended, wait_for

CAPITAL = Request((Message("user", "What is the capital of Spain?"),))
MADRID = "The capital of Spain is Madrid."
LISTED = Request((Message("user", "List the capitals of the world."),))
LONG = Request((Message("user", "What is the capital of Spain? " * 400),), max_tokens=4)


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Settings:
    return with_models_of(built, tmp_path / "home")


@pytest.fixture
def own_pool(settings: Settings) -> Iterator[WorkerPool]:
    """An app's workers that a test may hurt."""
    pool = WorkerPool(settings)
    yield pool
    pool.close()


def a_context() -> TurnContext:
    return TurnContext(actor=admin("ada"), origin="ui")


def only(pool: WorkerPool) -> WorkerStatus:
    (status,) = pool.statuses()
    return status


def answers_again(pool: WorkerPool, model_uri: str, settings: Settings) -> TurnContext:
    """The next question is answered by a new worker; its turn."""
    context = a_context()
    assert ask(pool.endpoint(model_uri), CAPITAL, context, settings).text == MADRID
    return context


class TestHung:
    def test_who_waits_hears_of_it_and_the_next_question_gets_a_new_worker(
        self, own_pool: WorkerPool, built: Built, settings: Settings
    ) -> None:
        uri, cut = built.uri("onnx"), a_context()
        answers = stream(own_pool.endpoint(uri), LISTED, cut, settings)
        read = [next(answers) for _ in range(12)]
        pid, began = only(own_pool).pid, time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(
            WorkerFailed, match="It hung and was stopped: for 10 s it neither answered nor computed"
        ) as caught:
            read.extend(answers)
        assert time.monotonic() - began < 120, "the client's own patience is 600 s"
        assert "Send it again" in caught.value.next_step
        assert has_ended(pid)
        answered = answers_again(own_pool, uri, settings)
        assert only(own_pool).pid != pid
        assert written_at_last(settings) == Counter([cut.turn_id, answered.turn_id])
        assert read[-1].completion_tokens >= 10

    def test_while_it_starts_is_no_worker_and_the_next_start_is_one(
        self, built: Built, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped before it could say its port."""
        real = subprocess.Popen

        def stopped(*arguments: Any, **how: Any) -> subprocess.Popen[str]:
            process = real(*arguments, **how)
            process.send_signal(signal.SIGSTOP)
            return process

        pool = WorkerPool(settings_for(settings.home, PHI3KIT_START_SECONDS="2"))
        monkeypatch.setattr(subprocess, "Popen", stopped)
        with pytest.raises(WorkerFailed, match="it was not ready after 2 s"):
            pool.endpoint(built.uri("onnx"))
        monkeypatch.undo()
        assert pool.statuses() == []
        pool = WorkerPool(settings)
        try:
            answers_again(pool, built.uri("onnx"), settings)
        finally:
            pool.close()

    def test_a_worker_that_was_stopped_for_a_moment_is_left_alone(
        self, own_pool: WorkerPool, built: Built, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, found_silent = WorkerProcess._is_silent, threading.Event()

        def watched(worker: WorkerProcess, client: httpx2.Client) -> bool:
            silent = real(worker, client)
            if silent:
                found_silent.set()
            return silent

        monkeypatch.setattr(WorkerProcess, "_is_silent", watched)
        uri, context = built.uri("onnx"), a_context()
        answers = stream(own_pool.endpoint(uri), LISTED, context, settings)
        next(answers)
        process = psutil.Process(only(own_pool).pid)
        process.suspend()
        assert found_silent.wait(60)
        process.resume()
        *_, answer = answers
        assert answer.finish_reason in ("stop", "length")
        assert only(own_pool).pid == process.pid
        assert written_at_last(settings) == Counter([context.turn_id])


@pytest.mark.usefixtures("cold_python")
class TestOutOfMemory:
    def test_a_worker_that_the_system_kills_for_its_memory_says_so_and_the_next_one_answers(
        self, own_pool: WorkerPool, built: Built, settings: Settings
    ) -> None:
        uri, cut = built.uri("onnx"), a_context()
        endpoint = own_pool.endpoint(uri)
        with memory_group(6_000_000) as group:
            if group is None:
                pytest.skip("this machine lets nobody make a control group")
            group.take(only(own_pool).pid)
            # Prompt after prompt is kept for its next turn: 25 MB each.
            with pytest.raises(WorkerFailed, match="Its process was killed, perhaps because memory ran out"):
                ask(endpoint, LONG, cut, settings)
            wait_for("its end", lambda: only(own_pool).state == "stopped")
        answered = answers_again(own_pool, uri, settings)
        assert written_at_last(settings) == Counter([cut.turn_id, answered.turn_id])

    @pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
    def test_an_answer_that_gets_no_memory_ends_alone_and_says_so(
        self, own_pool: WorkerPool, built: Built, settings: Settings, whole: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = subprocess.Popen

        def without_reserves(*arguments: Any, env: dict[str, str], **how: Any) -> subprocess.Popen[str]:
            """glibc keeps what was freed; then nothing would be missing."""
            return real(*arguments, env={**env, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}, **how)

        monkeypatch.setattr(subprocess, "Popen", without_reserves)
        endpoint = own_pool.endpoint(built.uri("onnx"))
        pid, failed = only(own_pool).pid, a_context()
        ask(endpoint, CAPITAL, a_context(), settings)
        most = data_bytes(pid) + 2_000_000  # a long prompt takes more
        before = resource.prlimit(pid, resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
        with pytest.raises(WorkerFailed, match=r"The worker ran out of memory\."):
            _asked(endpoint, LONG, failed, settings, whole)
        assert ask(endpoint, CAPITAL, a_context(), settings).text == MADRID, "a short answer has what it needs"
        resource.prlimit(pid, resource.RLIMIT_DATA, before)
        assert ask(endpoint, LONG, a_context(), settings).completion_tokens == 4
        assert only(own_pool).pid == pid
        record = Outbox(settings.home).find(failed.turn_id)
        assert record is not None
        assert (record.finish_reason, record.error_code) == ("error", "out_of_memory")
        assert set(written_at_last(settings).values()) == {1}

    def test_a_model_that_gets_no_memory_is_not_called_damaged(self, built: Built, settings: Settings) -> None:
        folder = resolve(built.uri("onnx"), settings).folder
        arguments = ["-m", "phi3kit.worker", str(folder), "--wrapper", "onnx", "--model-uri", built.uri("onnx")]
        limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, (500_000_000,) * 2); "
        done = subprocess.run(
            [sys.executable, "-c", limited + "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])", *arguments],
            cwd=PROJECT_ROOT, env=child_environment(settings), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert re.search("phi3kit: (The model does not fit into memory|The model could not be loaded)", done.stderr)
        assert "damaged" not in done.stderr


def _asked(endpoint: Endpoint, request: Request, context: TurnContext, settings: Settings, whole: bool) -> Answer:
    if whole:
        return ask(endpoint, request, context, settings)
    *_, answer = stream(endpoint, request, context, settings)
    return answer


def data_bytes(pid: int) -> int:
    """The memory of a process that RLIMIT_DATA counts: what it may write, without addresses that are kept in reserve."""
    found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


THIEVES = {
    "a web page": http_answer(200, "<html>Welcome</html>", "text/html"),
    "other JSON": http_answer(200, '{"hello": "world"}'),
    "no JSON": http_answer(200, "{"),
    "other events": event_stream('{"hello": "world"}'),
    "not found": http_answer(404, "nothing here", "text/plain"),
    "no HTTP": b"220 mail.example ESMTP\r\n",
}


class TestAStolenPort:
    @pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
    def test_a_stranger_on_a_dead_workers_port_is_no_answer(
        self, own_pool: WorkerPool, built: Built, settings: Settings, whole: bool
    ) -> None:
        """The worker dies between the page's look at it and the question, and its port is given away."""
        uri = built.uri("onnx")
        endpoint = own_pool.endpoint(uri)
        os.kill(only(own_pool).pid, signal.SIGKILL)
        wait_for("its end", lambda: only(own_pool).state == "stopped")
        failed = []
        for answer in THIEVES.values():
            with scripted(answer, port=httpx2.URL(endpoint.base_url).port or 0):
                failed.append(a_context())
                with pytest.raises(WorkerFailed) as caught:
                    _asked(endpoint, CAPITAL, failed[-1], settings, whole)
            assert "Traceback" not in str(caught.value)
        answered = answers_again(own_pool, uri, settings)
        assert written_at_last(settings) == Counter([each.turn_id for each in (*failed, answered)])


class TestASlowDataFolder:
    def test_health_answers_while_the_outbox_is_locked_and_the_turn_is_answered_and_kept(
        self, own_pool: WorkerPool, built: Built, settings: Settings
    ) -> None:
        endpoint, context = own_pool.endpoint(built.uri("onnx")), a_context()
        ask(endpoint, CAPITAL, a_context(), settings)
        locked = sqlite3.connect(settings.home / "outbox.db", isolation_level=None)
        locked.execute("begin immediate")
        with ThreadPoolExecutor(1) as thread, httpx2.Client(base_url=endpoint.base_url, timeout=300) as http:
            asking = thread.submit(ask, endpoint, CAPITAL, context, settings)
            for _ in range(30):  # a health that waited for the outbox would come to the time-out
                assert http.get("/health").status_code == 200
                time.sleep(0.1)
            assert not asking.done()
            locked.execute("rollback")
            locked.close()
            assert asking.result(60).text == MADRID
        assert written_at_last(settings)[context.turn_id] == 1
