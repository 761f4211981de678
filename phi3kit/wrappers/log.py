"""Logging a wrapper: the two calls of the chapter, as today's MLflow wants them.

Knows mlflow.transformers and mlflow.pyfunc. Exports nothing, checks nothing, opens no run.
"""

from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.models import infer_signature
from mlflow.models.model import ModelInfo

ONNX_ARTIFACT = "phi3-mini-onnx"
MODEL_NAMES = {"transformers": "phi3-transformers", "onnx": "phi3-onnx"}

# What a logged model needs where it is loaded; nothing of phi3kit.
_PACKAGES = {
    "transformers": ("mlflow", "transformers", "torch", "tokenizers", "safetensors", "pandas"),
    "onnx": ("mlflow", "onnxruntime-genai", "onnxruntime", "numpy", "pandas"),
}
# How plain MLflow answers when a request says nothing: the chapter's temperature, which is close to greedy.
TRANSFORMERS_MODEL_CONFIG = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2}
ONNX_MODEL_CONFIG = {"max_tokens": 512}


def pip_requirements(wrapper: str) -> list[str]:
    """The pinned requirements that a logged model of this wrapper carries."""
    return [f"{package}=={version(package).split('+')[0]}" for package in _PACKAGES[wrapper]]


def log_transformers(folder: Path) -> ModelInfo:
    """Log the weights in `folder` as a chat pipeline, in the active run."""
    import transformers

    # dtype="auto" keeps the weights as they are; the default would write them back twice as large.
    pipeline = transformers.pipeline("text-generation", model=str(folder), dtype="auto")
    return mlflow.transformers.log_model(
        pipeline,
        name=MODEL_NAMES["transformers"],
        task="llm/v1/chat",
        model_config=TRANSFORMERS_MODEL_CONFIG,
        pip_requirements=pip_requirements("transformers"),
    )


def log_onnx(onnx_folder: Path) -> ModelInfo:
    """Log an exported ONNX folder behind the custom Python wrapper, in the active run."""
    return mlflow.pyfunc.log_model(
        name=MODEL_NAMES["onnx"],
        python_model=str(Path(__file__).with_name("onnx_wrapper.py")),
        artifacts={ONNX_ARTIFACT: str(onnx_folder)},
        model_config=ONNX_MODEL_CONFIG,
        signature=infer_signature({"prompt": "<|user|>\nHello<|end|>\n<|assistant|>\n"}, ["Run"]),
        pip_requirements=pip_requirements("onnx"),
    )
