"""Project: the command line as `mlflow run` starts it.

    mlflow run . -e build -P wrapper=onnx --env-manager local

MLflow hands its tracking store to what it starts; where nobody has chosen one, it makes up ./mlflow.db. phi3kit's own
store takes its place then, so that the app shows what is built. Knows MLflow's variables only.
"""

import os
import sys

from phi3kit.core.operating_system import become
from phi3kit.core.settings import PROJECT_ROOT

# Of the run that MLflow made for the project; phi3kit's commands make runs of their own.
_OF_THE_PROJECT = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


def own_environment(found: dict[str, str]) -> dict[str, str]:
    """The environment for phi3kit's commands, without a store that MLflow made up."""
    kept = {name: value for name, value in found.items() if name not in _OF_THE_PROJECT}
    made_up = f"sqlite:///{PROJECT_ROOT / 'mlflow.db'}"
    if kept.get("MLFLOW_TRACKING_URI") == made_up:
        del kept["MLFLOW_TRACKING_URI"]
    return kept


def main() -> None:
    """Replace this process by a command of phi3kit."""
    command = [sys.executable, "-m", "phi3kit", *sys.argv[1:]]
    become(command, own_environment(dict(os.environ)))


if __name__ == "__main__":
    main()
