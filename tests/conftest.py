"""What tests share: a real store in a temporary folder, both wrappers built once, real workers.

Everything that is built here is built by the command line from the embedded model, as a user would.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from phi3kit.core.machine import keep_loaded_out_of_collections
from phi3kit.core.records import Endpoint, WrapperName
from phi3kit.core.settings import PROJECT_ROOT, Settings, read_settings
from phi3kit.endpoints.workers import WorkerPool
from tests.support import made_tables, no_disk_waits, shared_certificates, warm_python
from tests.support.built_store import built_store
from tests.support.samples import copy_of_store

CHAPTER_PROMPT = "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"


def settings_for(home: Path, **values: str) -> Settings:
    """Settings with their own data folder, whatever the environment says."""
    return read_settings({"PHI3KIT_HOME": str(home), **values})


def run_cli(
    *arguments: str, home: Path, timeout: float = 300, file_bytes: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m phi3kit` as a user would. file_bytes: as if the disk took no bigger file."""
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    env = {**inherited, "PHI3KIT_HOME": str(home), **environment}
    module = ["phi3kit"] if file_bytes is None else ["tests.support.small_files", str(file_bytes), "phi3kit"]
    return subprocess.run(
        [sys.executable, "-m", *module, *arguments],
        cwd=PROJECT_ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# libgomp's threads wait for work by computing, which on a busy machine costs torch four times what the work does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read where torch is imported: here later, and by children
warm_python.install()
made_tables.install()
no_disk_waits.install()
shared_certificates.install()
gc.disable()  # until all tests are collected: what is imported stays

_main = sys.modules["__main__"]
if _main.__spec__ is None and not hasattr(_main, "__file__"):
    # pytest-xdist's processes are `python -c`: pyspark, imported there, takes them for its own doctests and exits.
    _main.__spec__ = ModuleSpec("__main__", None)


def pytest_collection_finish() -> None:
    """What is loaded stays: Streamlit's test runner collects all garbage after each run, as the app's own does."""
    gc.enable()
    keep_loaded_out_of_collections()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A browser test that failed says what stood on its page."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and page is not None:
        with contextlib.suppress(Exception):  # the browser is gone
            report.sections.append(("the page", f"{page.url}\n{page.locator('body').inner_text(timeout=5000)}"))
            report.sections.append(("the page's runs", "\n".join(page.evaluate("window.runsSeen"))))
    return report


@pytest.fixture(autouse=True)
def _process_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What libraries leave behind in the process is taken back.

    Streamlit's test runner leaves the page that it ran as __main__, which processes of later tests would run again. MLflow
    leaves a store's address in the environment, where later tests' children would look for their models.
    """
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def cold_python() -> Iterator[None]:
    """Children of the test start from nothing: its subject is their memory, or what they import."""
    with warm_python.cold():
        yield


@dataclass(frozen=True)
class Built:
    """Both wrappers, built once for all tests, and what the command line said."""

    home: Path
    settings: Settings
    lines: list[dict[str, Any]]  # every JSON line of `build --json`
    results: dict[str, dict[str, Any]]  # the last line of each wrapper
    cpu_seconds: float  # of the whole command

    def uri(self, wrapper: WrapperName) -> str:
        """The model URI of a wrapper."""
        return str(self.results[wrapper]["model_uri"])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both embedded wrappers in a store of their own."""
    home = tmp_path_factory.mktemp("built") / "home"
    said = built_store(home, run_cli)
    lines = [json.loads(line) for line in said["stdout"].splitlines()]
    results = {line["wrapper"]: line for line in lines if "model_uri" in line}
    settings = settings_for(home, PHI3KIT_IDLE_SECONDS="7200")  # other tests may come between two that share a worker
    return Built(home, settings, lines, results, said["cpu_seconds"])


@pytest.fixture(scope="session")
def pool(built: Built) -> Iterator[WorkerPool]:
    """Workers for the built wrappers; they end with the tests."""
    workers = WorkerPool(built.settings)
    yield workers
    workers.close()


@pytest.fixture(scope="session", params=["transformers", "onnx"])
def endpoint(request: pytest.FixtureRequest, built: Built, pool: WorkerPool) -> Endpoint:
    """A ready worker of each wrapper: a test that takes it runs twice."""
    return pool.endpoint(built.uri(request.param))


@pytest.fixture(scope="session")
def onnx_endpoint(built: Built, pool: WorkerPool) -> Endpoint:
    """The ready worker of the onnx wrapper."""
    return pool.endpoint(built.uri("onnx"))


@pytest.fixture(scope="module")
def built_copy(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both wrappers in a data folder of the module's own, where no turns of other tests wait to be written."""
    home = tmp_path_factory.mktemp("copy")
    copy_of_store(built.settings, home)
    return replace(built, home=home, settings=settings_for(home, PHI3KIT_IDLE_SECONDS="7200"))


@pytest.fixture(scope="module")
def home(built_copy: Built) -> Iterator[Built]:
    """An app on a store in which both wrappers are built."""
    from tests.support.in_app import app_on

    with app_on(built_copy.home):
        yield built_copy
