"""MLflow Project: MLflow's own `mlflow run`, and what it leaves in the app's store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from phi3kit.cli.project import own_environment
from phi3kit.core.settings import PROJECT_ROOT
from phi3kit.tracking.logged_models import list_models
from tests.batch.test_batch import rows_of, table_of
from tests.conftest import Built, settings_for

BIN = Path(sys.executable).parent


def mlflow_run(entry_point: str, home: Path, tmp_path: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    """As a user types it, in an activated environment."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment |= {"PHI3KIT_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}
    given = [each for parameter in parameters for each in ("-P", parameter)]
    # MLflow keeps its own record of the project's run in ./mlflow.db: not in the source tree while tests run.
    uri = f"sqlite:///{tmp_path / 'projects.db'}"
    return subprocess.run(
        [str(BIN / "mlflow"), "run", str(PROJECT_ROOT), "-e", entry_point, *given, "--env-manager", "local"],
        cwd=tmp_path, env=environment | {"MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


class TestMlflowRun:
    @pytest.mark.slow
    def test_build_appears_in_the_store_that_mlflow_run_was_given(self, tmp_path: Path) -> None:
        done = mlflow_run("build", tmp_path / "home", tmp_path, "wrapper=onnx")
        assert done.returncode == 0, done.stderr[-2000:]
        settings = settings_for(tmp_path / "home", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'projects.db'}")
        (model,) = list_models(settings)
        assert (model.wrapper, model.source) == ("onnx", "embedded")

    @pytest.mark.slow
    def test_batch_writes_its_output(self, built: Built, tmp_path: Path) -> None:
        path = table_of(tmp_path, "What is the capital of Spain?")
        output = tmp_path / "out.csv"
        environment = {**os.environ, "PHI3KIT_HOME": str(built.home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(
            [
                str(BIN / "mlflow"), "run", str(PROJECT_ROOT), "-e", "batch", "--env-manager", "local",
                "-P", f"model_uri={built.uri('onnx')}", "-P", f"input={path}", "-P", f"output={output}",
            ],
            env=environment | {"MLFLOW_TRACKING_URI": built.settings.tracking_uri.reveal()},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert rows_of(output)[0]["completion"] == "The capital of Spain is Madrid."


class TestEnvironment:
    def test_a_store_that_mlflow_made_up_is_replaced_by_the_apps_own(self) -> None:
        made_up = f"sqlite:///{PROJECT_ROOT / 'mlflow.db'}"
        found = own_environment({"MLFLOW_TRACKING_URI": made_up, "MLFLOW_RUN_ID": "1", "PATH": "/bin"})
        assert found == {"PATH": "/bin"}

    def test_a_store_that_somebody_chose_stays(self) -> None:
        assert own_environment({"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000", "MLFLOW_EXPERIMENT_ID": "0"}) == {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"
        }


class TestFiles:
    def test_every_entry_point_is_a_command(self) -> None:
        project = yaml.safe_load((PROJECT_ROOT / "MLproject").read_text("utf-8"))
        assert set(project["entry_points"]) == {"main", "build", "batch", "evaluate", "bench"}

    @pytest.mark.parametrize("name", ["build", "batch", "evaluate"])
    def test_each_ones_options_are_known(self, name: str) -> None:
        project = yaml.safe_load((PROJECT_ROOT / "MLproject").read_text("utf-8"))
        options = [word for word in project["entry_points"][name]["command"].split() if word.startswith("--")]
        shown = subprocess.run(
            [sys.executable, "-m", "phi3kit", name, "--help"],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert [option for option in options if option not in shown] == []
