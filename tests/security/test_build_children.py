"""Children that build: no secrets, bounds on memory, files and time, and closed where the system can close them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.packaging import export
from phi3kit.packaging.trial import START_S, TrialFailed, TrialProcess, confined_environment
from tests.support.folders import TOKENIZER, edit_json
from tests.support.waiting import wait_for

SECRETS = {
    "PHI3KIT_HF_TOKEN": "s3cret-1",
    "MLFLOW_TRACKING_PASSWORD": "s3cret-2",
    "MLFLOW_TRACKING_URI": "postgresql://u:s3cret-3@db/x",
    "AWS_SECRET_ACCESS_KEY": "s3cret-4",
    "PHI3KIT_API_KEY": "s3cret-5",
    "HF_TOKEN": "s3cret-6",
    "OPENAI_API_KEY": "s3cret-7",
    "DATABASE_URL": "postgresql://u:s3cret-8@db/x",
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialProcess]:
    with TrialProcess(0, tmp_path_factory.mktemp("trial")) as process:
        process.ask("start", START_S)
        yield process


def with_template(folder: Path, template: str) -> str:
    """A tokenizer with this template, in a folder that the trial may read."""
    folder.mkdir(parents=True)
    for name in TOKENIZER:
        shutil.copyfile(MODEL_FOLDER / name, folder / name)
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    return str(folder)


def place_of(trial: TrialProcess) -> Path:
    return Path(f"/proc/{trial._process.pid}/cwd").resolve().parent


class TestTemplate:
    @pytest.mark.parametrize(
        "template",
        [
            "{{ cycler.__init__.__globals__.os.system('touch PLACE') }}",
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{% include '/etc/passwd' %}",
            "{{ messages.__class__.__init__.__globals__ }}",
        ],
    )
    def test_that_would_escape_is_a_remark(self, trial: TrialProcess, template: str) -> None:
        place = place_of(trial) / f"escape-{abs(hash(template))}"
        evil = template.replace("PLACE", str(place / "was-here"))
        said = trial.ask("template", 60, folder=with_template(place, evil))
        assert said.startswith("Its own chat template refuses messages: ")
        assert not (place / "was-here").exists()

    def test_that_takes_all_memory_is_a_remark(self, trial: TrialProcess) -> None:
        folder = with_template(place_of(trial) / "memory", "{{ 'a' * 10**10 }}")
        said = trial.ask("template", 60, folder=folder)
        assert said.startswith("Its own chat template refuses messages: MemoryError")

    def test_that_writes_megabytes_is_shown_in_part(self, trial: TrialProcess) -> None:
        folder = with_template(place_of(trial) / "long", "{{ 'a ' * 10**6 }}")
        assert len(trial.ask("template", 60, folder=folder)) < 1000

    def test_that_never_ends_is_ended(self, tmp_path: Path) -> None:
        """It hung a build for ever."""
        loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
        folder = with_template(tmp_path / "loop", loop)
        with TrialProcess(0, tmp_path) as process:
            process.ask("start", START_S)
            with pytest.raises(TrialFailed, match="The template did not end within 1 s"):
                process.ask("template", 1, folder=folder)


class TestProcess:
    def test_ends_with_its_parent(self, tmp_path: Path) -> None:
        with TrialProcess(0, tmp_path) as process:
            process.ask("start", START_S)
            process._process.stdin.close()  # as the system does when a parent ends, however it ends
            wait_for("its end", lambda: process._process.poll() is not None)

    def test_a_step_that_fails_says_why(self, trial: TrialProcess) -> None:
        with pytest.raises(TrialFailed, match="no such"):
            trial.ask("check", 60, folder="/no such", wrapper="onnx")

    def test_one_that_died_is_said(self, tmp_path: Path) -> None:
        with TrialProcess(0, tmp_path) as process:
            os.kill(process._process.pid, 9)
            with pytest.raises(TrialFailed, match="killed, perhaps because memory ran out"):
                process.ask("start", 60)


class TestSecrets:
    def test_are_in_no_environment_of_a_child_that_builds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        assert "s3cret" not in json.dumps(confined_environment(0, tmp_path, tmp_path / "out"))

    def test_are_not_told_to_the_model_builder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SECRETS.items():
            monkeypatch.setenv(name, value)
        told: list[dict[str, str]] = []

        class Stop(Exception):
            pass

        def started(command: list[str], env: dict[str, str], **_: object) -> None:
            told.append(env)
            raise Stop

        monkeypatch.setattr(export.subprocess, "Popen", started)
        with pytest.raises(Stop):
            export.export_onnx(MODEL_FOLDER, tmp_path / "onnx", "int4")
        assert "s3cret" not in json.dumps(told)
        assert "PATH" in told[0]


PROBE = """
import json, os, socket, sys
from phi3kit.core.confinement import confine
closed = confine()
def does(act):
    try:
        act()
        return "done"
    except BaseException as error:
        return type(error).__name__
place, port = sys.argv[1], int(sys.argv[2])
print(json.dumps({
    "closed": closed,
    "memory": does(lambda: bytearray(10**10)),
    "file": does(lambda: open(f"{place}/out/big", "wb").truncate(10**12)),
    "own file": does(lambda: open(f"{place}/out/small", "w").write("x")),
    "model": does(lambda: open(f"{place}/model/config").read()),
    "model, to write": does(lambda: open(f"{place}/model/config", "w")),
    "elsewhere": does(lambda: open(f"{place}/secret").read()),
    "elsewhere, to write": does(lambda: open(f"{place}/more", "w")),
    "parent": does(lambda: open(f"/proc/{os.getppid()}/environ").read()),
    "signal": does(lambda: os.kill(os.getppid(), 0)),
    "network": does(lambda: socket.create_connection(("127.0.0.1", port), 5)),
}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX has the limits")
def test_a_child_is_bounded_and_where_landlock_is_closed(tmp_path: Path) -> None:
    import socket

    (tmp_path / "model").mkdir()
    for name in ("model/config", "secret"):
        (tmp_path / name).write_text("x")
    environment = confined_environment(0, tmp_path / "model", tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(tmp_path), port],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(done.stdout)
    assert (found["memory"], found["file"], found["own file"], found["model"]) == (
        "MemoryError",
        "OSError",
        "done",
        "done",
    )
    if not found["closed"]:
        pytest.skip("this kernel has no Landlock: the limits hold, files and network stay open")
    refused = ("model, to write", "elsewhere", "elsewhere, to write", "parent")
    assert [found[each] for each in refused] == ["PermissionError"] * 4
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12):
        assert [found[each] for each in ("signal", "network")] == ["PermissionError"] * 2
