"""phi3kit: package Phi-3 as an MLflow model in two ways, compare, chat, and measure tokens."""

import os

__version__ = "0.1.0"

# MLflow and ONNX Runtime report what is done with them to their makers, and decide so while they are imported. ONNX Runtime
# keeps a device's number for that in the user's cache folder. From here only who wants it reports.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
