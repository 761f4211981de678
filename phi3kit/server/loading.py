"""Loading: from a logged model's folder to a runtime and the memory for its conversations.

Knows the MLmodel file of both wrappers. Imports an engine only when it is the one.
"""

from pathlib import Path
from typing import Any

import yaml

from phi3kit.errors import ModelNotFound, Phi3KitError
from phi3kit.records import WrapperName
from phi3kit.server.runtime import Runtime


def load_runtime(folder: Path, wrapper: WrapperName, threads: int) -> Runtime:
    """Load the logged model that lies in `folder`.

    Reads the MLmodel file and the parts that it names, without MLflow: that saves 150 MB a worker.
    Raises ModelNotFound when a part is missing, WorkerFailed when the graph is none that can be run here.
    """
    try:
        flavors: dict[str, Any] = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))["flavors"]
        if wrapper == "transformers":
            from phi3kit.server.runtime_transformers import TransformersRuntime  # 250 MB of torch, only where needed

            return TransformersRuntime(
                folder / flavors["transformers"]["model_binary"], folder / "components/tokenizer", threads
            )
        from phi3kit.server.runtime_onnx import OnnxRuntime

        (artifact,) = flavors["python_function"]["artifacts"].values()
        return OnnxRuntime(folder / artifact["path"], threads)
    except Phi3KitError:
        raise
    except Exception as error:  # YAML, JSON, tokenizers, safetensors and both engines each raise their own kinds
        raise ModelNotFound(
            what="The logged model cannot be loaded.",
            why=f"Its artifacts are missing or damaged: {str(error).strip().splitlines()[0] if str(error) else error!r}.",
            next_step="Build it again on Build.",
        ) from error
