"""ONNX export: a Phi-3 folder becomes what ONNX Runtime's generate API runs, by the library's own model builder.

Knows the builder's command line and its traps. Logs nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from phi3kit.core.data_folder import DISK_FULL
from phi3kit.core.errors import BuildFailed
from phi3kit.core.processes import killed_after
from phi3kit.core.records import Precision
from phi3kit.formats import onnx_file
from phi3kit.formats.model_copy import link_or_copy
from phi3kit.packaging.trial import confined_environment, step_seconds

ExportPhase = Literal["read weights", "export", "quantize"]

# Runs the builder as `python -m` would, and ends with its parent: a build may be killed, for want of memory too.
_BUILDER = """
import os, runpy, threading
from phi3kit.core.confinement import confine
confine()
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)
"""

# The words in the builder's output that begin a phase.
_PHASE_MARKS: tuple[tuple[str, ExportPhase], ...] = (
    ("Reading embedding layer", "export"),
    ("start to quantize", "quantize"),
)


def export_onnx(
    source: Path, target: Path, precision: Precision, on_phase: Callable[[ExportPhase], None] = lambda phase: None
) -> None:
    """Write an ONNX model for the CPU to `target`: graph, weights, tokenizer, genai_config.json.

    source: a folder with config.json, safetensors and a tokenizer. on_phase: called as the builder moves on.
    Raises BuildFailed, or OSError when the disk is full.
    """
    with _with_window(source, target) as windowed:
        _run_builder(source, windowed, target, precision, on_phase)


def window_of(folder: Path) -> int | None:
    """How many tokens back an ONNX folder's graph attends; None: to the beginning."""
    file = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["decoder"]["filename"]
    window = min(onnx_file.read(folder / file).windows, default=-1)
    return window if window > 0 else None


@contextmanager
def _with_window(source: Path, target: Path) -> Iterator[Path]:
    """The source as the builder must see it, so that each attention node gets the model's sliding window.

    Phi3Config names no layer types, and the builder takes a model without them for one of full attention: the graph
    would attend further back than the model was trained to, and answer noise there.
    """
    config = json.loads((source / "config.json").read_text("utf-8"))
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    if not window or window >= context:
        yield source
        return
    view = Path(f"{target}-source")
    view.mkdir(parents=True)
    try:
        for file in source.iterdir():
            if file.is_file() and file.name != "config.json":
                _show(file, view / file.name)
        config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
        (view / "config.json").write_text(json.dumps(config), "utf-8")
        yield view
    finally:
        shutil.rmtree(view, ignore_errors=True)


def _show(file: Path, place: Path) -> None:
    try:
        place.symlink_to(file.resolve())
    except OSError:  # Windows makes links for administrators only
        link_or_copy(file, place)


def _run_builder(
    source: Path, view: Path, target: Path, precision: Precision, on_phase: Callable[[ExportPhase], None]
) -> None:
    """view: what the builder gets to see of the source."""
    command = [
        *(sys.executable, "-P", "-c", _BUILDER),  # -P: a file beside the user is none of its libraries
        *("-i", str(view), "-o", str(target), "-p", precision, "-e", "cpu"),
        *("-c", f"{target}-cache"),  # otherwise in the current folder
        # Without windowed_kv_cache=false the config caps the KV cache at the sliding window while the graph
        # attends to everything: generation crashes past 2,063 tokens.
        *("--extra_options", "int4_accuracy_level=4", "windowed_kv_cache=false"),
    ]
    weight_bytes = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    environment = confined_environment(weight_bytes, source, target.parent)
    seconds = step_seconds(weight_bytes)
    on_phase("read weights")
    tail: deque[str] = deque(maxlen=20)
    with subprocess.Popen(  # noqa: S603 -- a list of our own making
        command,
        env=environment,
        stdin=subprocess.PIPE,  # closes when this process ends, which ends the builder
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            with killed_after(seconds, process.kill):
                for line in process.stdout:
                    tail.append(line.strip())
                    if phase := next((phase for mark, phase in _PHASE_MARKS if mark in line), None):
                        on_phase(phase)
        except BaseException:
            process.kill()  # a cancelled build does not wait for the export to finish
            raise
    if process.returncode < 0:
        raise BuildFailed(
            what=f"The ONNX export was stopped by the signal {-process.returncode}.",
            why=f"Perhaps memory ran out, or onnxruntime-genai's model builder took longer than {seconds:.0f} s.",
            next_step="Free some memory, then build again.",
        )
    if process.returncode != 0:
        last_line = next((line for line in reversed(tail) if line), "no message")
        number = re.search(r"OSError: \[Errno (\d+)\]", last_line)
        if number and int(number[1]) in DISK_FULL:
            raise OSError(int(number[1]), os.strerror(int(number[1])))
        raise BuildFailed(
            what="The ONNX export failed.",
            why=f"onnxruntime-genai's model builder said: {last_line.rstrip('.')}.",
            next_step="Check that the folder holds a whole Phi-3 model, then build again.",
        )
