"""Loading: from a logged model's folder to a runtime and its KV cache.

Knows the MLmodel file of both wrappers. Another program may have logged the model: the libraries load a copy of what is
known in it (formats/model_copy.py). Imports only the library that the wrapper needs.
"""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from phi3kit.core.errors import ModelNotFound, OutOfMemory, Phi3KitError, SourceInvalid
from phi3kit.core.machine import Threads, choose_threads, free_memory_bytes, is_out_of_memory
from phi3kit.core.operating_system import link
from phi3kit.core.records import WINDOW_TAG, Message, WrapperName
from phi3kit.formats.mlmodel import MlmodelUnreadable, read_mlmodel
from phi3kit.formats.model_configs import MLMODEL, cleaned
from phi3kit.formats.model_copy import copy_file, copy_model
from phi3kit.formats.model_folder import read_json
from phi3kit.tracking import foreign_values
from phi3kit.worker.kv_cache import KvCache, budget_for
from phi3kit.worker.runtime import Runtime
from phi3kit.worker.tokenization import ids_of

_SMALL_BYTES = 64_000_000  # of a logged model
_ONNX_WRAPPER = Path(__file__).parents[1] / "packaging" / "wrappers" / "onnx_wrapper.py"


def threads_for(folder: Path, setting: int | None) -> Threads:
    """How many threads compute a step of the model in `folder`. setting: PHI3KIT_THREADS.

    In a small model's step the threads wait for each other longer than they compute: the embedded model is as fast with
    one, and beside another busy process 2 (onnx) to 30 (transformers) times faster than with two.
    """
    threads = choose_threads(setting)
    if setting is None and threads.count > 1:
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size_bytes < _SMALL_BYTES:
            return Threads(1, f"a small model, {size_bytes / 1e6:.0f} MB: more threads would wait for each other")
    return threads


def load_model(
    folder: Path,
    wrapper: WrapperName,
    threads: int,
    kv_budget_mb: int | None,
    shared_system: str | None = None,
    home: Path | None = None,
) -> tuple[Runtime, KvCache]:
    """The model and the memory for its conversations. Raises as load_runtime does.

    kv_budget_mb: PHI3KIT_KV_BUDGET_MB. shared_system: PHI3KIT_SHARED_SYSTEM. home: as in copy_known.
    """
    runtime = load_runtime(folder, wrapper, threads, home)
    shared_ids = ids_of((Message("system", shared_system),), runtime, begun=True) if shared_system else ()
    return runtime, KvCache(runtime, budget_for(runtime, kv_budget_mb, free_memory_bytes()), shared_ids)


def load_runtime(folder: Path, wrapper: WrapperName, threads: int, home: Path | None = None) -> Runtime:
    """Load the logged model that lies in `folder`.

    Reads the MLmodel file and the parts that it names without MLflow, which saves 150 MB a worker. home: as in copy_known.
    Raises ModelNotFound when a part is missing, OutOfMemory, or WorkerFailed when the graph cannot be run here.
    """
    try:
        # Windows removes no file that is in use.
        with tempfile.TemporaryDirectory(prefix="phi3kit-model-", ignore_cleanup_errors=True) as temporary:
            model = Path(temporary) / "model"
            copy_known(folder, wrapper, model, home)
            if wrapper == "transformers":
                from phi3kit.worker.runtime_transformers import TransformersRuntime

                return TransformersRuntime(model, model, threads)
            from phi3kit.worker.runtime_onnx import OnnxRuntime

            return OnnxRuntime(model, threads)
    except SourceInvalid as error:
        raise ModelNotFound(
            what="The logged model cannot be loaded.",
            why=f"Its artifacts are missing or damaged, or not what phi3kit logs: {error.why}",
            next_step="Build it again on Build.",
        ) from error
    except Phi3KitError:
        raise
    except Exception as error:  # YAML, JSON, tokenizers, safetensors and both runtimes raise their own kinds
        said = str(error).strip().splitlines()[0] if str(error) else repr(error)
        if is_out_of_memory(error):
            raise OutOfMemory(
                what="The model does not fit into memory.",
                why=f"{said.rstrip('.')}.",
                next_step="Unload other models on Models, or give the worker more memory; then try again.",
            ) from error
        raise ModelNotFound(
            what="The logged model cannot be loaded.",
            why=f"Its artifacts are missing or damaged: {said}.",
            next_step="Build it again on Build.",
        ) from error


@lru_cache(maxsize=1)
def sliding_window(folder: Path, wrapper: WrapperName) -> int | None:
    """How many tokens back the model attends, by its configuration; None: to the beginning.

    Phi-3-mini-4k has a window of 2,047. Of an onnx model the build has read it from the graph.
    """
    if wrapper == "onnx":
        return foreign_values.whole((_mlmodel(folder).get("metadata") or {}).get(WINDOW_TAG), 1)
    return foreign_values.whole(read_json(_model_folder(folder, wrapper), "config.json").get("sliding_window"), 1)


def copy_known(folder: Path, wrapper: WrapperName, target: Path, home: Path | None = None) -> None:
    """Write what is known of a logged model's artifacts to `target`. Raises SourceInvalid.

    home: the data folder, whose weights are linked; all others are copied: whoever may write where they lie could change
    them after they were judged.
    """
    kept = home.resolve() if home else None

    def put(source: Path, place: Path) -> None:
        if kept and source.is_relative_to(kept):
            link(place, source)
        else:
            copy_file(source, place)

    folders = [_model_folder(folder, wrapper)]
    if wrapper == "transformers":
        folders.append(_inside(folder, "components/tokenizer"))
    copy_model("of the logged model", folders, target, put)


def copy_logged(folder: Path, wrapper: WrapperName, target: Path, home: Path | None = None) -> None:
    """Write what is known of a whole logged model to `target`, for MLflow to load: it runs the code that an MLmodel names.

    The onnx wrapper in it is phi3kit's own, whatever was logged. home: as in copy_known. Raises SourceInvalid.
    """
    known = cleaned(_mlmodel(folder), MLMODEL)
    if config := known.wrong.get("flavors.python_function.config"):
        raise _refused(f"Its MLmodel file gives it a config that phi3kit does not support: {config}.")
    described = known.kept
    flavors = described.get("flavors") or {}
    function = flavors.get("python_function") or {}
    loader = "mlflow.transformers" if wrapper == "transformers" else "mlflow.pyfunc.loaders.code_model"
    if function.get("loader_module") != loader:
        raise _refused("Its MLmodel file names code that phi3kit does not log.")
    copy_known(folder, wrapper, target / "model", home)
    if wrapper == "transformers":
        flavors["transformers"] |= {"model_binary": "model", "code": None}
        (target / "components").mkdir()
        shutil.copytree(
            target / "model", target / "components/tokenizer", ignore=shutil.ignore_patterns("*.safetensors")
        )
    else:
        (name,) = function["artifacts"]
        function |= {"artifacts": {name: {"path": "model"}}, "model_code_path": _ONNX_WRAPPER.name, "code": None}
        described["flavors"] = {"python_function": function}
        shutil.copyfile(_ONNX_WRAPPER, target / _ONNX_WRAPPER.name)
    (target / "MLmodel").write_text(yaml.safe_dump(described), "utf-8")


def _mlmodel(folder: Path) -> dict[str, Any]:
    try:
        return read_mlmodel(folder)
    except MlmodelUnreadable as error:
        raise _refused(str(error)) from error


def _model_folder(folder: Path, wrapper: WrapperName) -> Path:
    """Where a logged model's weights and configuration lie, as its MLmodel file says. Raises SourceInvalid."""
    flavors: dict[str, Any] = _mlmodel(folder)["flavors"]
    if wrapper == "transformers":
        return _inside(folder, flavors["transformers"]["model_binary"])
    (artifact,) = flavors["python_function"]["artifacts"].values()
    return _inside(folder, artifact["path"])


def _inside(folder: Path, path: str) -> Path:
    if not (found := (folder / path).resolve()).is_relative_to(folder.resolve()):
        raise _refused(f"Its MLmodel file names {path!r:.100}, which is elsewhere.")
    return found


def _refused(why: str) -> SourceInvalid:
    return SourceInvalid("The logged model cannot be loaded.", why, "Build it again on Build.")
