"""The store: made once, in its place, and clear about what is wrong with it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest

from phi3kit.core.errors import StorageFailed
from phi3kit.core.settings import PROJECT_ROOT, Settings
from phi3kit.tracking import registry, store
from phi3kit.tracking.logged_models import files_of, list_models
from phi3kit.tracking.store import BUILDS_EXPERIMENT, USAGE_EXPERIMENT, experiment_id, open_store
from phi3kit.tracking.upkeep import clean_up
from tests.conftest import settings_for
from tests.support.actors import ADMIN
from tests.support.samples import artifacts_of, logged_model, new_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


# Makes an experiment, which MLflow would report, and prints which addresses were asked.
_LISTEN = """
import json, sys, threading
asked = set()
def hear(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        asked.add(str(arguments[event == "socket.connect"]))
        raise OSError("nothing leaves this test")
sys.addaudithook(hear)
from phi3kit.core.settings import read_settings
from phi3kit.tracking.store import experiment_id
experiment_id(read_settings(), "some")
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(5)
print(json.dumps(sorted(asked)))
"""

# A graph of one operation, in ONNX Runtime.
_RUN_GRAPH = """
import phi3kit
import numpy, onnxruntime, onnxruntime_genai
from onnx import TensorProto, helper
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": numpy.zeros(1, numpy.float32)})
"""


class TestACopiedOrMovedFolder:
    """Its artifacts are those that lie in it, and never those of the folder that it was copied from."""

    def test_a_copy_lists_and_deletes_its_own_files_alone(self, tmp_path: Path) -> None:
        (tmp_path / "a folder").mkdir()
        first = new_store(tmp_path / "a folder")
        uri = logged_model(first, size_bytes=500)
        registry.register(uri, "phi3", ADMIN, first)
        run = open_store(first).create_run(experiment_id(first, BUILDS_EXPERIMENT)).info.run_id
        shutil.copytree(first.home, tmp_path / "copy")
        copy = settings_for(tmp_path / "copy")
        shutil.rmtree(artifacts_of(uri, first) / "..", ignore_errors=True)
        (listed,) = list_models(copy)
        assert (listed.size_bytes, listed.files_gone) == (500, False)
        assert ("MLmodel", 500) in files_of("models:/phi3/1", copy)
        inside = (copy.home / "artifacts" / BUILDS_EXPERIMENT).as_uri()
        assert open_store(copy).get_run(run).info.artifact_uri == f"{inside}/{run}/artifacts"
        assert open_store(copy).get_experiment_by_name(BUILDS_EXPERIMENT).artifact_location == inside

        artifacts_of(uri, first).mkdir(parents=True)
        (artifacts_of(uri, first) / "MLmodel").write_text("the original's")
        registry.delete_model(uri, ADMIN, copy)
        assert not artifacts_of(uri, copy).exists()
        assert (artifacts_of(uri, first) / "MLmodel").read_text() == "the original's"
        assert [each.model_uri for each in list_models(first)] == [uri]

    def test_a_moved_folder_has_its_files(self, settings: Settings, tmp_path: Path) -> None:
        uri = logged_model(settings, size_bytes=500)
        home = tmp_path.parent / f"{tmp_path.name}-moved"
        tmp_path.rename(home)
        moved = settings_for(home)
        assert [(each.size_bytes, each.files_gone) for each in list_models(moved)] == [(500, False)]
        assert ("MLmodel", 500) in files_of(uri, moved)
        another = logged_model(moved)
        assert artifacts_of(another, moved).is_dir()
        home.rename(tmp_path)  # pytest removes it

    def test_artifacts_that_were_put_elsewhere_stay_there(self, settings: Settings, tmp_path: Path) -> None:
        client = open_store(settings)
        elsewhere = (tmp_path / "elsewhere").as_uri()
        client.create_experiment("another program's", artifact_location=elsewhere)
        shutil.copytree(settings.home, tmp_path / "copy")
        found = open_store(settings_for(tmp_path / "copy")).get_experiment_by_name("another program's")
        assert found.artifact_location == elsewhere


class TestFetched:
    """Files that MLflow must copy: those of a store that is not the data folder's own."""

    def test_a_models_files_are_fetched_once_and_never_written_over(self, settings: Settings, tmp_path: Path) -> None:
        uri = logged_model(settings)
        far = settings_for(tmp_path / "far", MLFLOW_TRACKING_URI=settings.tracking_uri.reveal())
        assert ("MLmodel", 1000) in files_of(uri, far)
        (file,) = (tmp_path / "far" / "models").rglob("MLmodel")
        before = file.stat()
        (artifacts_of(uri, settings) / "MLmodel").unlink()  # is not asked for again
        assert ("MLmodel", 1000) in files_of(uri, far)
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_what_may_change_is_put_beside_what_a_process_has_open(self, settings: Settings, tmp_path: Path) -> None:
        client = open_store(settings)
        run = client.create_run(experiment_id(settings, BUILDS_EXPERIMENT)).info.run_id
        client.log_text(run, "flavors: {}", "made/MLmodel")
        far = settings_for(tmp_path / "far", MLFLOW_TRACKING_URI=settings.tracking_uri.reveal())
        assert files_of(f"runs:/{run}/made", far) == [("MLmodel", 11)]
        (file,) = (tmp_path / "far" / "models").rglob("MLmodel")
        with file.open() as opened:
            client.log_text(run, "flavors: {} # the second", "made/MLmodel")
            assert files_of(f"runs:/{run}/made", far) == [("MLmodel", 24)]
            assert (opened.read(), file.read_text()) == ("flavors: {}", "flavors: {} # the second")

    def test_upkeep_takes_what_nobody_asked_for_lately_as_a_whole(self, settings: Settings, tmp_path: Path) -> None:
        used, unused = logged_model(settings), logged_model(settings)
        far = settings_for(tmp_path / "far", MLFLOW_TRACKING_URI=settings.tracking_uri.reveal())
        for uri in (used, unused):
            files_of(uri, far)
        for path in (tmp_path / "far" / "models").rglob("*"):
            os.utime(path, (1, 1))
        for folder in (tmp_path / "far" / "models").iterdir():
            os.utime(folder, (1, 1))
        files_of(used, far)
        clean_up(ADMIN, far, 3600)
        (left,) = (tmp_path / "far" / "models").iterdir()
        assert used.removeprefix("models:/") in left.name
        assert (left / "whole" / "MLmodel").is_file()


class TestNothingIsReported:
    @pytest.mark.parametrize(("disabled", "asked"), [(None, []), ("false", ["config.mlflow-telemetry.io"])])
    def test_to_mlflows_makers_unless_someone_wants_it(self, tmp_path: Path, disabled: str | None, asked: list[str]):
        # Without what tells MLflow that it is in a test or in CI: it reports from neither.
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"PYTHONPATH": str(PROJECT_ROOT), "PHI3KIT_HOME": str(tmp_path)}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": disabled} if disabled else {}
        done = subprocess.run(
            [sys.executable, "-c", _LISTEN],
            env=environment,
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == asked

    def test_to_onnx_runtimes_makers_and_no_number_of_this_machine_is_kept(self, tmp_path: Path):
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT), "HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", _RUN_GRAPH], env=environment, cwd=PROJECT_ROOT, check=True)
        assert list(tmp_path.iterdir()) == []


class TestOpenStore:
    def test_makes_the_data_folder_and_the_store_in_it(self, tmp_path: Path):
        settings = settings_for(tmp_path / "new" / "home")
        assert [each.name for each in open_store(settings).search_experiments()] == ["Default"]
        assert (tmp_path / "new" / "home" / "mlflow.db").is_file()
        assert {each.name for each in (tmp_path / "new" / "home").iterdir()} == {"mlflow.db"}

    def test_mlflows_own_functions_use_the_store_that_was_opened_last(self, settings: Settings, tmp_path: Path):
        (tmp_path / "other").mkdir()
        other = new_store(tmp_path / "other")
        for each in (settings, other, settings):
            open_store(each)
            assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == (each.tracking_uri.reveal(),) * 2

    def test_an_open_store_that_another_program_locks_is_said_before_mlflow_waits(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(store, "_LOCKED_S", 0.1)
        open_store(settings)
        with closing(sqlite3.connect(settings.home / "mlflow.db", isolation_level=None)) as other:
            other.execute("begin exclusive")
            with pytest.raises(StorageFailed, match="Another program keeps the database locked"):
                open_store(settings)
            other.execute("rollback")
        assert [each.name for each in open_store(settings).search_experiments()] == ["Default"]

    @pytest.mark.timeout(100)  # MLflow alone would try for minutes
    @pytest.mark.parametrize(
        "uri",
        [
            "http://127.0.0.1:9",
            "sqlite:///{home}/file/mlflow.db",
            "sqlite:///{home}/folder",
            "sqlite:///{home}/garbage.db",
            "nonsense://nowhere",
            pytest.param(
                "mysql://ada:secret@127.0.0.1:9/mlflow",
                marks=pytest.mark.skipif(find_spec("MySQLdb") is not None, reason="its driver is installed"),
            ),
        ],
        ids=["no server", "below a file", "a folder", "damaged", "unknown kind", "no driver"],
    )
    def test_a_store_that_cannot_be_used_is_said_to_be_the_trouble(self, tmp_path: Path, uri: str):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        (tmp_path / "garbage.db").write_bytes(b"garbage" * 1000)
        settings = settings_for(tmp_path, MLFLOW_TRACKING_URI=uri.format(home=tmp_path))
        with pytest.raises(StorageFailed, match="The tracking store did not answer") as caught:
            experiment_id(settings, USAGE_EXPERIMENT)
        assert "MLFLOW_TRACKING_URI" in caught.value.next_step
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


class TestExperimentId:
    def test_an_experiment_is_made_once(self, settings: Settings):
        usage, builds = experiment_id(settings, USAGE_EXPERIMENT), experiment_id(settings, BUILDS_EXPERIMENT)
        assert usage != builds
        assert experiment_id(settings, USAGE_EXPERIMENT) == usage
        names = {each.name for each in open_store(settings).search_experiments()}
        assert names == {"Default", "phi3kit-builds", "phi3kit-usage"}

    def test_threads_that_need_it_at_once_get_the_same(self, settings: Settings):
        with ThreadPoolExecutor(6) as threads:
            ids = list(threads.map(lambda _: experiment_id(settings, USAGE_EXPERIMENT), range(6)))
        assert len(set(ids)) == 1

    def test_artifacts_of_the_own_store_lie_in_the_data_folder(self, settings: Settings):
        experiment = open_store(settings).get_experiment(experiment_id(settings, BUILDS_EXPERIMENT))
        assert experiment.artifact_location == (settings.home / "artifacts" / "phi3kit-builds").as_uri()

    def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(self, settings: Settings):
        usage = experiment_id(settings, USAGE_EXPERIMENT)
        open_store(settings).delete_experiment(usage)
        with pytest.raises(StorageFailed, match="It was deleted in MLflow") as caught:
            experiment_id(settings, USAGE_EXPERIMENT)
        assert caught.value.next_step == f"Restore it: mlflow experiments restore --experiment-id {usage}"
        open_store(settings).restore_experiment(usage)
        assert experiment_id(settings, USAGE_EXPERIMENT) == usage


class TestAnotherVersionsStore:
    def test_tables_of_an_older_mlflow_are_named_with_the_command_that_mends_them(self, settings: Settings):
        with closing(sqlite3.connect(settings.home / "mlflow.db")) as connection:
            connection.execute("update alembic_version set version_num = '0584bdc529eb'")
            connection.commit()
        with pytest.raises(StorageFailed, match="made by another version of MLflow") as caught:
            experiment_id(settings, USAGE_EXPERIMENT)
        assert "mlflow db upgrade" in caught.value.next_step


class TestWhatAServerSays:
    @pytest.mark.timeout(100)
    def test_a_port_where_nothing_listens_is_said_in_words(self, tmp_path: Path):
        with pytest.raises(StorageFailed) as caught:
            experiment_id(settings_for(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9"), USAGE_EXPERIMENT)
        assert caught.value.why == "No server is listening there."
