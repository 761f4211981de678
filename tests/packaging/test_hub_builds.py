"""Builds from the hub: the whole command line, from a repository's name to a logged model, and what breaks on the way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.settings import PROJECT_ROOT, read_settings
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJob, BuildJobs
from phi3kit.tracking.logged_models import list_models, resolve
from tests.conftest import Built, settings_for
from tests.support.actors import ADMIN
from tests.support.hub_server import Fault, Hub, local_hub
from tests.support.waiting import has_ended, wait_for

REPO = "microsoft/Phi-3-mini-4k-instruct"
TOKEN = "hf_a-token-that-nobody-may-read"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as server:
        server.add(REPO, MODEL_FOLDER, license="mit")
        yield server


def start(hub: Hub, home: Path, *arguments: str, token: str = "") -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment = {**inherited, "PHI3KIT_HOME": str(home), "HF_ENDPOINT": hub.url, "PHI3KIT_HF_TOKEN": token}
    return subprocess.Popen(
        [sys.executable, "-m", "phi3kit", "build", "--json", *arguments],
        cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def build(hub: Hub, home: Path, *arguments: str, token: str = "") -> tuple[int, list[dict[str, object]], list[str]]:
    """Exit code, the JSON lines of stdout, the lines of stderr."""
    stdout, stderr = (process := start(hub, home, *arguments, token=token)).communicate(timeout=300)
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr.strip().splitlines()


def weights_asked(hub: Hub) -> int:
    return len(hub.requests("GET", ".safetensors"))


class TestBuild:
    def test_both_wrappers_come_from_one_download_whose_weights_are_linked_and_say_where_from(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        code, lines, stderr = build(hub, tmp_path, "--wrapper", "both", "--source", REPO)
        assert code == 0, stderr
        built = [line for line in lines if "model_uri" in line]
        commit = hub.repos[REPO].revisions["main"]
        assert [(each["wrapper"], each["source"], each["commit"], each["license"]) for each in built] == [
            ("onnx", REPO, commit, "mit"),
            ("transformers", REPO, commit, "mit"),
        ]
        assert all("Madrid" in str(each["check_answer"]) for each in built)
        assert weights_asked(hub) == 1
        settings = settings_for(tmp_path)
        client = MlflowClient(settings.tracking_uri.reveal())
        for each in built:
            run = client.get_run(str(each["run_id"]))
            assert (run.data.params["commit"], run.data.params["license"]) == (commit, "mit")
            folder = resolve(str(each["model_uri"]), settings).folder
            assert f"phi3kit.commit: {commit}" in (folder / "MLmodel").read_text()
        logged = resolve(str(built[1]["model_uri"]), settings).folder / "model/model.safetensors"
        (blob,) = (path for path in (tmp_path / "hub").rglob("blobs/*") if path.stat().st_size > 10_000_000)
        assert logged.stat().st_ino == blob.stat().st_ino  # linked, not copied
        assert not logged.is_symlink()
        progress = [line for line in lines if line.get("step") == "download" and line["event"] == "progress"]
        assert progress[-1]["done"] == progress[-1]["total"] > 10_000_000  # type: ignore[operator]

    def test_a_folder_of_an_onnx_repository_is_wrapped_without_an_export(
        self, built: Built, hub: Hub, tmp_path: Path
    ) -> None:
        place = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4"
        (exported,) = resolve(built.uri("onnx"), built.settings).folder.glob("artifacts/*")
        hub.add(f"{REPO}-onnx", {f"{place}/{path.name}": path.read_bytes() for path in exported.iterdir()})
        code, lines, stderr = build(hub, tmp_path / "home", "--wrapper", "onnx", "--source", f"{REPO}-onnx/{place}")
        assert code == 0, stderr
        steps = [line["step"] for line in lines if line.get("event") == "step" and line["seconds"] is None]
        assert steps == ["download", "prepare", "log", "check"]
        assert lines[-1]["check_answer"] == "The capital of Spain is Madrid."


class TestRefusal:
    def test_another_architecture_is_refused_before_its_weights_are_asked_for(self, hub: Hub, tmp_path: Path) -> None:
        files = {path.name: path.read_bytes() for path in MODEL_FOLDER.iterdir()}
        files["config.json"] = b'{"architectures": ["LlamaForCausalLM"]}'
        hub.add("meta/llama", files)
        code, _, stderr = build(hub, tmp_path, "--wrapper", "both", "--source", "meta/llama")
        assert (code, len(stderr)) == (2, 1)
        assert "LlamaForCausalLM" in stderr[0]
        assert weights_asked(hub) == 0

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("microsoft/no-such-model", "has no such model, or it is private"),
            (f"{REPO}@v9", "has no revision v9"),
            (f"{REPO}/cpu", "The folder cpu has no weights"),
        ],
    )
    def test_a_wrong_name_is_one_line_and_exit_code_2(self, hub: Hub, tmp_path: Path, source: str, reason: str) -> None:
        code, _, stderr = build(hub, tmp_path, "--wrapper", "onnx", "--source", source)
        assert (code, len(stderr)) == (2, 1)
        assert reason in stderr[0]
        assert "There is no such folder on this machine either." in stderr[0]

    def test_a_model_that_does_not_fit_the_disk_is_refused_with_the_figures(self, hub: Hub, tmp_path: Path) -> None:
        hub.sizes["model.safetensors"] = 10**15
        code, _, stderr = build(hub, tmp_path, "--wrapper", "transformers", "--source", REPO)
        assert (code, len(stderr)) == (2, 1)
        assert "does not fit on this machine" in stderr[0]
        assert "1000000.0 GB of" in stderr[0]
        assert weights_asked(hub) == 0


class TestBreaks:
    def test_a_cancelled_download_leaves_the_store_clean_and_goes_on_next_time(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults["model.safetensors"] = Fault(slow=2_000_000)
        process = start(hub, tmp_path, "--wrapper", "transformers", "--source", REPO)
        self._wait_for_bytes(process, 1_000_000)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
        assert process.returncode == 128 + signal.SIGTERM
        self._goes_on(hub, tmp_path, "cancelled")

    def test_a_killed_download_leaves_the_store_clean_and_goes_on_next_time(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults["model.safetensors"] = Fault(slow=2_000_000)
        process = start(hub, tmp_path, "--wrapper", "transformers", "--source", REPO)
        self._wait_for_bytes(process, 1_000_000)
        process.kill()
        process.communicate(timeout=300)
        self._goes_on(hub, tmp_path, "failed")

    def _wait_for_bytes(self, process: subprocess.Popen[str], count: int) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("done", 0) > count:
                return
        raise AssertionError("the download ended before it was broken off")

    def _goes_on(self, hub: Hub, home: Path, state: str) -> None:
        settings = settings_for(home)
        assert [job.state for job in BuildJobs(settings).all()] == [state]
        assert list_models(settings) == []
        hub.faults.clear()
        code, lines, stderr = build(hub, home, "--wrapper", "transformers", "--source", REPO)
        assert code == 0, stderr
        assert "Madrid" in str(lines[-1]["check_answer"])
        ranges = [seen.range for seen in hub.requests("GET", ".safetensors")]
        assert ranges[0] is None
        assert int(str(ranges[-1]).removeprefix("bytes=").rstrip("-")) > 500_000

    def test_a_damaged_file_is_named_and_another_build_goes_on(self, hub: Hub, tmp_path: Path) -> None:
        hub.faults["model.safetensors"] = Fault(damaged=True, times=1)
        code, _, stderr = build(hub, tmp_path, "--wrapper", "transformers", "--source", REPO)
        assert (code, len(stderr)) == (2, 1 + _steps(stderr))
        assert "model.safetensors arrived damaged" in stderr[-1]
        code, _, stderr = build(hub, tmp_path, "--wrapper", "transformers", "--source", "embedded")
        assert code == 0, stderr
        code, _, stderr = build(hub, tmp_path, "--wrapper", "transformers", "--source", REPO)
        assert code == 0, stderr

    def test_a_token_opens_a_gated_model_and_is_written_nowhere(self, hub: Hub, tmp_path: Path) -> None:
        hub.add("team/fine-tune", MODEL_FOLDER, gated=True)
        hub.tokens[TOKEN] = True
        code, _, stderr = build(hub, tmp_path, "--wrapper", "transformers", "--source", "team/fine-tune")
        assert code == 2
        assert "PHI3KIT_HF_TOKEN" in stderr[-1]
        code, lines, stderr = build(
            hub, tmp_path, "--wrapper", "transformers", "--source", "team/fine-tune", token=TOKEN
        )
        assert code == 0, stderr
        assert TOKEN not in json.dumps(lines) + "".join(stderr)
        for path in tmp_path.rglob("*"):
            assert not (path.is_file() and TOKEN.encode() in path.read_bytes()), path


def _steps(stderr: list[str]) -> int:
    return sum(" s" in line and ": " in line and "phi3kit" not in line for line in stderr)


def test_a_cancelled_job_of_the_app_ends_its_download_and_its_process(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.faults["model.safetensors"] = Fault(slow=500_000)
    settings = read_settings({"PHI3KIT_HOME": str(tmp_path), "HF_ENDPOINT": hub.url})
    jobs = BuildJobs(settings)

    def downloading() -> BuildJob | None:
        job = jobs.latest(ADMIN)
        return job if job and job.progress and job.progress.done else None

    jobs.start(BuildRequest(("transformers",), REPO, "int4"), ADMIN)
    job = wait_for("the download", downloading)
    pid = json.loads((job.folder / "job.json").read_text())["pid"]
    jobs.cancel(job, ADMIN)
    assert jobs.all()[0].state == "cancelled"
    wait_for("the end of its process", lambda: has_ended(pid))
