"""Snippets: a build as code that a reader can paste into a notebook.

Knows plain MLflow and the model builder; the code needs no phi3kit. Runs nothing.
"""

from pathlib import Path

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import PRECISIONS, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.packaging.sources.find import EMBEDDED
from phi3kit.packaging.sources.hub_names import parse
from phi3kit.packaging.wrappers import log
from phi3kit.tracking.logged_models import ONNX_ARTIFACT
from phi3kit.tracking.store import BUILDS_EXPERIMENT

# Not "onnx_model.py": beside a notebook that name would hide a module of onnxruntime's own.
ONNX_WRAPPER_FILE = Path(log.__file__).with_name("onnx_wrapper.py")


def build_code(wrapper: WrapperName, source: str, commit: str | None, precision: str, settings: Settings) -> str:
    """One build, written out with today's libraries.

    source, commit, precision: as the built model's record has them.
    """
    secret = settings.tracking_uri.hides_something
    store = 'os.environ["MLFLOW_TRACKING_URI"]' if secret else repr(settings.tracking_uri.reveal())
    hub = "from huggingface_hub import snapshot_download\n" if commit else ""
    packages = "".join(f"\n            {each!r}," for each in log.pip_requirements(wrapper))
    head = f"""{"import os" if secret else ""}
import mlflow
{hub}
mlflow.set_tracking_uri({store})
mlflow.set_experiment({BUILDS_EXPERIMENT!r})
folder = {_folder(source, commit)}
"""
    if wrapper == "transformers":
        return f"""import transformers
{head}
pipeline = transformers.pipeline("text-generation", model=folder, dtype="auto")
with mlflow.start_run():
    model_info = mlflow.transformers.log_model(
        pipeline,
        name={log.MODEL_NAMES[wrapper]!r},
        task="llm/v1/chat",
        model_config={log.TRANSFORMERS_MODEL_CONFIG!r},
        pip_requirements=[{packages}
        ],
    )

model = mlflow.pyfunc.load_model(model_info.model_uri)
messages = [{{"role": "user", "content": "What is the capital of Spain?"}}]
response = model.predict({{"messages": messages}})
print(response[0]["choices"][0]["message"]["content"])
"""
    exported = precision not in PRECISIONS
    export = f"""
# 1) Export: weights to an ONNX graph, quantized for the CPU.
subprocess.run(
    [sys.executable, "-m", "onnxruntime_genai.models.builder",
     "-i", folder, "-o", "phi3-onnx", "-p", {precision!r}, "-e", "cpu",
     "--extra_options", "int4_accuracy_level=4", "windowed_kv_cache=false"],
    check=True,
)
"""
    return f"""import subprocess
import sys
{head}
from mlflow.models import infer_signature
{"" if exported else export}
# 2) Log: onnx_wrapper.py is the wrapper itself (models from code); save it beside this notebook.
with mlflow.start_run():
    model_info = mlflow.pyfunc.log_model(
        name={log.MODEL_NAMES[wrapper]!r},
        python_model="onnx_wrapper.py",
        artifacts={{{ONNX_ARTIFACT!r}: {"folder" if exported else repr("phi3-onnx")}}},
        model_config={log.ONNX_MODEL_CONFIG!r},
        signature=infer_signature({{"prompt": "<|user|>\\nHello<|end|>\\n<|assistant|>\\n"}}, ["Run"]),
        pip_requirements=[{packages}
        ],
    )

# 3) Ask.
model = mlflow.pyfunc.load_model(model_info.model_uri)
print(model.predict({{"prompt": "<|user|>\\nWhat is the capital of Spain?<|end|>\\n<|assistant|>\\n"}})[0])
"""


def _folder(source: str, commit: str | None) -> str:
    """The expression for the folder of the weights."""
    name = parse(source) if commit else None
    if name is None:
        return repr(str(MODEL_FOLDER if source == EMBEDDED else source))
    if name.subfolder is None:
        return f"snapshot_download({name.repo!r}, revision={commit!r})"
    folder = f"snapshot_download({name.repo!r}, revision={commit!r}, allow_patterns={name.subfolder + '/*'!r})"
    return f"{folder} + {'/' + name.subfolder!r}"


def onnx_wrapper_code() -> str:
    """The wrapper file that the onnx build logs."""
    return ONNX_WRAPPER_FILE.read_text("utf-8")
