"""Azure: one logged model with everything that an Azure ML managed online endpoint needs, as one zip.

Knows Azure ML's YAML and its custom deployment of an MLflow model (the no-code route fails with MLflow 3 models).
Calls no Azure and loads no weights. The same model gives the same bytes.
"""

import contextlib
import copy
import errno
import json
import os
import re
import secrets
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import files_under
from phi3kit.core.errors import ModelNotFound, StorageFailed
from phi3kit.core.operating_system import create, open_inside
from phi3kit.core.records import WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.mlmodel import read_mlmodel, read_small
from phi3kit.packaging.wrappers.check import QUESTION
from phi3kit.tracking.logged_models import resolve

INFERENCE_SERVER = "azureml-inference-server-http==1.5.1"  # Azure starts score.py with it
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:latest"  # Azure's base for an environment with a conda file
SCHEMAS = "https://azuremlschemas.azureedge.net/latest"

_FILES = Path(__file__).with_name("azure_files")
_PIECE_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip
_PACKED = {".safetensors", ".onnx", ".data", ".onnx_data"}  # hardly compressible: stored as they are
# Keys of an MLmodel that belong to the store that it was logged to.
_OF_THE_STORE = ("run_id", "model_id", "artifact_path", "prompts")
_LEFT_OUT = {
    "MLmodel",
    "conda.yaml",
    "requirements.txt",
    "registered_model_meta",
}  # written anew, or belonging to the store
_PIN = re.compile(r"[A-Za-z0-9][\w.-]{0,100}==[\w.!+-]{1,100}", re.ASCII)  # pip's other lines lead to any place
_PYTHON = re.compile(r"3\.\d{1,2}", re.ASCII)
_SIZES = (  # Azure's general-purpose machines: name, GB of memory
    ("Standard_DS3_v2", 14),
    ("Standard_DS4_v2", 28),
    ("Standard_DS5_v2", 56),
    ("Standard_E16s_v3", 128),
    ("Standard_E32s_v3", 256),
)


@dataclass(frozen=True)
class Bundle:
    """The content of a bundle that is not written yet."""

    name: str  # of the folder in the zip
    model_uri: str
    folder: Path
    files: tuple[tuple[str, int], ...]  # of the folder, copied as they are; name and bytes
    model_bytes: int
    instance_type: str
    texts: tuple[tuple[str, str], ...]  # path in the folder, content

    def text(self, path: str) -> str:
        """One of the small files."""
        return dict(self.texts)[path]


def plan_bundle(model_uri: str, actor: Actor, settings: Settings) -> Bundle:
    """Everything but the weights, and their size. Raises NotAllowed, ModelNotFound or StorageFailed."""
    actor.require("serve")
    model = resolve(model_uri, settings)
    try:
        described = read_mlmodel(model.folder)
        requirements = read_small(model.folder, "requirements.txt").decode("utf-8").splitlines()
        python = _PYTHON.match(str(described["flavors"]["python_function"].get("python_version")))
    except (OSError, ValueError, LookupError) as error:
        raise ModelNotFound(
            f"{model_uri} cannot be bundled.", f"One of its files cannot be read: {error}.", "Build it again on Build."
        ) from error
    pins = [line.strip() for line in requirements if line.strip()]
    if python is None or not all(map(_PIN.fullmatch, pins)):
        raise ModelNotFound(
            f"{model_uri} cannot be bundled.",
            "Its requirements or its Python version are not ones that phi3kit logs: they could install any package.",
            "Build it again on Build.",
        )
    short = re.sub(r"[^a-z0-9]", "", model.model_uri.rpartition("-")[2].lower())[:8]
    name = f"phi3-{model.wrapper}-{short}"
    folder = model.folder.resolve()
    files = _model_files(folder)
    size = sum(count for _, count in files)
    instance = instance_for(size)
    texts = {
        "README.md": _readme(name, model.wrapper, model.model_uri, size, instance),
        "endpoint.yml": _yaml(
            {"$schema": f"{SCHEMAS}/managedOnlineEndpoint.schema.json", "name": name, "auth_mode": "key"}
        ),
        "deployment.yml": _yaml(_deployment(name, instance)),
        "deploy.sh": _deploy_sh(name),
        "deploy.py": (_FILES / "deploy.py").read_text("utf-8"),
        "environment/conda.yaml": _conda(python[0], [*pins, INFERENCE_SERVER]),
        "model/MLmodel": _yaml(_for_azure(described)),
        "model/requirements.txt": "\n".join(pins),
        "model/conda.yaml": _conda(python[0], pins),
        "sample-request.json": json.dumps(sample_request(model.wrapper), indent=2) + "\n",
        "score/score.py": (_FILES / "score.py").read_text("utf-8"),
    }
    return Bundle(name, model.model_uri, folder, files, size, instance, tuple(texts.items()))


def write_bundle(bundle: Bundle, target: BinaryIO, on_progress: Callable[[int], None] = lambda done: None) -> None:
    """Write the zip, 1 MiB at a time. on_progress gets the bytes of the model written so far.

    Raises ModelNotFound when a file of the model is deleted meanwhile, or is not the one that was planned.
    """
    written = 0
    parts: dict[str, Callable[[], BinaryIO]] = {path: partial(BytesIO, text.encode()) for path, text in bundle.texts}
    parts |= {f"model/{name}": partial(_open_planned, bundle.folder, name, count) for name, count in bundle.files}
    with zipfile.ZipFile(target, "w") as archive:
        for path, opened in sorted(parts.items()):
            entry = zipfile.ZipInfo(f"{bundle.name}/{path}", _EPOCH)
            entry.compress_type = zipfile.ZIP_STORED if Path(path).suffix in _PACKED else zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if path.endswith(".sh") else 0o644) << 16
            entry.create_system = 3  # Unix, on any system
            try:
                source = opened()
            except OSError as error:
                raise ModelNotFound(
                    f"{bundle.model_uri} cannot be bundled.", f"{error.strerror}: {path}.", "Build it again on Build."
                ) from error
            with source, archive.open(entry, "w", force_zip64=True) as inside:
                while piece := source.read(_PIECE_BYTES):
                    inside.write(piece)
                    written += len(piece)
                    on_progress(min(written, bundle.model_bytes))


def save_bundle(bundle: Bundle, file: Path, on_progress: Callable[[int], None] = lambda done: None) -> None:
    """Write the zip to a file, which appears when it is complete. Raises ModelNotFound or StorageFailed."""
    draft = file.with_name(f".{file.name[:50]}.{secrets.token_hex(8)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(create(draft), "wb") as target:
            write_bundle(bundle, target, on_progress)
        draft.replace(file)
    except OSError as error:
        raise StorageFailed(
            f"{file.name} cannot be written.",
            f"{error.strerror or error}.",
            "Free some space, or choose another folder.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def sample_request(wrapper: WrapperName) -> dict[str, Any]:
    """A request in Azure ML's own form."""
    if wrapper == "transformers":
        return {"input_data": {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}}
    prompt = f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n"
    return {"input_data": {"columns": ["prompt"], "index": [0], "data": [[prompt]]}}


def instance_for(model_bytes: int) -> str:
    """The smallest machine with memory for the weights twice (read and placed) and 4 GB."""
    needed_gb = 2 * model_bytes / 1e9 + 4
    return next((name for name, memory_gb in _SIZES if memory_gb >= needed_gb), _SIZES[-1][0])


def _model_files(folder: Path) -> tuple[tuple[str, int], ...]:
    found = {path.relative_to(folder).as_posix(): stat.st_size for path, stat in files_under(folder)}
    return tuple(sorted((name, count) for name, count in found.items() if name not in _LEFT_OUT))


def _open_planned(folder: Path, name: str, count: int) -> BinaryIO:
    """A file of the model, when it is still as big as it was. Raises OSError."""
    source = open_inside(folder, name)
    if os.fstat(source.fileno()).st_size != count:
        source.close()
        raise OSError(errno.ESTALE, "The file has changed", name)
    return source


def _for_azure(described: dict[str, Any]) -> dict[str, Any]:
    """An MLmodel as save_model writes it: no store, no path of this machine."""
    mlmodel = {key: value for key, value in copy.deepcopy(described).items() if key not in _OF_THE_STORE}
    flavor = mlmodel["flavors"]["python_function"]
    if flavor.get("model_code_path"):
        flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in (flavor.get("artifacts") or {}).values():
        artifact["uri"] = artifact["path"]
    return mlmodel


def _conda(python: str, pins: list[str]) -> str:
    return _yaml(
        {"name": "phi3", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": pins}]}
    )


def _deployment(name: str, instance: str) -> dict[str, Any]:
    return {
        "$schema": f"{SCHEMAS}/managedOnlineDeployment.schema.json",
        "name": "blue",
        "endpoint_name": name,
        "model": {"name": name, "path": "model", "type": "mlflow_model"},
        "code_configuration": {"code": "score", "scoring_script": "score.py"},
        "environment": {"name": f"{name}-env", "image": IMAGE, "conda_file": "environment/conda.yaml"},
        # Azure's server imports these libraries before score.py could say so.
        "environment_variables": {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1"},
        "instance_type": instance,
        "instance_count": 1,
        # 180 s is the most that Azure allows; one answer at a time, because predict holds the whole machine.
        "request_settings": {"request_timeout_ms": 180_000, "max_concurrent_requests_per_instance": 1},
        "liveness_probe": {"initial_delay": 600, "period": 30, "failure_threshold": 10},
        "readiness_probe": {"initial_delay": 30, "period": 30, "failure_threshold": 30},
    }


def _deploy_sh(name: str) -> str:
    return f"""#!/usr/bin/env bash
# Creates the endpoint and its deployment with the az command, and asks it once.
# Before: az login; az extension add --name ml. Then: RESOURCE_GROUP=... WORKSPACE=... ./deploy.sh
set -euo pipefail
cd "$(dirname "$0")"
: "${{RESOURCE_GROUP:?is not set}}" "${{WORKSPACE:?is not set}}"
where=(--resource-group "$RESOURCE_GROUP" --workspace-name "$WORKSPACE")
az ml online-endpoint create --file endpoint.yml "${{where[@]}}"
az ml online-deployment create --file deployment.yml --all-traffic "${{where[@]}}"
az ml online-endpoint invoke --name {name} --request-file sample-request.json "${{where[@]}}"
az ml online-endpoint show --name {name} --query scoring_uri --output tsv "${{where[@]}}"
"""


def _readme(name: str, wrapper: WrapperName, model_uri: str, size: int, instance: str) -> str:
    native = (
        "`messages` (OpenAI's form)" if wrapper == "transformers" else "`prompt` (a raw prompt with Phi-3's tokens)"
    )
    cuda = (
        "\nPyPI's torch brings CUDA libraries of several GB into the image. For a CPU instance, put PyTorch's own CPU index\n"
        "(`--extra-index-url ...`) as the first line under `pip:` in `environment/conda.yaml`.\n"
        if wrapper == "transformers"
        else ""
    )
    return f"""# {name}: an Azure ML online endpoint

The logged model {model_uri} ({wrapper} wrapper, {size / 1e9:.2f} GB), with everything that a managed online endpoint needs.

| file | what it is |
| --- | --- |
| `model/` | the MLflow model as `save_model` writes it: no run, no store, no path of the machine it was built on |
| `score/score.py` | `init()` and `run()`: plain MLflow, Azure's `input_data` form, errors as 400 with a message |
| `environment/conda.yaml` | the model's own pins and `{INFERENCE_SERVER}` |
| `endpoint.yml`, `deployment.yml` | the endpoint `{name}` with a key, and its deployment `blue` on `{instance}` |
| `deploy.sh` | the same with the `az` command |
| `deploy.py` | the same with `azure-ai-ml`; `python deploy.py --check` only reads the files |
| `sample-request.json` | a question in Azure's form |

## Deploy

    RESOURCE_GROUP=... WORKSPACE=... ./deploy.sh

or `python deploy.py --subscription ... --resource-group ... --workspace ...`. Endpoint names are unique in a region: when
this one is taken, change it in `endpoint.yml`, `deployment.yml` and `deploy.sh`. Delete it when you are done, because it costs money
while it exists: `az ml online-endpoint delete --name {name}`.

## Ask

The model takes {native}:

    {json.dumps(sample_request(wrapper))}

## Try it here

    pip install -r model/requirements.txt
    AZUREML_MODEL_DIR=. python -c "import sys; sys.path.insert(0, 'score'); import score; score.init(); print(score.run(open('sample-request.json').read()))"

## Why a scoring script

Azure can deploy an MLflow model without one, but that route does not work with models of MLflow 3.
{cuda}"""


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1_000)
