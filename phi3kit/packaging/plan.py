"""Plan: what a build will download, need and take, before anything is downloaded or written.

An estimate that says how it came about; the constants were measured (bench/RESULTS.md). Builds nothing.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phi3kit.access.actor import Actor
from phi3kit.core.errors import BuildFailed
from phi3kit.core.machine import choose_threads, free_disk_bytes, free_memory_bytes
from phi3kit.core.records import Precision, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.model_folder import NUMBER_BYTES
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.sources.find import EMBEDDED, Source, allow_source

Fit = Literal["fits", "tight", "too much"]

_CERTAINTY = 0.85  # what is estimated may take 1 / 0.85 of it
# Bytes of a weight in an ONNX file: int4 and int8 come in blocks of 32 with an fp32 scale each.
_EXPORTED_BYTES: dict[Precision, float] = {"int4": 0.5 + 4 / 32, "int8": 1 + 4 / 32, "fp32": 4.0}
_SMALL_FILES = 4_000_000  # tokenizer, configs, MLmodel
_LIBRARIES = {"transformers": 420_000_000, "onnx": 160_000_000}  # a worker's memory without weights
# The build and the model builder that it starts: both wrappers of the embedded model are built with 560 MB.
_BUILD_LIBRARIES = 550_000_000
_TRIAL_LIBRARIES = 360_000_000  # of the process in which another source's files are tried (packaging/trial.py)
_EXPORT_BYTES = 5.2  # of memory, a weight: what the model builder holds while it quantizes to int4


@dataclass(frozen=True)
class Need:
    """One thing that a build needs; available is None where nothing sets a limit."""

    what: str
    needed: int  # bytes
    available: int | None
    how: str
    measured: int = 0  # bytes of it that were measured, as those of libraries; the rest is estimated

    @property
    def verdict(self) -> Fit:
        """Whether it is available; tight when a small error of the estimate would make it too much."""
        if self.available is None or self.measured + (self.needed - self.measured) / _CERTAINTY <= self.available:
            return "fits"
        return "tight" if self.needed <= self.available else "too much"


@dataclass(frozen=True)
class Plan:
    """The plan of a build."""

    source: str
    wrappers: tuple[WrapperName, ...]
    download_bytes: int
    needs: tuple[Need, ...]
    seconds: float  # expected, without the download
    kv_bytes: dict[WrapperName, int]  # wrapper to bytes that a whole context of one conversation takes

    @property
    def verdict(self) -> Fit:
        """The worst of its needs."""
        found = {need.verdict for need in self.needs}
        return "too much" if "too much" in found else "tight" if "tight" in found else "fits"

    def refuse_what_cannot_fit(self, accept_tight: bool) -> None:
        """Raise BuildFailed with the figures when it cannot fit, or is tight and nobody said yes."""
        if self.verdict == "fits" or (self.verdict == "tight" and accept_tight):
            return
        short = [need for need in self.needs if need.verdict == self.verdict]
        figures = "; ".join(f"{need.what}: {_gb(need.needed)} of {_gb(need.available or 0)}" for need in short)
        if self.verdict == "tight":
            raise BuildFailed(
                "The build is a tight fit.",
                f"{figures}.",
                "Free some, or build anyway: select it on Build, or use --yes.",
            )
        raise BuildFailed(
            "The build does not fit on this machine.", f"{figures}.", "Free some, or choose a smaller source."
        )

    def as_json(self) -> dict[str, Any]:
        """The CLI's JSON."""
        needs = [{**asdict(need), "verdict": need.verdict} for need in self.needs]
        return {**asdict(self), "needs": needs, "verdict": self.verdict}


def allow(request: BuildRequest, actor: Actor) -> None:
    """Let the actor ask for this build. Raises NotAllowed."""
    allow_source(request.source, actor)
    if request.register:
        actor.require("register")


def make_plan(request: BuildRequest, source: Source, actor: Actor, settings: Settings) -> Plan:
    """Estimate what a build needs. Reads the machine's free disk and memory; writes nothing.

    Raises BuildFailed when no machine could do what is asked, or NotAllowed.
    """
    allow(request, actor)
    _refuse_what_cannot_be(request, source)
    exports = "onnx" in request.wrappers and source.kind == "weights"
    exported = _exported_bytes(source, request.precision) if exports else 0
    disk, disk_how = _disk(request, source, settings, exported)
    disk_need = Need("peak disk space", disk, free_disk_bytes(settings.home), disk_how)
    needs = (disk_need, _build_memory(source, exported), *(_load(each, source, exported) for each in request.wrappers))
    kv = {wrapper: _kv_bytes(source, wrapper) * source.shape.context_tokens for wrapper in request.wrappers}
    seconds = _seconds(request, _numbers(source), exports, choose_threads(settings.threads).count)
    return Plan(source.name, request.wrappers, source.download_bytes, needs, seconds, kv)


def _refuse_what_cannot_be(request: BuildRequest, source: Source) -> None:
    """Refuse what would fail after the download and the export. Raises BuildFailed."""
    if "transformers" in request.wrappers and source.kind == "onnx":
        raise BuildFailed(
            what=f"The transformers wrapper cannot be built from {source.name}.",
            why="It is an ONNX folder: its weights are in a form that only ONNX Runtime reads.",
            next_step="Choose the onnx wrapper, or the repository that the folder was made from.",
        )
    name = request.register
    if name is not None and (not name.strip() or "/" in name or ":" in name):
        raise BuildFailed(
            what=f"No model can be registered as {name!r}.",
            why="The Model Registry does not accept a name that is empty or contains / or :.",
            next_step="Choose another name.",
        )


def _numbers(source: Source) -> float:
    """The number of weights."""
    return source.files.weight_bytes / NUMBER_BYTES.get(source.shape.dtype, _EXPORTED_BYTES["int4"])


def _exported_bytes(source: Source, precision: Precision) -> int:
    """The size of an export. The tables of embeddings and of each place's rotation stay fp32."""
    shape = source.shape
    tables = shape.vocabulary * shape.hidden_size + shape.context_tokens * shape.head_size
    return int((_numbers(source) - shape.vocabulary * shape.hidden_size) * _EXPORTED_BYTES[precision] + tables * 4)


def _disk(request: BuildRequest, source: Source, settings: Settings, exported: int) -> tuple[int, str]:
    kept = source.files.size_bytes if "transformers" in request.wrappers or not exported else 0  # logged as they are
    if not _same_disk(source.folder, settings.home):  # which takes no links
        copied = source.files.size_bytes
    else:
        copied = 0 if source.is_kept(settings) else kept
    parts = {
        "to download": source.download_bytes,
        "for the ONNX export": exported,
        "for a copy of the weights": copied,
        "to read back what was uploaded": 0 if settings.own_store else kept + exported,
    }
    named = " and ".join(f"{_gb(size)} {what}" for what, size in parts.items() if size)
    return sum(parts.values()) + _SMALL_FILES, named or "only small files: the weights are linked, not copied"


def _build_memory(source: Source, exported: int) -> Need:
    weights = source.files.weight_bytes
    needed, how = weights, f"{_gb(weights)} of weights, to check that they answer"
    if exported:
        export, comparison = int(_numbers(source) * _EXPORT_BYTES), weights + exported
        needed = max(export, comparison)
        how = f"{_gb(export)} for the export; later {_gb(weights)} of weights beside {_gb(exported)} of it, to compare them"
    libraries = _BUILD_LIBRARIES + (0 if source.name == EMBEDDED else _TRIAL_LIBRARIES)
    return Need("memory to build", needed + libraries, free_memory_bytes(), how, measured=libraries)


def _load(wrapper: WrapperName, source: Source, exported: int) -> Need:
    weights = exported if wrapper == "onnx" and exported else source.files.weight_bytes
    libraries = _LIBRARIES[wrapper]
    how = f"{_gb(weights)} of weights and {_gb(libraries)} of libraries, in its own worker"
    return Need(f"memory to load {wrapper}", weights + libraries, free_memory_bytes(), how, measured=libraries)


def _kv_bytes(source: Source, wrapper: WrapperName) -> int:
    """Bytes of one token of a conversation: onnxruntime-genai keeps fp32 on a CPU, transformers the weights' own type."""
    return source.shape.kv_numbers * (4 if wrapper == "onnx" else NUMBER_BYTES.get(source.shape.dtype, 4))


def _seconds(request: BuildRequest, numbers: float, exports: bool, threads: int) -> float:
    billions = numbers / 1e9
    seconds = 6.0
    if "transformers" in request.wrappers:
        seconds += 5 + 20 * billions / threads
    if "onnx" in request.wrappers:
        seconds += 4 + (230 * billions / threads if exports else 5 * billions)
    return seconds


def _same_disk(first: Path, second: Path) -> bool:
    while not second.exists():
        second = second.parent
    return os.stat(first).st_dev == os.stat(second).st_dev


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
