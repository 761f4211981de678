"""The data folder: nobody else on the machine reads it, nothing is written beside it, and a walk of it never ends early."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from phi3kit.access.keys import KeyStore
from phi3kit.cli.main import main
from phi3kit.core import data_folder
from phi3kit.core.data_folder import disk_bytes, files_under, keep_private, keep_temporary_files, prepare_home
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.tracking.store import experiment_id, open_store
from tests.conftest import settings_for
from tests.support.actors import ADMIN
from tests.support.made_tables import new_database


@pytest.fixture(autouse=True)
def open_umask():  # type: ignore[no-untyped-def]
    """A machine whose users read each other's files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestRights:
    def test_a_new_data_folder_is_its_owners_alone(self, tmp_path: Path) -> None:
        prepare_home(tmp_path / "a" / "home")
        assert mode(tmp_path / "a" / "home") == 0o700

    def test_an_earlier_one_is_closed(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir(mode=0o755)
        (home / "mlflow.db").touch(mode=0o644)
        prepare_home(home)
        assert mode(home) == 0o700

    def test_a_folder_that_everybody_shares_stays_one(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        prepare_home(tmp_path)
        assert mode(tmp_path) == 0o1777

    def test_what_the_command_line_writes_is_private(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        environment = {**os.environ, "PHI3KIT_HOME": str(home)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        code = "import os, sys; from phi3kit.cli.main import main; sys.exit(main(['keys', 'create', 'ada']))"
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=PROJECT_ROOT, check=True, capture_output=True)
        assert mode(home) == 0o700
        assert [path.name for path, found in files_under(home) if found.st_mode & 0o077] == []

    def test_temporary_files_of_a_worker_and_its_children_lie_in_it_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        keep_temporary_files(tmp_path / "home")
        with tempfile.TemporaryDirectory() as made:
            assert Path(made).parent == tmp_path / "home" / "tmp"
        assert os.environ["TMPDIR"] == str(tmp_path / "home" / "tmp")

    def test_every_entry_closes_the_umask_for_its_children_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep_private()
        done = subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0077"
        os.umask(0o022)
        with pytest.raises(SystemExit):
            main(["nonsense"])
        monkeypatch.setenv("PHI3KIT_HOME", str(tmp_path))
        main(["keys", "list"])
        assert os.umask(0o022) == 0o077
        for entry in ("phi3kit/worker/__main__.py", "streamlit_app.py"):
            assert "    keep_private()\n" in (PROJECT_ROOT / entry).read_text()


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_artifacts_of_another_database_lie_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    new_database(tmp_path / "other.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = settings_for(tmp_path / "home", MLFLOW_TRACKING_URI=f"{scheme}:///{tmp_path / 'other.db'}")
    made = open_store(settings).get_experiment(experiment_id(settings, "phi3kit-builds"))
    assert made.artifact_location == (settings.home / "artifacts" / "phi3kit-builds").as_uri()
    assert list((tmp_path / "elsewhere").iterdir()) == []


class TestWalks:
    def test_a_folder_that_vanishes_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("a", "b", "c"):
            (tmp_path / name / "deep").mkdir(parents=True)
            (tmp_path / name / "deep" / "file").write_bytes(b"x" * 100)
        scandir = os.scandir

        def racing(place):  # type: ignore[no-untyped-def]
            if Path(place).name == "b":
                raise FileNotFoundError(place)
            return scandir(place)

        monkeypatch.setattr(os, "scandir", racing)
        assert disk_bytes(tmp_path) == 200

    def test_links_are_no_files(self, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "secret").write_text("private")
        (tmp_path / "home" / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "home" / "folder").symlink_to(tmp_path)
        assert list(data_folder.files_under(tmp_path / "home")) == []


def test_a_key_store_alone_is_private(tmp_path: Path) -> None:
    keep_private()
    KeyStore(tmp_path / "home").create("ada", "", ADMIN)
    assert [path.name for path, found in files_under(tmp_path / "home") if found.st_mode & 0o077] == []
    assert mode(tmp_path / "home") == 0o700
