"""Jobs: builds as processes, one at a time; what others can read of them; what is left when they end too soon."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from phi3kit.core.child_environment import child_environment
from phi3kit.core.errors import BuildFailed, StorageFailed
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.jobs import job_folder
from phi3kit.jobs.job_folder import JobProcess
from phi3kit.jobs.kinds import BUILDS
from phi3kit.packaging.build import CHECKED_TAG, _store_answers, take_back_remains
from phi3kit.packaging.events import (
    BuildRequest,
    BuildStep,
    Note,
    Queued,
    StepProgress,
    from_line,
    in_words,
    step_names,
)
from phi3kit.packaging.jobs import BuildJob, BuildJobs
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.registry import list_registered, register
from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, open_store
from tests.conftest import run_cli, settings_for
from tests.support.actors import ADMIN, admin
from tests.support.samples import new_store
from tests.support.waiting import has_ended, wait_for
from tests.support.warm_python import is_template

TRANSFORMERS = BuildRequest(("transformers",), "embedded", "int4")
ONNX = BuildRequest(("onnx",), "embedded", "int4")
NOWHERE = BuildRequest(("onnx",), "./no-such-folder", "int4")  # refused within a second
LONG_AGO = 1_700_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "home").mkdir()
    return new_store(tmp_path / "home")


def pid_of(job: BuildJob) -> int:
    return int(json.loads((job.folder / "job.json").read_text())["pid"])


def family(pid: int) -> list[int]:
    """A process and all that it has started, as long as they live."""
    children = (child.pid for child in psutil.Process(pid).children(recursive=True))
    return [pid, *(child for child in children if not is_template(child))]


def again(settings: Settings, job: BuildJob) -> BuildJob:
    """The job as another process sees it."""
    (found,) = [each for each in BuildJobs(settings).all() if each.job_id == job.job_id]
    return found


def latest(settings: Settings) -> str:
    """The job that a page of another process shows."""
    job = BuildJobs(settings).latest(admin("another"))
    assert job is not None
    return job.job_id


def ended(settings: Settings, job: BuildJob, seconds: float = 90) -> BuildJob:
    return wait_for("the job's end", lambda: None if (found := again(settings, job)).active else found, seconds)


def in_step(settings: Settings, job: BuildJob, name: str) -> BuildJob:
    """The job when a step has begun and not ended. Reads the file alone: some steps take a tenth of a second."""
    begun = json.dumps(asdict(BuildStep(job.request.wrappers[0], name, None)))
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        path = job.folder / "events.jsonl"
        if path.exists() and begun in path.read_text().splitlines():
            return again(settings, job)
        time.sleep(0.005)
    raise AssertionError(f"the step {name} did not begin: {job.log()}")


def runs(settings: Settings) -> list[str]:
    """The status of every run of a build."""
    client = MlflowClient(settings.tracking_uri.reveal())
    experiment = client.get_experiment_by_name("phi3kit-builds")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])] if experiment else []


def assert_nothing_half_built(settings: Settings) -> None:
    """No model, no run under way, no files."""
    client = MlflowClient(settings.tracking_uri.reveal())
    experiment = client.get_experiment_by_name("phi3kit-builds")
    assert list_models(settings) == []
    assert client.search_logged_models([experiment.experiment_id]) == []
    assert set(runs(settings)) <= {"FAILED"}
    exports = settings.home / "exports"
    assert not exports.exists() or list(exports.iterdir()) == []
    assert [path for path in (settings.home / "artifacts").rglob("*") if path.is_file()] == []


def past_job(home: Path, number: int, *lines: object, request: BuildRequest = ONNX) -> Path:
    """A job whose process is long gone, and what it left in its files."""
    folder = home / "builds" / f"20231114-{(LONG_AGO + number) * 10**9:020d}"
    folder.mkdir(parents=True)
    owner = {"pid": 2**22 + 1, "started": 0.0, "request": {**vars(request), "wrappers": list(request.wrappers)}}
    (folder / "job.json").write_text(json.dumps(owner))
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def as_build(request: BuildRequest, settings: Settings) -> AbstractContextManager[JobProcess]:
    """Let this process be a build."""
    return job_folder.run_as_job(BUILDS, request, ADMIN, settings)


END = {"event": "end", "state": "done", "seconds": 3.0, "error": None}


class TestEvents:
    @pytest.mark.parametrize(
        "event",
        [
            Queued(2),
            BuildStep("onnx", "export", None),
            StepProgress("download", 1, 2, "bytes", 0.5, None),
            Note("onnx", "Ελλάδα"),
        ],
    )
    def test_an_event_comes_back_from_its_line(self, event: Queued | BuildStep | StepProgress | Note):
        assert from_line(json.loads(json.dumps(asdict(event)))) == event

    @pytest.mark.parametrize(
        "line", [{}, {"event": "end"}, {"event": []}, {"event": "step"}, {"event": "queued", "ahead": 1, "new": 2}]
    )
    def test_a_line_of_another_version_is_none(self, line: dict[str, object]):
        assert from_line(line) is None

    def test_a_terminal_is_told_what_has_ended_and_who_is_first(self):
        assert in_words(Queued(1)) == "queued: 1 build ahead"
        assert in_words(Queued(2)) == "queued: 2 builds ahead"
        assert in_words(Queued(0)) == in_words(BuildStep("onnx", "export", None)) == ""
        assert in_words(BuildStep("onnx", "export", 1.234)) == "onnx: export 1.2 s"
        assert in_words(Note("onnx", "Mind the gap.")) == "onnx: Mind the gap."
        progress = StepProgress("download", 1_500_000_000, 7_600_000_000, "bytes", 20_000_000, 305.0)
        assert in_words(progress) == "download: 1,500 of 7,600 MB, 20.0 MB/s, 305 s left"
        assert in_words(StepProgress("compare", 10, 50, "prompts", 2.5, 16.2)) == "compare: 10 of 50 prompts, 16 s left"
        assert in_words(StepProgress("compare", 0, 50, "prompts", 0.0, None)) == "compare: 0 of 50 prompts"

    @pytest.mark.parametrize(
        ("request_", "wrapper", "options", "names"),
        [
            (TRANSFORMERS, "transformers", {}, "prepare log check"),
            (TRANSFORMERS, "transformers", {"hub": True}, "download prepare log check"),
            (ONNX, "onnx", {}, "read weights export quantize prepare log check compare"),
            (ONNX, "onnx", {"exported": True}, "prepare log check"),
            (BuildRequest(("onnx",), "x", "fp32", "n"), "onnx", {}, "read weights export prepare log check compare register"),
            (BuildRequest(("transformers", "onnx"), "x", "int4"), "onnx", {"hub": True}, "download read weights export quantize prepare log check compare"),
        ],
    )  # fmt: skip
    def test_the_steps_are_known_before(
        self, request_: BuildRequest, wrapper: WrapperName, options: dict[str, bool], names: str
    ):
        assert " ".join(step_names(request_, wrapper, **options)) == names

    def test_a_request_is_a_command_line(self):
        request = BuildRequest(("transformers", "onnx"), "/my models/phi", "int8", "phi")
        assert request.command() == [
            *("build", "--wrapper", "both", "--source", "/my models/phi", "--precision", "int8", "--register", "phi")
        ]


class TestTwoBuildsAtOnce:
    """Two builds that are started together, followed by somebody who started neither."""

    def test_run_one_after_the_other_and_can_be_read_by_another_process(self, settings: Settings):
        jobs = BuildJobs(settings)
        first, second = jobs.start(TRANSFORMERS, ADMIN), jobs.start(TRANSFORMERS, ADMIN)
        assert (first.active, second.active, first.request) == (True, True, TRANSFORMERS)
        waiting = wait_for("the second to wait", lambda: job if (job := again(settings, second)).ahead else None)
        assert (waiting.state, waiting.ahead, waiting.steps) == ("queued", 1, ())
        assert again(settings, first).state == "running"
        assert latest(settings) == first.job_id
        done = ended(settings, first)
        running = in_step(settings, second, "prepare")
        assert (running.state, running.ahead) == ("running", 0)
        assert latest(settings) == second.job_id  # the first is history by now
        in_step(settings, second, "log")
        BuildJobs(settings).cancel(second, ADMIN)
        cancelled = again(settings, second)

        assert (done.state, done.error, done.notes, done.progress) == ("done", None, (), None)
        assert [(step.wrapper, step.step) for step in done.steps] == [
            ("transformers", name) for name in ("prepare", "log", "check")
        ]
        assert all(step.seconds is not None for step in done.steps)
        (built,) = done.built
        assert (built["wrapper"], built["source"], built["run_id"]) == ("transformers", "embedded", built["run_id"])
        assert "transformers: check" in done.log()
        assert done.log(10) == done.log()[-10:]
        assert 0 < done.seconds < 900
        assert has_ended(pid_of(done))
        assert cancelled.state == "cancelled"
        assert "queued: 1 build ahead" in cancelled.log().splitlines()
        # Only the first one's model is there.
        assert [model.model_uri for model in list_models(settings)] == [built["model_uri"]]
        assert [path.parent.name for path in (settings.home / "artifacts").rglob("MLmodel")] == ["artifacts"]
        assert list((settings.home / "exports").iterdir()) == []
        assert sorted(runs(settings)) == ["FAILED", "FINISHED"]
        jobs.close()

    def test_a_build_in_a_terminal_is_a_job_too(self, settings: Settings):
        done = run_cli("build", "--wrapper", "onnx", "--source", "./no-such-folder", home=settings.home)
        (job,) = BuildJobs(settings).all()
        assert done.returncode == 2
        assert (job.state, job.request, job.log()) == ("failed", NOWHERE, "")
        assert str(job.error) == done.stderr.removeprefix("phi3kit: ").rstrip("\n")


class TestCancel:
    @pytest.mark.parametrize(
        ("request_", "step"),
        [
            *((TRANSFORMERS, step) for step in ("prepare", "check")),  # "log" is above
            *((ONNX, step) for step in ("read weights", "export", "compare")),
        ],
        ids=lambda value: value if isinstance(value, str) else value.wrappers[0],
    )
    def test_in_the_middle_of_a_step_leaves_nothing(
        self, settings: Settings, request_: BuildRequest, step: str, monkeypatch: pytest.MonkeyPatch
    ):
        jobs = BuildJobs(settings)
        job = in_step(settings, jobs.start(request_, ADMIN), step)
        builder = request_ is ONNX and step in ("read weights", "export")  # a process of its own
        processes = wait_for(
            "its processes", lambda: found if len(found := family(pid_of(job))) == 1 + builder else None
        )
        monkeypatch.setattr(job_folder, "_GRACE_S", 120.0)
        monkeypatch.setattr(psutil.Process, "kill", lambda process: pytest.fail("it did not end by itself"))
        BuildJobs(settings).cancel(job, ADMIN)  # who started it need not be asked
        jobs.close()
        cancelled = again(settings, job)
        assert (cancelled.state, cancelled.built) == ("cancelled", ())
        assert (cancelled.error, cancelled.stopped_by) == (None, ADMIN.name)
        assert cancelled.kept == "Unfinished models are not listed."
        assert step in [each.step for each in cancelled.steps]
        assert "Traceback" not in cancelled.log()
        assert [pid for pid in processes if not has_ended(pid)] == []
        assert_nothing_half_built(settings)

    def test_at_once_after_the_start_is_a_cancelled_build_too(self, settings: Settings):
        jobs = BuildJobs(settings)
        job = jobs.start(ONNX, ADMIN)
        jobs.cancel(job, ADMIN)  # on an idle machine before it could say a word
        assert again(settings, job).state == "cancelled"
        assert set(runs(settings)) <= {"FAILED"}
        assert list_models(settings) == []

    def test_while_it_waits_lets_the_build_before_it_go_on(self, settings: Settings):
        jobs = BuildJobs(settings)
        with as_build(NOWHERE, settings):  # this process is the build before it
            job = jobs.start(ONNX, ADMIN)
            wait_for("it to wait", lambda: again(settings, job).state == "queued")
            jobs.cancel(job, ADMIN)
            assert again(settings, job).state == "cancelled"
            assert latest(settings) != job.job_id

    def test_of_what_has_ended_changes_nothing(self, settings: Settings):
        jobs = BuildJobs(settings)
        job = ended(settings, jobs.start(NOWHERE, ADMIN))
        jobs.cancel(job, ADMIN)
        assert job.state == again(settings, job).state == "failed"
        assert str(again(settings, job).error) == str(job.error)

    def test_ctrl_c_in_a_terminal_is_a_cancelled_build(self, settings: Settings):
        command = [sys.executable, "-m", "phi3kit", "build", "--wrapper", "onnx", "--json"]
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=child_environment(settings),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        while '"read weights"' not in process.stdout.readline():
            pass
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process in it
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 130
        assert "Traceback" not in stderr
        (job,) = BuildJobs(settings).all()
        assert job.state == "cancelled"
        assert_nothing_half_built(settings)


class TestKilledBuild:
    def test_has_failed_and_the_next_build_takes_back_what_it_left(self, settings: Settings):
        jobs = BuildJobs(settings)
        remains = []
        # One is killed while the builder works, one when its model is logged and not yet checked.
        for step in ("quantize", "compare"):
            job = in_step(settings, jobs.start(ONNX, ADMIN), step)
            processes = family(pid_of(job))
            os.kill(pid_of(job), signal.SIGKILL)
            killed = ended(settings, job)
            assert killed.state == "failed"
            assert killed.error is not None
            assert killed.error.what == "The build stopped unexpectedly."
            assert killed.error.why.startswith("Its process was killed, perhaps because memory ran out.")
            assert killed.steps[-1].seconds is None
            for pid in processes:  # the builder does not outlive the build
                assert wait_for("the end of its processes", lambda pid=pid: has_ended(pid), 10)
            remains.append(list((settings.home / "exports").iterdir()))
            assert len(remains[-1]) == 1
        assert remains[0] != remains[1]  # the second build took the first one's away
        assert sorted(runs(settings)) == ["FAILED", "FINISHED"]  # logged, and not checked
        assert len(list((settings.home / "artifacts").rglob("model.onnx.data"))) == 1
        assert list_models(settings) == []

        take_back_remains(settings)  # as the next build does at its beginning
        assert_nothing_half_built(settings)
        assert runs(settings) == ["FAILED"] * 2

    def test_remains_of_another_store_are_no_obstacle(self, settings: Settings):
        for name in ("0" * 32, "somebody's folder"):
            (settings.home / "exports" / name / "deep").mkdir(parents=True)
        take_back_remains(settings)
        assert list((settings.home / "exports").iterdir()) == []

    def test_a_version_that_was_registered_before_the_end_goes_with_its_model(self, settings: Settings):
        client = open_store(settings)
        run = client.create_run(experiment_id(settings, BUILDS_EXPERIMENT))
        for name in ("new", "kept"):
            model = client.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
            client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
            if name == "kept":
                client.set_logged_model_tags(model.model_id, {CHECKED_TAG: "true", "phi3kit.wrapper": "onnx"})
            for each in {name, "kept"}:
                register(f"models:/{model.model_id}", each, ADMIN, settings)
        (settings.home / "exports" / run.info.run_id).mkdir(parents=True)
        take_back_remains(settings)
        (left,) = list_registered(settings)
        assert (left.name, [each.logged_model for each in left.versions]) == ("kept", [f"models:/{model.model_id}"])
        assert [each.name for each in client.search_registered_models()] == ["kept"]

    def test_what_mlflow_says_of_a_model_is_no_fault_of_a_store_that_answers(self, settings: Settings):
        client = open_store(settings)
        run_id = client.create_run(experiment_id(settings, BUILDS_EXPERIMENT)).info.run_id
        about_it = MlflowException("The model has no signature.")
        assert _store_answers(client, run_id, about_it)
        assert not _store_answers(client, run_id, MlflowException("(sqlite3.OperationalError) disk is full"))
        assert not _store_answers(client, "0" * 32, about_it)  # a store that does not take what it should

    def test_a_model_that_was_checked_before_the_end_stays(self, settings: Settings):
        client = open_store(settings)
        run = client.create_run(experiment_id(settings, BUILDS_EXPERIMENT))
        model = client.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
        client.set_logged_model_tags(model.model_id, {CHECKED_TAG: "true", "phi3kit.wrapper": "onnx"})
        client.set_terminated(run.info.run_id)
        (settings.home / "exports" / run.info.run_id).mkdir(parents=True)
        take_back_remains(settings)
        assert [each.model_uri for each in list_models(settings)] == [f"models:/{model.model_id}"]
        assert (runs(settings), list((settings.home / "exports").iterdir())) == (["FINISHED"], [])
        # Even when somebody deletes it meanwhile.
        (settings.home / "exports" / run.info.run_id).mkdir()
        client.delete_logged_model(model.model_id)
        take_back_remains(settings)
        assert list((settings.home / "exports").iterdir()) == []


class TestClose:
    def test_ends_what_it_started_and_nothing_else(self, settings: Settings):
        mine, others = BuildJobs(settings), BuildJobs(settings)
        with as_build(NOWHERE, settings):  # so that both wait
            first, second = others.start(ONNX, ADMIN), mine.start(ONNX, ADMIN)
            pids = pid_of(first), pid_of(second)
            mine.close()
            assert (has_ended(pids[0]), has_ended(pids[1])) == (False, True)
            assert (again(settings, first).active, again(settings, second).state) == (True, "cancelled")
            others.close()
        assert has_ended(pids[0])
        assert again(settings, first).state == "cancelled"

    def test_of_one_that_started_nothing_does_nothing(self, settings: Settings):
        BuildJobs(settings).close()
        assert not (settings.home / "builds").exists()


class TestHistory:
    def test_keeps_fifty_jobs_the_newest_ones(self, tmp_path: Path):
        settings = settings_for(tmp_path)
        for number in range(60):
            past_job(tmp_path, number, END)
        assert len(BuildJobs(settings).all()) == 60
        jobs = BuildJobs(settings)
        newest = ended(settings, jobs.start(NOWHERE, ADMIN))
        kept = jobs.all()
        assert len(kept) == 50
        assert kept[0].job_id == newest.job_id
        assert [job.began_at for job in kept[1:]] == [LONG_AGO + number for number in range(59, 10, -1)]

    def test_a_build_under_way_is_kept_however_many_came_after_it(self, tmp_path: Path):
        settings = settings_for(tmp_path)
        old = past_job(tmp_path, 0)
        owner = json.loads((old / "job.json").read_text())
        owner |= {"pid": os.getpid(), "started": psutil.Process().create_time()}
        (old / "job.json").write_text(json.dumps(owner))
        for number in range(1, 60):
            past_job(tmp_path, number, END)
        jobs = BuildJobs(settings)
        new = jobs.start(ONNX, ADMIN)
        assert latest(settings) == old.name
        assert wait_for("it to wait", lambda: again(settings, new).ahead) == 1
        jobs.close()

    def test_is_empty_where_nothing_was_built(self, tmp_path: Path):
        jobs = BuildJobs(settings_for(tmp_path / "home"))
        assert (jobs.all(), jobs.latest(ADMIN)) == ([], None)
        assert not (tmp_path / "home").exists()

    def test_the_last_of_ended_jobs_is_the_latest(self, tmp_path: Path):
        for number in range(3):
            past_job(tmp_path, number, END)
        job = BuildJobs(settings_for(tmp_path)).latest(ADMIN)
        assert job is not None
        assert (job.began_at, job.seconds, job.state) == (LONG_AGO + 2, 3.0, "done")

    def test_ones_own_build_goes_before_those_of_others_and_the_one_asked_for_here_before_all(self, tmp_path: Path):
        this = {"pid": os.getpid(), "started": psutil.Process().create_time()}
        for number, user in enumerate(["ada", "bob", "bob", "cy"]):  # cy's has ended
            folder = past_job(tmp_path, number, *([END] if user == "cy" else []))
            owner = json.loads((folder / "job.json").read_text()) | {"user": user} | (this if user != "cy" else {})
            (folder / "job.json").write_text(json.dumps(owner))
        jobs = BuildJobs(settings_for(tmp_path))
        cys, bobs_second, bobs_first, adas = (job.job_id for job in jobs.all())

        def shown(user: str, asked_for: str | None = None) -> str:
            job = jobs.latest(admin(user), asked_for)
            assert job is not None
            return job.job_id

        assert shown("cy") == adas
        assert shown("bob") == bobs_first
        assert shown("bob", bobs_second) == bobs_second
        assert shown("cy", cys) == cys
        assert shown("bob", cys) == bobs_first

    def test_a_process_that_has_the_number_by_now_is_not_the_job(self, tmp_path: Path):
        folder = past_job(tmp_path, 1)
        owner = json.loads((folder / "job.json").read_text()) | {"pid": os.getpid()}
        (folder / "job.json").write_text(json.dumps(owner))
        (job,) = BuildJobs(settings_for(tmp_path)).all()
        assert job.state == "failed"
        BuildJobs(settings_for(tmp_path)).cancel(job, ADMIN)  # would end this test


class TestDamagedFiles:
    GOOD: Callable[[Path], Path] = staticmethod(lambda home: past_job(home, 1, END))

    @pytest.mark.parametrize(
        "owner",
        ["", "{", "[]", "3", "null", "{}", '{"pid": "x", "started": 0, "request": {}}', '{"pid": 1, "request": null}'],
    )
    def test_a_damaged_job_is_left_out_of_the_history(self, tmp_path: Path, owner: str):
        good, bad = self.GOOD(tmp_path), past_job(tmp_path, 2, END)
        (bad / "job.json").write_text(owner)
        assert [job.folder for job in BuildJobs(settings_for(tmp_path)).all()] == [good]
        assert latest(settings_for(tmp_path)) == good.name

    def test_folders_of_other_names_are_no_jobs(self, tmp_path: Path):
        good = self.GOOD(tmp_path)
        (past_job(tmp_path, 2, END)).rename(tmp_path / "builds" / "my-folder")
        (tmp_path / "builds" / "20231114-x").write_text("")
        assert [job.folder for job in BuildJobs(settings_for(tmp_path)).all()] == [good]

    @pytest.mark.parametrize(
        "cut", ['{"event": "st', '{"wrapper": "onnx", "check_answer": "マド'.encode()[:-1], b"\x00\xff", "3", "[]"]
    )
    def test_a_half_written_last_line_is_left_out(self, tmp_path: Path, cut: str | bytes):
        folder = past_job(tmp_path, 1, asdict(BuildStep("onnx", "prepare", 1.0)), asdict(Note("onnx", "n")))
        with (folder / "events.jsonl").open("ab") as file:
            file.write(cut if isinstance(cut, bytes) else cut.encode())
        (job,) = BuildJobs(settings_for(tmp_path)).all()
        assert (job.steps, job.notes) == ((BuildStep("onnx", "prepare", 1.0),), (Note("onnx", "n"),))
        assert (job.state, job.error and job.error.what) == ("failed", "The build stopped unexpectedly.")

    def test_an_end_behind_a_half_written_line_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        folder = past_job(tmp_path, 1)
        monkeypatch.setenv("PHI3KIT_JOB", folder.name)
        with as_build(ONNX, settings_for(tmp_path)), (folder / "events.jsonl").open("a") as file:
            file.write('{"event": "st')
        (job,) = BuildJobs(settings_for(tmp_path)).all()
        assert job.state == "done"

    def test_a_line_separator_in_an_answer_does_not_cut_its_line(self, tmp_path: Path):
        settings = settings_for(tmp_path)
        with as_build(ONNX, settings) as own:
            own.line({"model_uri": "models:/m-1", "check_answer": "a\u2028b\x85c"})
        (job,) = BuildJobs(settings).all()
        assert job.built == ({"model_uri": "models:/m-1", "check_answer": "a\u2028b\x85c"},)

    def test_what_a_killed_build_printed_last_is_the_reason(self, tmp_path: Path):
        folder = past_job(tmp_path, 1)
        (folder / "log.txt").write_bytes(b"Loading\n\xff out of memory\n\n")
        (job,) = BuildJobs(settings_for(tmp_path)).all()
        assert job.error is not None
        assert job.error.why.endswith("� out of memory")

    def test_jobs_that_vanish_while_they_are_read_are_left_out(self, tmp_path: Path):
        good, gone = self.GOOD(tmp_path), past_job(tmp_path, 2, END)
        (gone / "events.jsonl").unlink()
        (gone / "job.json").unlink()
        (gone / "job.json").symlink_to("nowhere")
        assert [job.folder for job in BuildJobs(settings_for(tmp_path)).all()] == [good]


class TestOwnJob:
    def test_an_error_is_what_became_of_it(self, tmp_path: Path):
        settings = settings_for(tmp_path)
        with pytest.raises(BuildFailed), as_build(ONNX, settings):
            raise BuildFailed("It broke.", "No space.", "Free some.")
        (job,) = BuildJobs(settings).all()
        assert (job.state, str(job.error)) == ("failed", "It broke. No space. Free some.")

    def test_a_mistake_of_our_own_says_so(self, tmp_path: Path):
        settings = settings_for(tmp_path)
        with pytest.raises(ZeroDivisionError), as_build(ONNX, settings):
            raise ZeroDivisionError("division by zero")
        (job,) = BuildJobs(settings).all()
        assert job.state == "failed"
        assert job.error is not None
        assert job.error.why == "ZeroDivisionError: division by zero"

    def test_a_data_folder_that_cannot_be_written_is_named(self, tmp_path: Path):
        (tmp_path / "home").write_text("in the way")
        settings = settings_for(tmp_path / "home")
        with pytest.raises(StorageFailed, match="cannot be written"), as_build(ONNX, settings):
            pass
        with pytest.raises(StorageFailed, match="cannot be written"):
            BuildJobs(settings).start(ONNX, ADMIN)
        assert BuildJobs(settings).all() == []
