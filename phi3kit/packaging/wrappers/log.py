"""Logging a wrapper: the chapter's two calls, as today's MLflow wants them, without copies of the weights.

MLflow's own log_model loads the weights whole, writes them to a temporary folder and copies them into the store. Here
MLflow writes everything else; the weights go straight to the model's artifacts.
Knows mlflow.transformers and mlflow.pyfunc. Exports nothing, checks nothing, opens no run: a folder that is logged whole must
be one that formats/model_copy.py or the export wrote.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.models import Model, infer_signature
from mlflow.models.model import MLMODEL_FILE_NAME, ModelInfo
from mlflow.models.utils import _save_example
from mlflow.utils.file_utils import local_file_uri_to_path

from phi3kit.core.operating_system import link
from phi3kit.formats.model_copy import link_or_copy
from phi3kit.tracking.logged_models import ONNX_ARTIFACT

MODEL_NAMES = {"transformers": "phi3-transformers", "onnx": "phi3-onnx"}

# What a logged model needs where it is loaded; nothing of phi3kit.
_PACKAGES = {
    "transformers": ("mlflow", "transformers", "torch", "tokenizers", "safetensors", "pandas"),
    "onnx": ("mlflow", "onnxruntime-genai", "onnxruntime", "numpy", "pandas"),
}
# How plain MLflow answers by default: the chapter's temperature, which is close to greedy.
TRANSFORMERS_MODEL_CONFIG = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.2}
# MLflow lets a loader override only what is named: temperature and top_p work once do_sample is set.
ONNX_MODEL_CONFIG = {"max_tokens": 512, "do_sample": False, "temperature": 1.0, "top_p": 1.0}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "transformers": {"messages": [{"role": "user", "content": "What is the capital of Spain?"}]},
    "onnx": {"prompt": "<|user|>\nWhat is the capital of Spain?<|end|>\n<|assistant|>\n"},
}

_MODEL_FOLDER = "model"  # where mlflow.transformers looks for config and weights
_SMALL = (".json", ".jinja", ".md")  # endings of a model's files that are no weights


def pip_requirements(wrapper: str) -> list[str]:
    """The pinned requirements that a logged model of this wrapper carries."""
    return [f"{package}=={version(package).split('+')[0]}" for package in _PACKAGES[wrapper]]


def log_transformers(folder: Path, source_name: str, metadata: Mapping[str, str]) -> ModelInfo:
    """Log the weights in `folder` as a chat pipeline, in the active run. Dtype and shards stay as they are."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):  # the model's form without its numbers: no memory, no time
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    # Not a path of this machine. With the space MLflow does not take it for a repository's name, which it
    # would look up on the hub.
    model.name_or_path = f"phi3kit {source_name}"
    model.save_pretrained = lambda save_directory, **_: _copy_small(folder, Path(save_directory))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    pipeline = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="meta")

    def save(path: str, mlflow_model: Model) -> None:
        mlflow.transformers.save_model(
            pipeline,
            path,
            mlflow_model=mlflow_model,
            task="llm/v1/chat",
            model_config=TRANSFORMERS_MODEL_CONFIG,
            pip_requirements=pip_requirements("transformers"),
        )
        for file in folder.glob("LICENSE*"):  # MLflow wrote a page that says that it found none
            if file.is_file():
                shutil.copyfile(file, Path(path) / "LICENSE.txt")

    return _log("transformers", save, TRANSFORMERS_MODEL_CONFIG, metadata, folder, _MODEL_FOLDER)


def log_onnx(onnx_folder: Path, metadata: Mapping[str, str]) -> ModelInfo:
    """Log an ONNX folder behind the custom Python wrapper, in the active run."""
    # MLflow takes the folder's name, under which it keeps the artifact, for a part of a URL.
    name = re.sub(r"[^\w.-]", "-", onnx_folder.name, flags=re.ASCII)

    def save(path: str, mlflow_model: Model) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            small = Path(temporary) / name
            _copy_small(onnx_folder, small)
            mlflow.pyfunc.save_model(
                path,
                mlflow_model=mlflow_model,
                python_model=str(Path(__file__).with_name("onnx_wrapper.py")),
                artifacts={ONNX_ARTIFACT: str(small)},
                model_config=ONNX_MODEL_CONFIG,
                signature=infer_signature({"prompt": "<|user|>\nHello<|end|>\n<|assistant|>\n"}, ["Run"]),
                pip_requirements=pip_requirements("onnx"),
            )

    return _log("onnx", save, ONNX_MODEL_CONFIG, metadata, onnx_folder, f"artifacts/{name}")


class _Flavor:
    """A flavor, as Model.log calls it: writes a model's folder, here without the weights."""

    def __init__(self, save: Callable[[str, Model], None], weight_bytes: int, example: dict[str, Any]) -> None:
        self._save, self._weight_bytes, self._example = save, weight_bytes, example

    def save_model(
        self, path: str, mlflow_model: Model, model_config: Mapping[str, Any], validate_serving_input: bool
    ) -> None:
        """Called by MLflow with a new folder. model_config: logged by MLflow as the run's params."""
        self._save(path, mlflow_model)
        _save_example(mlflow_model, self._example, path)  # given to save_model it would run a model without weights
        mlflow_model.model_size_bytes = (mlflow_model.model_size_bytes or 0) + self._weight_bytes
        _forget_paths(mlflow_model)
        mlflow_model.save(os.path.join(path, MLMODEL_FILE_NAME))


def _forget_paths(mlflow_model: Model) -> None:
    """Leave no path of this machine in the MLmodel; MLflow reads the files by their names beside it."""
    mlflow_model.artifact_path = None
    function = mlflow_model.flavors["python_function"]
    if code := function.get("model_code_path"):
        function["model_code_path"] = os.path.basename(code)
    for artifact in function.get("artifacts", {}).values():
        artifact["uri"] = artifact["path"]


def _log(
    wrapper: str,
    save: Callable[[str, Model], None],
    model_config: Mapping[str, Any],
    metadata: Mapping[str, str],
    folder: Path,
    inside: str,
) -> ModelInfo:
    """Log through MLflow, then put the weights of `folder` into the model's subfolder `inside`."""
    weights = [path for path in folder.resolve().iterdir() if _is_weights(path)]
    flavor = _Flavor(save, sum(path.stat().st_size for path in weights), _EXAMPLES[wrapper])
    info = Model.log(
        None,
        flavor,
        name=MODEL_NAMES[wrapper],
        metadata=dict(metadata),
        flavor_name=f"mlflow.{'transformers' if wrapper == 'transformers' else 'pyfunc'}",
        model_config=dict(model_config),
        validate_serving_input=False,  # the build asks the whole model afterwards
    )
    _place(info.model_id, weights, inside)
    return info


def _place(model_id: str, weights: list[Path], inside: str) -> None:
    """Put files into a logged model: linked where the store is a folder that allows it, else copied or uploaded."""
    client = MlflowClient()
    location = client.get_logged_model(model_id).artifact_location
    if location.startswith(("file:", "/")):
        target = Path(local_file_uri_to_path(location)) / inside
        target.mkdir(parents=True, exist_ok=True)
        for path in weights:
            link_or_copy(path, target / path.name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for path in weights:
            link(Path(temporary) / path.name, path.resolve())
        client.log_model_artifacts(model_id, temporary, inside)


def _copy_small(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if not _is_weights(path):
            shutil.copyfile(path, target / path.name)


def _is_weights(path: Path) -> bool:
    return path.suffix not in _SMALL and not path.name.startswith("LICENSE")
