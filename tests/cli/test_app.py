"""`phi3kit app`, and phi3kit as pip installs it: in an environment outside the project, started from a foreign folder."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.deployment.servers import free_port
from tests.support.in_browser import needs_browser, tab_on
from tests.support.waiting import wait_for_server

# Every page, as Streamlit runs it; what went wrong is printed.
_PAGES = """
from phi3kit.core.settings import APP_FOLDER
from streamlit.testing.v1 import AppTest
app = AppTest.from_file(str(APP_FOLDER / "streamlit_app.py"), default_timeout=300).run()
pages = sorted(path.stem for path in (APP_FOLDER / "pages").glob("*.py"))
for name in pages:
    app = app.switch_page(f"pages/{name}.py").run()
    assert not app.exception, (name, app.exception)
    assert not [each for each in app.error if "failed" in each.value], (name, app.error)
    assert app.title, name
print(APP_FOLDER, len(pages))
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it, a user's home folder, and a folder that phi3kit is started from."""

    programs: Path
    home: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of a user who has set nothing."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PHI3KIT_", "MLFLOW_"))}
        kept.pop("PYTHONPATH", None)
        return {**kept, "HOME": str(self.home)}

    def run(self, program: str, *arguments: str) -> str:
        """What a command prints. It must succeed."""
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def app(self) -> Iterator[str]:
        """The URL of the app as `phi3kit app` opens it."""
        port = free_port()
        command = [self.programs / "phi3kit", "app", "--port", str(port)]
        with subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True) as app:
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for_server(f"{url}/_stcore/health", app)
                assert app.stdout is not None
                assert app.stdout.readline() == f"The data folder is {self.home / '.phi3kit'} (PHI3KIT_HOME).\n"
                yield url
            finally:
                app.terminate()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, which finds the dependencies where this one has them."""
    root = tmp_path_factory.mktemp("installed")
    environment, home, folder = root / "environment", root / "home", root / "folder"
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", root, PROJECT_ROOT], check=True, timeout=300)
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    found = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(found), "utf-8")
    pip += ["--python", str(environment / "bin" / "python")]
    (wheel,) = root.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", wheel], check=True, timeout=300)
    subprocess.run([*pip, "check"], check=True, timeout=300)  # that the wheel names what phi3kit needs
    home.mkdir()
    folder.mkdir()
    for name in ("phi3kit", "mlflow", "random"):  # no user's file may be taken for a library
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the folder was imported')")
    return Installed(environment / "bin", home, folder)


@pytest.mark.slow
class TestInstalled:
    @pytest.fixture(autouse=True)
    def _nothing_is_written_beside(self, installed: Installed) -> Iterator[None]:
        before = sorted(path for path in installed.programs.parent.rglob("*") if path.suffix != ".pyc")
        yield
        after = sorted(path for path in installed.programs.parent.rglob("*") if path.suffix != ".pyc")
        assert [path for path in after if path not in before and path.name != "__pycache__"] == []
        assert len(list(installed.folder.iterdir())) == 3
        assert {path.name for path in installed.home.iterdir()} <= {".phi3kit"}

    def test_every_page_of_the_package_opens(self, installed: Installed) -> None:
        folder, count = installed.run("python", "-P", "-c", _PAGES).splitlines()[-1].split()
        assert (installed.programs.parent in Path(folder).parents, int(count)) == (True, 13)

    def test_a_model_is_built_and_answers(self, installed: Installed) -> None:
        built = json.loads(installed.run("phi3kit", "build", "--wrapper", "onnx", "--json").splitlines()[-1])
        assert "Madrid" in installed.run("phi3kit", "chat", built["model_uri"], "What is the capital of Spain?")
        assert (installed.home / ".phi3kit" / "mlflow.db").is_file()

    def test_the_app_opens(self, installed: Installed) -> None:
        with installed.app():
            pass

    @pytest.mark.browser
    @needs_browser[1]
    def test_the_app_looks_as_in_the_project(self, installed: Installed, tmp_path: Path) -> None:
        with installed.app() as url, tab_on(f"{url}/build", tmp_path) as page:
            page.get_by_role("heading", name="Build", exact=True).wait_for()
            sidebar = page.get_by_test_id("stSidebar")
            colour = sidebar.evaluate("each => getComputedStyle(each).backgroundColor")
            assert colour == "rgb(245, 246, 250)"  # the theme of .streamlit/config.toml
            assert page.evaluate("getComputedStyle(document.documentElement).fontSize") == "15px"
