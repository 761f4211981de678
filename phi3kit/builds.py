"""Builds: from a source to a logged, checked MLflow model, step by step.

Knows the order of the steps and what is undone when one fails. Runs in a process of its own (see build_process),
because it imports torch and needs memory that only comes back when a process ends.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from phi3kit.errors import BuildFailed, Phi3KitError
from phi3kit.records import Precision, WrapperName
from phi3kit.settings import Settings
from phi3kit.sources import Source


def step_names(wrapper: WrapperName, precision: Precision) -> tuple[str, ...]:
    """The steps of a build, in order; fp32 has nothing to quantize."""
    if wrapper == "transformers":
        return ("read weights", "log", "check")
    return ("read weights", "export", *(() if precision == "fp32" else ("quantize",)), "log", "check")


@dataclass(frozen=True)
class StepEvent:
    """A step began or ended. `seconds` is None while it runs."""

    wrapper: WrapperName
    step: str
    seconds: float | None
    note: str = ""


@dataclass(frozen=True)
class BuiltModel:
    """What a build leaves behind; field names are the CLI's JSON keys."""

    wrapper: WrapperName
    model_uri: str
    run_id: str
    signature_inputs: str  # the chapter's notation
    signature_outputs: str
    size_bytes: int
    seconds: float
    source: str
    precision: str
    registered: str | None  # models:/NAME/VERSION
    check_answer: str

    def as_json(self) -> dict[str, object]:
        """The keys and values of the CLI's last line."""
        return asdict(self)


Report = Callable[[StepEvent], None]


def build(
    wrapper: WrapperName, source: Source, precision: Precision, register: str | None, settings: Settings, report: Report
) -> BuiltModel:
    """Build one wrapper and check it. Raises BuildFailed or StorageFailed; then nothing half-logged is listed.

    precision: of the ONNX export; the transformers wrapper keeps the weights' own.
    """
    import mlflow

    from phi3kit.store import BUILDS_EXPERIMENT, experiment_id, open_store, storage_errors

    began = time.perf_counter()
    steps = _Steps(wrapper, report)
    client = open_store(settings)
    experiment = experiment_id(settings, BUILDS_EXPERIMENT)
    exports = settings.home / "exports"
    exports.mkdir(exist_ok=True)
    precision_name = precision if wrapper == "onnx" else source.dtype
    tags = {"phi3kit.wrapper": wrapper, "phi3kit.source": source.name, "phi3kit.precision": precision_name}
    with storage_errors(settings.home), tempfile.TemporaryDirectory(dir=exports) as temporary:
        run = client.create_run(experiment, run_name=f"build {wrapper}", tags=tags)
        run_id = run.info.run_id
        model_id: str | None = None
        try:
            onnx_folder = _export(steps, source, Path(temporary), precision) if wrapper == "onnx" else None
            if wrapper == "transformers":
                with steps.step("read weights", f"{source.size_bytes / 1e6:.1f} MB"):
                    import mlflow.transformers
                    import transformers  # noqa: F401  (seconds of import belong to this step, not to "log")
            with steps.step("log"), mlflow.start_run(run_id=run_id):
                from phi3kit.wrappers.log import log_onnx, log_transformers

                info = log_onnx(onnx_folder) if onnx_folder else log_transformers(source.folder)
                model_id = info.model_id
                mlflow.log_params({"wrapper": wrapper, "source": source.name, "precision": precision_name})
            with steps.step("check"):
                answer = _checked_answer(info.model_uri, wrapper)
            registered = None
            if register:
                with steps.step("register", register):
                    version = mlflow.register_model(info.model_uri, register)
                    registered = f"models:/{version.name}/{version.version}"
            # Only a model that carries this tag is listed: it was logged whole, and it answered.
            client.set_logged_model_tags(info.model_id, {**tags, "phi3kit.checked": "true"})
        except BaseException as error:
            client.set_terminated(run_id, "FAILED")
            if model_id is not None:
                client.delete_logged_model(model_id)
            if isinstance(error, (Phi3KitError, KeyboardInterrupt, SystemExit)):
                raise
            raise BuildFailed(
                what=f"Building the {wrapper} wrapper failed at the step “{steps.current}”.",
                why=_first_line(error),
                next_step="Nothing half-built is listed. Correct the cause and build again.",
            ) from error
    assert info.signature is not None
    return BuiltModel(
        wrapper=wrapper,
        model_uri=info.model_uri,
        run_id=run_id,
        signature_inputs=repr(info.signature.inputs),
        signature_outputs=repr(info.signature.outputs),
        size_bytes=_logged_size(info.model_uri),
        seconds=round(time.perf_counter() - began, 2),
        source=source.name,
        precision=precision_name,
        registered=registered,
        check_answer=answer,
    )


def _export(steps: "_Steps", source: Source, temporary: Path, precision: Precision) -> Path:
    """Export and quantize in the builder's own process; the two steps follow what it prints."""
    from phi3kit.onnx_export import ExportPhase, export_onnx

    folder = temporary / f"{source.folder.name}-{precision}"
    names: dict[ExportPhase, str] = {"read": "read weights", "export": "export", "quantize": "quantize"}
    with steps.sequence() as begin:
        export_onnx(source.folder, folder, precision, lambda phase: begin(names[phase]))
    return folder


def _checked_answer(model_uri: str, wrapper: WrapperName) -> str:
    from phi3kit.wrappers.check import answer_of

    answer = answer_of(model_uri, wrapper)
    if not answer:
        raise BuildFailed(
            what=f"The logged {wrapper} model gave no answer.",
            why="Plain MLflow loaded it, and its completion was empty.",
            next_step="Check the weights, or build with --precision fp32.",
        )
    return answer


def _logged_size(model_uri: str) -> int:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Steps:
    """Reports each step's beginning and end, with its seconds."""

    def __init__(self, wrapper: WrapperName, report: Report) -> None:
        self._wrapper, self._report = wrapper, report
        self.current = "read weights"

    @contextmanager
    def step(self, name: str, note: str = "") -> Iterator[None]:
        self.current = name
        began = time.perf_counter()
        self._report(StepEvent(self._wrapper, name, None, note))
        yield
        self._report(StepEvent(self._wrapper, name, round(time.perf_counter() - began, 2), note))

    @contextmanager
    def sequence(self) -> Iterator[Callable[[str], None]]:
        """Steps that begin when the yielded function is called; each one ends the step before it."""
        began = time.perf_counter()
        running: str | None = None

        def end() -> None:
            if running is not None:
                self._report(StepEvent(self._wrapper, running, round(time.perf_counter() - began, 2)))

        def begin(name: str) -> None:
            nonlocal began, running
            if name != running:
                end()
                began, running, self.current = time.perf_counter(), name, name
                self._report(StepEvent(self._wrapper, name, None))

        yield begin
        end()
