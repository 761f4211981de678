"""phi3kit: package Phi-3 as an MLflow model in two ways, compare, chat, and measure tokens."""

import os

__version__ = "0.1.0"

# MLflow reports what is done with it to its makers, and decides so while it is imported. From here only who wants that does.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
