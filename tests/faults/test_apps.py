"""Faults of whole apps: killed under load and started again, two on one data folder, many visitors at the first moment."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from phi3kit.core.child_environment import child_environment
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.usage.outbox import Outbox
from tests.conftest import Built
from tests.support.stored import with_models_of, written_at_last
from tests.support.waiting import wait_for
from tests.support.warm_python import is_template


@pytest.fixture
def settings(built: Built, tmp_path: Path) -> Settings:
    return with_models_of(built, tmp_path / "home")


@contextmanager
def asking_app(settings: Settings, model_uri: str, seconds: float, answered: Path) -> Iterator[subprocess.Popen[str]]:
    """An app under the load of three visitors; ids of answered turns go into a file."""
    command = [sys.executable, "-m", "tests.support.asking_app", model_uri, "3", str(seconds)]
    with answered.open("w") as file:
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=child_environment(settings), stdout=file, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ids(path: Path) -> set[str]:
    """The turns that were answered; the last line may be cut."""
    return {line.strip() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")}


def answers(path: Path, count: int) -> None:
    wait_for(f"{count} answers", lambda: len(ids(path)) >= count)


class TestAnAppThatIsKilledUnderLoad:
    def test_its_workers_end_and_every_answered_turn_is_there_once_after_the_next_start(
        self, built: Built, settings: Settings, tmp_path: Path
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        with asking_app(settings, built.uri("onnx"), 600, first) as app:
            answers(first, 10)
            workers = [each for each in psutil.Process(app.pid).children() if not is_template(each.pid)]
            assert len(workers) == 1
            app.kill()
            assert psutil.wait_procs(workers, timeout=300)[1] == []
        with asking_app(settings, built.uri("onnx"), 1, second) as app:
            _, stderr = app.communicate(timeout=300)
            assert app.returncode == 0, stderr
        Outbox(settings.home).adopt_orphans(time.time() + 60)
        runs = written_at_last(settings)
        assert set(runs.values()) == {1}
        assert len(ids(second)) >= 3
        assert ids(first) | ids(second) <= runs.keys()
        # What nobody waited for any more is there too: at most one turn a visitor.
        assert len(runs) - len(ids(first) | ids(second)) <= 3


class TestTwoAppsOnOneDataFolder:
    def test_every_turn_of_both_is_there_once(self, built: Built, settings: Settings, tmp_path: Path) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        uri = built.uri("onnx")
        with asking_app(settings, uri, 4, one) as first, asking_app(settings, uri, 4, other) as second:
            for app in (first, second):
                _, stderr = app.communicate(timeout=300)
                assert app.returncode == 0, stderr
                assert "Traceback" not in stderr
        assert len(ids(one)) >= 3
        assert len(ids(other)) >= 3
        assert written_at_last(settings) == Counter(ids(one) | ids(other))


# What Streamlit does when visitors come together to a new app, each to another page: its server has imported the entry, and
# runs the files in threads.
FIRST_MOMENT = """
import ast, sys, threading
from pathlib import Path

from streamlit import config

config.set_option("server.address", "127.0.0.1")
import streamlit_app

sys.setswitchinterval(1e-5)
begin, failed = threading.Barrier(len(sys.argv) - 1), []

def visit(path):
    body = ast.parse(Path(path).read_text()).body
    imports = ast.Module([each for each in body if isinstance(each, (ast.Import, ast.ImportFrom))], [])
    try:
        begin.wait()
        exec(compile(imports, path, "exec"), {})
        from phi3kit.core.settings import read_settings
        from phi3kit.tracking.store import open_store
        open_store(read_settings())
    except Exception as error:
        failed.append(f"{path}: {type(error).__name__}: {error}")

threads = [threading.Thread(target=visit, args=(path,)) for path in sys.argv[1:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed)
"""


class TestTheFirstMoment:
    def test_visitors_who_come_together_all_find_the_app_whole(self, settings: Settings) -> None:
        pages = [f"pages/{name}.py" for name in ("usage", "models", "signatures", "chat", "evaluate")]
        done = subprocess.run(
            [sys.executable, "-c", FIRST_MOMENT, "streamlit_app.py", *pages], cwd=PROJECT_ROOT, env=child_environment(settings),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
