"""Batches: through real workers and the command line: order, errors, stops, workers that die; nothing computed twice."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from phi3kit.access.actor import Actor
from phi3kit.batch.answering import Answering
from phi3kit.batch.events import BatchSummary, RowProgress
from phi3kit.batch.jobs import BatchJobs, keep_upload
from phi3kit.batch.request import BatchRequest, SamplingParams
from phi3kit.batch.run import _digest, run_batch
from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import BatchFailed, ModelNotFound, TableInvalid
from phi3kit.core.records import Endpoint, Message, TurnRecord
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.tracking.logged_models import ResolvedModel
from phi3kit.usage.outbox import Outbox, from_json
from tests.conftest import CHAPTER_PROMPT, Built, run_cli, settings_for
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store
from tests.support.waiting import wait_for

LAND = ["Spain", "France", "Italy", "Greece", "Japan", "Peru", "Chad", "Mali", "Fiji", "Cuba"]
CAPITAL = ["Madrid", "Paris", "Rome", "Athens", "Tokyo", "Lima", "N'Djamena", "Bamako", "Suva", "Havana"]


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Settings:
    """A store of its own in which both wrappers are logged."""
    (tmp_path / "home").mkdir()
    return copy_of_store(built.settings, tmp_path / "home")


@pytest.fixture
def workers(settings: Settings) -> Iterator[WorkerPool]:
    pool = WorkerPool(settings)
    yield pool
    pool.close()


def table_of(folder: Path, *messages: str, name: str = "in.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "message"])
        lines.writerows(enumerate(messages))
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def batch_turns(settings: Settings) -> list[TurnRecord]:
    """The turns that batches made, as they were recorded."""
    with sqlite3.connect(settings.home / "outbox.db") as database:
        found = [from_json(text) for (text,) in database.execute("select record from turns")]
    return [turn for turn in found if turn.origin == "batch"]


def run(request: BatchRequest, settings: Settings, pool: WorkerPool) -> tuple[BatchSummary, list[RowProgress]]:
    seen: list[RowProgress] = []
    return run_batch(request, ADMIN, settings, seen.append, pool), seen


class TestCommandLine:
    @pytest.mark.parametrize("wrapper", ["transformers", "onnx"])
    def test_every_row_is_answered_in_its_place(self, built: Built, tmp_path: Path, wrapper: Any) -> None:
        path = table_of(tmp_path, *(f"What is the capital of {land}?" for land in LAND), "", "word " * 5000)
        output = tmp_path / "out.csv"
        done = run_cli("batch", built.uri(wrapper), str(path), "-o", str(output), home=built.home)
        assert done.returncode == 0, done.stderr
        rows = rows_of(output)
        assert list(rows[0]) == [
            "id", "message", "completion", "prompt_tokens", "completion_tokens", "finish_reason", "error"
        ]  # fmt: skip
        assert [row["id"] for row in rows] == [str(number) for number in range(12)]
        for row, land, capital in zip(rows[:10], LAND, CAPITAL, strict=True):
            assert row["completion"] == f"The capital of {land} is {capital}."
            assert (row["finish_reason"], row["error"]) == ("stop", "")
        assert [row["finish_reason"] for row in rows[10:]] == ["error", "error"]
        assert rows[10]["error"] == "The message is empty. There is nothing to answer. Fill the cell."
        assert "The prompt is too long." in rows[11]["error"]
        assert "4096 tokens" in rows[11]["error"]
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["rows"], summary["failed"], summary["kept"]) == (12, 2, 0)
        assert summary["completion_tokens"] == sum(int(row["completion_tokens"]) for row in rows)

    def test_raw_prompts_and_parameters(self, built: Built, tmp_path: Path) -> None:
        path = tmp_path / "in.jsonl"
        path.write_text(json.dumps({"prompt": CHAPTER_PROMPT, "tags": ["joke"]}) + "\n")
        output = tmp_path / "out.jsonl"
        done = run_cli(
            "batch", built.uri("onnx"), str(path), "-o", str(output), "--max-tokens", "5", home=built.home
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        row = json.loads(output.read_text())
        assert (row["tags"], row["completion_tokens"], row["finish_reason"]) == (["joke"], 5, "length")
        assert row["completion"].startswith("Alright")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["models:/m-unknown", "IN", "-o", "OUT"], "m-unknown"),
            (["URI", "NONE", "-o", "OUT"], "cannot be read"),
            (["URI", "IN", "-o", "/no/such/folder/out.csv"], "cannot be written"),
            (["URI", "IN", "-o", "OUT", "--message-column", "question"], "no column 'question'"),
            (["URI", "IN", "-o", "OUT", "--max-tokens", "0"], "less than 1"),
            (["URI", "IN", "-o", "OUT.xlsx"], "is not a table"),
        ],
    )
    def test_a_mistake_is_one_line_and_exit_code_2(
        self, built: Built, tmp_path: Path, arguments: list[str], said: str
    ) -> None:
        known = {"URI": built.uri("onnx"), "IN": str(table_of(tmp_path, "Hello")), "NONE": str(tmp_path / "none.csv")}
        known |= {"OUT": str(tmp_path / "out.csv"), "OUT.xlsx": str(tmp_path / "out.xlsx")}
        done = run_cli("batch", *(known.get(each, each) for each in arguments), home=built.home)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert said in done.stderr

    def test_a_stopped_batch_goes_on_and_computes_nothing_twice(self, settings: Settings, tmp_path: Path) -> None:
        (uri,) = [model.model_uri for model in models(settings) if model.wrapper == "onnx"]
        path = table_of(tmp_path, *(["List the capitals of Europe."] * 30))
        output = tmp_path / "out.csv"
        command = [sys.executable, "-m", "phi3kit", "batch", uri, str(path), "-o", str(output)]
        with subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=child_environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            wait_for("some rows", lambda: done_so_far(settings) >= 5)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=300)
        assert process.returncode == 128 + signal.SIGTERM
        assert "rows are kept. Run the same command to resume" in said
        assert not output.exists()
        again = run_cli("batch", uri, str(path), "-o", str(output), home=settings.home)
        summary = json.loads(again.stdout.splitlines()[-1])
        assert summary["kept"] >= 5
        assert summary["kept"] + summary["computed"] == 30
        assert {row["finish_reason"] for row in rows_of(output)} == {"stop"}
        whole = [turn for turn in batch_turns(settings) if turn.finish_reason == "stop"]
        assert 30 <= len(whole) <= 30 + 8, "answers under way at the stop may have been lost, no others"
        assert [job.state for job in BatchJobs(settings).all()] == ["done", "cancelled"]
        third = run_cli("batch", uri, str(path), "-o", str(output), home=settings.home)
        assert json.loads(third.stdout.splitlines()[-1])["computed"] == 0

    def test_fresh_computes_all_rows_again(self, built: Built, tmp_path: Path) -> None:
        path, output = table_of(tmp_path, "Hello", "Thanks"), tmp_path / "out.csv"
        for options, computed in ([], 2), ([], 0), (["--fresh"], 2):
            done = run_cli("batch", built.uri("onnx"), str(path), "-o", str(output), *options, home=built.home)
            assert json.loads(done.stdout.splitlines()[-1])["computed"] == computed


def models(settings: Settings) -> list[Any]:
    from phi3kit.tracking.logged_models import list_models

    return list_models(settings)


def done_so_far(settings: Settings) -> int:
    jobs = BatchJobs(settings).all()
    return jobs[0].progress.done if jobs and jobs[0].progress else 0


class TestModel:
    @pytest.mark.skipif(os.name == "nt", reason="there are no such pipes, and making a link there needs rights")
    def test_whose_description_became_a_link_or_a_pipe_is_refused(self, tmp_path: Path) -> None:
        folder, private = tmp_path / "model", tmp_path / "private"
        folder.mkdir()
        private.write_text("secret")
        model = ResolvedModel("models:/m-1", "onnx", folder)
        (folder / "MLmodel").symlink_to(private)
        with pytest.raises(ModelNotFound, match="Its MLmodel file has changed: MLmodel is a link to elsewhere"):
            _digest(model)
        (folder / "MLmodel").unlink()
        os.mkfifo(folder / "MLmodel")
        with pytest.raises(ModelNotFound, match="No regular file"):
            _digest(model)


class TestRun:
    def test_other_parameters_or_another_input_are_another_batch(
        self, built: Built, settings: Settings, workers: WorkerPool, tmp_path: Path
    ) -> None:
        uri = built.uri("onnx")
        first = BatchRequest(uri, table_of(tmp_path, "Hello", "Thanks"), tmp_path / "out.csv")
        assert run(first, settings, workers)[0].computed == 2
        assert run(first, settings, workers)[0].computed == 0
        shorter = BatchRequest(uri, first.input, first.output, sampling=SamplingParams(max_tokens=3))
        assert run(shorter, settings, workers)[0].computed == 2
        longer = BatchRequest(uri, table_of(tmp_path, "Hello", "Thanks", "Bye"), first.output)
        assert run(longer, settings, workers)[0].computed == 3

    def test_one_person_is_not_given_anothers_answers(
        self, built: Built, settings: Settings, workers: WorkerPool, tmp_path: Path
    ) -> None:
        request = BatchRequest(
            built.uri("onnx"), table_of(tmp_path, "Hello", "Thanks"), tmp_path / "out.csv",
            sampling=SamplingParams(temperature=1.0),
        )  # fmt: skip
        counts = []
        for name in ("ada", "bob", "ada"):
            summary = run_batch(request, Actor(name, "user"), settings, lambda at: None, workers)
            counts.append((summary.kept, summary.computed))
        assert counts == [(0, 2), (0, 2), (2, 0)]
        assert len({turn.conversation_id for turn in batch_turns(settings)}) == 2, "nor are their turns found together"

    def test_turns_are_logged_as_a_batchs_and_found_together(
        self, built: Built, settings: Settings, workers: WorkerPool, tmp_path: Path
    ) -> None:
        request = BatchRequest(built.uri("onnx"), table_of(tmp_path, "Hello", "Thanks"), tmp_path / "out.csv")
        summary, seen = run(request, settings, workers)
        turns = batch_turns(settings)
        assert [turn.finish_reason for turn in turns] == ["stop", "stop"]
        assert len({turn.conversation_id for turn in turns}) == 1
        assert sum(turn.completion_tokens for turn in turns) == summary.completion_tokens
        assert (seen[-1].done, seen[-1].total, seen[-1].failed) == (2, 2, 0)

    def test_a_worker_that_dies_in_the_middle_costs_no_row(
        self, built: Built, settings: Settings, workers: WorkerPool, tmp_path: Path
    ) -> None:
        uri = built.uri("onnx")
        request = BatchRequest(uri, table_of(tmp_path, *(["List the capitals of Europe."] * 30)), tmp_path / "out.csv")
        first_pid: list[int] = []
        assert Outbox(settings.home).waiting() == 0  # its table is there before it is looked into

        def kill_once() -> None:
            wait_for("an answer", lambda: batch_turns(settings))
            (worker,) = workers.statuses()
            first_pid.append(worker.pid)
            subprocess.run(["kill", "-9", str(worker.pid)], check=True)

        killer = threading.Thread(target=kill_once)
        killer.start()
        summary, _ = run(request, settings, workers)
        killer.join()
        assert (summary.rows, summary.failed) == (30, 0)
        rows = rows_of(request.output)
        assert len({row["completion"] for row in rows}) == 1
        assert "Greece: Athens" in rows[0]["completion"]
        assert workers.statuses()[0].pid != first_pid[0]
        assert any(turn.finish_reason == "error" for turn in batch_turns(settings)), "what broke off is logged too"


class _Scripted(BaseHTTPRequestHandler):
    """A worker's HTTP: it echoes, is busy once, hangs up on "poison", and its budget is spent at "broke"."""

    busy_once = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        if "broke" in text:
            error = {
                "message": "The daily token budget is spent.",
                "type": "insufficient_quota",
                "code": "insufficient_quota",
            }
            self._answer(429, {"error": error}, retry_after_s=20_000)
            return
        if "poison" in text:
            self.connection.close()
            return
        if type(self).busy_once:
            type(self).busy_once = False
            self._answer(429, {"error": {"message": "full", "type": "rate_limit_error", "code": None, "param": None}})
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text.upper()}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        self._answer(
            200,
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage},
        )

    def _answer(self, status: int, body: dict[str, Any], retry_after_s: int = 0) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", str(retry_after_s))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _OnePlace:
    """A pool whose worker is always there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def endpoint(self, model_uri: str) -> Endpoint:
        return self._endpoint


@contextmanager
def scripted_place() -> Iterator[_OnePlace]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Scripted,), {}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", "key", "models:/m-1", "onnx")
    try:
        yield _OnePlace(endpoint)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def scripted(home: Path) -> Iterator[Answering]:
    with scripted_place() as place:
        answering = Answering(place, "models:/m-1", SamplingParams(), ADMIN, settings_for(home), "b1")  # type: ignore[arg-type]
        try:
            yield answering
        finally:
            answering.close()


class TestRowsWithoutPrompt:
    def test_each_is_kept_as_it_comes_and_no_answer_is_waited_for(
        self, built: Built, settings: Settings, tmp_path: Path
    ) -> None:
        request = BatchRequest(built.uri("onnx"), table_of(tmp_path, "", " ", "broke", ""), tmp_path / "out.csv")
        with scripted_place() as place, pytest.raises(BatchFailed, match="The daily token budget is spent"):
            run(request, settings, place)  # type: ignore[arg-type]
        (journal,) = (settings.home / "batches" / "journals").rglob("*.db")
        with closing(sqlite3.connect(journal)) as kept:
            rows = kept.execute("select row, finish_reason, final from results order by row").fetchall()
        assert rows == [(0, "error", 1), (1, "error", 1), (3, "error", 1)]

    def test_tens_of_thousands_are_not_held_in_memory(self, built: Built, settings: Settings, tmp_path: Path) -> None:
        path, output = tmp_path / "in.csv", tmp_path / "out.csv"
        path.write_text("id,message\n" + "1,\n" * 30_000 + "2,Hello\n")
        with scripted_place() as place:
            run(BatchRequest(built.uri("onnx"), table_of(tmp_path, "Hi", name="warm.csv"), output), settings, place)  # type: ignore[arg-type]
            tracemalloc.start()
            try:
                summary, _ = run(BatchRequest(built.uri("onnx"), path, output), settings, place)  # type: ignore[arg-type]
                peak_bytes = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert (summary.rows, summary.failed) == (30_001, 30_000)
        assert rows_of(output)[-1]["completion"] == "HELLO"
        assert peak_bytes < 4_000_000, peak_bytes

    def test_a_table_of_nothing_else_is_refused_before_a_model_is_looked_for(
        self, settings: Settings, workers: WorkerPool, tmp_path: Path
    ) -> None:
        request = BatchRequest("models:/m-unknown", table_of(tmp_path, "", " "), tmp_path / "out.csv")
        with pytest.raises(TableInvalid) as caught:
            run(request, settings, workers)
        assert caught.value.what == "No row of in.csv has a prompt in its column 'message'."
        assert caught.value.why == "The first row: The message is empty. There is nothing to answer."


class TestAnswering:
    def test_a_row_that_breaks_its_worker_fails_alone(self, tmp_path: Path) -> None:
        texts = ["a", "poison", "b", "c", "d"]
        with scripted(tmp_path) as answering:
            found = list(answering.answers(((n, (Message("user", text),)) for n, text in enumerate(texts)), 3))
        by_row = {result.row: result for result in found}
        assert [by_row[n].completion for n in (0, 2, 3, 4)] == ["A", "B", "C", "D"]
        assert (by_row[1].finish_reason, by_row[1].final) == ("error", False)
        assert "did not finish its answer" in str(by_row[1].error)

    def test_a_worker_that_breaks_with_every_row_ends_the_batch(self, tmp_path: Path) -> None:
        rows = ((number, (Message("user", "poison"),)) for number in range(1000))
        with scripted(tmp_path) as answering, pytest.raises(BatchFailed, match="fails on every row"):
            list(answering.answers(rows, 2))

    def test_a_spent_budget_ends_the_batch_and_is_not_slept_through(self, tmp_path: Path) -> None:
        rows = ((number, (Message("user", "broke"),)) for number in range(5))
        began = time.monotonic()
        with scripted(tmp_path) as answering, pytest.raises(BatchFailed, match="The daily token budget is spent"):
            list(answering.answers(rows, 2))
        assert time.monotonic() - began < 200  # and not until midnight


class TestJobs:
    def test_a_batch_is_a_process_whose_result_lies_in_its_folder(self, settings: Settings, tmp_path: Path) -> None:
        (uri,) = [model.model_uri for model in models(settings) if model.wrapper == "onnx"]
        path = keep_upload("../../in.csv", table_of(tmp_path, "Hello", "").read_bytes(), ADMIN, settings)
        assert path.is_relative_to(settings.home / "batches" / "uploads")
        jobs = BatchJobs(settings)
        job = jobs.start(BatchRequest(uri, path, Path("out.csv")), ADMIN)
        other_process = BatchJobs(settings)
        job = wait_for(
            "its end",
            lambda: None if (now := other_process.find(job.job_id, ADMIN)) is None or now.active else now,
            120,
        )
        assert (job.state, job.error) == ("done", None)
        assert job.summary is not None
        assert (job.summary.rows, job.summary.failed) == (2, 1)
        assert job.own_output
        assert rows_of(job.request.output)[0]["finish_reason"] == "stop"
        jobs.close()

    def test_a_stopped_job_says_what_is_kept_and_who_stopped_it(self, settings: Settings, tmp_path: Path) -> None:
        (uri,) = [model.model_uri for model in models(settings) if model.wrapper == "onnx"]
        path = keep_upload(
            "in.csv", table_of(tmp_path, *(["List the capitals of the world."] * 200)).read_bytes(), ADMIN, settings
        )
        jobs = BatchJobs(settings)
        job = jobs.start(BatchRequest(uri, path, Path("out.csv")), ADMIN)
        wait_for("some rows", lambda: done_so_far(settings) >= 1)
        jobs.cancel(job, ADMIN)
        stopped = jobs.all()[0]
        assert stopped.state == "cancelled"
        assert (stopped.error, stopped.stopped_by) == (None, ADMIN.name)
        assert stopped.kept == "Finished rows are kept."
        assert stopped.progress is not None
        assert stopped.progress.done >= 1
        jobs.close()
