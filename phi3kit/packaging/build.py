"""Build: from a source to a logged, checked MLflow model, step by step.

Knows the order of the steps and what is undone when one fails. Runs in a process of its own (see jobs): it imports
torch and takes memory that only comes back when a process ends. Does not know how its progress is shown.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models.model import ModelInfo

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import DISK_FULL
from phi3kit.core.errors import BuildFailed, Phi3KitError, first_line
from phi3kit.core.records import WINDOW_TAG, Precision, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats.model_copy import Place, copy_file, copy_model, link_or_copy
from phi3kit.packaging.events import BuildRequest, ReportEvent, StepProgress, StepReporter
from phi3kit.packaging.sources.find import EMBEDDED, Source, fetch
from phi3kit.packaging.sources.hub_names import DownloadProgress
from phi3kit.packaging.trial import START_S, TEMPLATE_S, Trial, TrialHere, TrialProcess, step_seconds
from phi3kit.tracking.logged_models import SIZE_TAG, delete_files
from phi3kit.tracking.registry import register, withdraw
from phi3kit.tracking.store import BUILDS_EXPERIMENT, experiment_id, known, open_store, storage_errors

CHECKED_TAG = "phi3kit.checked"  # only a model that carries it is listed: logged whole, and it answered


@dataclass(frozen=True)
class BuiltModel:
    """A model that was built; field names are the CLI's JSON keys."""

    wrapper: WrapperName
    model_uri: str
    run_id: str
    signature_inputs: str  # the chapter's notation
    signature_outputs: str
    size_bytes: int
    seconds: float
    source: str
    commit: str | None  # of a repository on the hub
    license: str | None
    precision: str
    registered: str | None  # models:/NAME/VERSION
    check_answer: str
    same_beginnings: str | None  # "49 of 50": prompts with the source's own first 20 tokens; of an export only
    notes: list[str]


def download(request: BuildRequest, source: Source, settings: Settings, report: ReportEvent) -> Source:
    """The source with its files on this machine; only a repository's must come. Raises SourceInvalid or DownloadFailed."""
    if source.snapshot is None:
        return source

    def on_progress(at: DownloadProgress) -> None:
        report(StepProgress("download", at.done_bytes, at.total_bytes, "bytes", at.bytes_per_s, at.seconds_left))

    with StepReporter(request.in_order[0], report).step("download"):
        return fetch(source, settings, on_progress)


def build(
    wrapper: WrapperName, source: Source, request: BuildRequest, actor: Actor, settings: Settings, report: ReportEvent
) -> BuiltModel:
    """Build one wrapper from files on this machine and check it.

    Raises NotAllowed, BuildFailed or StorageFailed, and then leaves nothing half-logged.
    """
    actor.require("build")
    began = time.perf_counter()
    steps = StepReporter(wrapper, report)
    precision = _precision(wrapper, source, request.precision)
    facts = {"phi3kit.source": source.name, "phi3kit.precision": precision}
    facts |= {"phi3kit.context_tokens": str(source.shape.context_tokens)}
    facts |= {"phi3kit.commit": source.commit} if source.commit else {}
    facts |= {"phi3kit.license": source.license} if source.license else {}
    client = open_store(settings)
    with (
        storage_errors(settings.home),
        _run(client, wrapper, {"phi3kit.wrapper": wrapper, **facts}, settings) as (run_id, temporary),
    ):
        try:
            source, left_out = known_part(source, wrapper, temporary, settings)
            folder = _export(steps, source, temporary, request.precision) if wrapper == "onnx" else source.folder
            facts |= _window(folder) if wrapper == "onnx" else {}
            # After the export, which needs the memory of these libraries.
            with _trial(source, temporary) as trial:
                notes = _prepared(steps, wrapper, source, left_out, trial)
                info = _logged(steps, wrapper, folder, source, run_id, facts)
                with steps.step("check"):
                    answer = _checked(trial, source, info.model_uri, wrapper, temporary)
                same = None
                if wrapper == "onnx" and source.kind == "weights":
                    with steps.step("compare"):
                        same = _compared(trial, source, report)
                    client.set_tag(run_id, "phi3kit.same_beginnings", same)
            registered = None
            if request.register:
                with steps.step("register"), redirect_stderr(StringIO()):  # MLflow prints what it did
                    registered = register(info.model_uri, request.register, actor, settings).model_uri
            size_bytes = mlflow.models.Model.load(info.model_uri).model_size_bytes or 0
            tags = {"phi3kit.wrapper": wrapper, **facts, SIZE_TAG: str(size_bytes), CHECKED_TAG: "true"}
            client.set_logged_model_tags(info.model_id, tags)
        except (Phi3KitError, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            if isinstance(error, MlflowException) and not _store_answers(client, run_id, error):
                raise
            raise BuildFailed(
                what=f"Building the {wrapper} wrapper failed at the step “{steps.current}”.",
                why=first_line(error),
                next_step="Unfinished models are not listed. Correct the cause and build again.",
            ) from error
    assert info.signature is not None
    return BuiltModel(
        wrapper=wrapper,
        model_uri=info.model_uri,
        run_id=run_id,
        signature_inputs=repr(info.signature.inputs),
        signature_outputs=repr(info.signature.outputs),
        size_bytes=size_bytes,
        seconds=round(time.perf_counter() - began, 2),
        source=source.name,
        commit=source.commit,
        license=source.license,
        precision=precision,
        registered=registered,
        check_answer=answer,
        same_beginnings=same,
        notes=notes,
    )


def _store_answers(client: MlflowClient, run_id: str, error: MlflowException) -> bool:
    """Whether an error of MLflow's is about the model and not about the store, which answers and has room."""
    if "OperationalError" in str(error):  # SQLAlchemy's word for a database that is full, locked or away
        return False
    try:
        client.set_tag(run_id, "phi3kit.failed", "yes")
    except MlflowException:
        return False
    return True


def take_back_remains(settings: Settings) -> None:
    """Undo what killed builds left behind. Only the build whose turn it is may call it."""
    exports = settings.home / "exports"
    remains = [path for path in exports.iterdir() if path.is_dir()] if exports.is_dir() else []
    client = open_store(settings)
    for folder in remains:
        with storage_errors(settings.home):
            _take_back(client, folder.name)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _run(
    client: MlflowClient, wrapper: WrapperName, tags: dict[str, str], settings: Settings
) -> Iterator[tuple[str, Path]]:
    """A run and a temporary folder; both are taken back when the build fails.

    The folder has the run's name: from what a killed build left, the next one knows its run.
    """
    run_id = client.create_run(experiment_id(settings, BUILDS_EXPERIMENT), run_name=f"build {wrapper}", tags=tags)
    name = str(run_id.info.run_id)
    folder = settings.home / "exports" / name
    folder.mkdir(parents=True)
    tempfile.tempdir = str(folder)  # inside the data folder, where a link takes the place of a copy
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.home / "cache"))  # torch's would be in tempdir
    try:
        yield name, folder
    except BaseException:
        with contextlib.suppress(Exception):  # if the store is away, the folder's name stays for the next build
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _take_back(client, name)
            folder.rmdir()
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        tempfile.tempdir = None


def _take_back(client: MlflowClient, run_id: str) -> None:
    """Mark a run as failed and delete the models that it logged, with their files; a checked one stays."""
    run = known(lambda: client.get_run(run_id))
    if run is None:
        return
    checked = False
    for output in run.outputs.model_outputs if run.outputs else []:
        model = known(partial(client.get_logged_model, output.model_id))
        if model and CHECKED_TAG in model.tags:
            checked = True
        elif model:
            withdraw(model.model_id, client)  # a build that is ended between its registration and its last tags
            with contextlib.suppress(Exception):  # files that stay do not keep the entry
                delete_files(model)
            client.delete_logged_model(model.model_id)
    # Logging has ended the run as finished before the check began.
    if run.info.lifecycle_stage == "active" and not checked:
        client.set_terminated(run_id, "FAILED")


def _precision(wrapper: WrapperName, source: Source, wanted: Precision) -> str:
    if wrapper == "transformers":
        return source.shape.dtype
    return "as exported" if source.kind == "onnx" else wanted


def known_part(source: Source, wrapper: WrapperName, temporary: Path, settings: Settings) -> tuple[Source, list[str]]:
    """The source as the libraries get to see it, and remarks on what that lacks. Raises SourceInvalid.

    Weights that are logged as they are get copied: a second name of somebody's file would change with it. Linked are those
    of the data folder and of the embedded model, and those that are exported.
    """
    folder = temporary / "source" / re.sub(r"[^\w.-]", "-", source.folder.name)
    exported = wrapper == "onnx" and source.kind == "weights"
    place: Place = link_or_copy if exported or source.is_kept(settings) else copy_file
    remarks = copy_model(source.name, [source.folder], folder, place)
    return replace(source, folder=folder), remarks


def _trial(source: Source, temporary: Path) -> AbstractContextManager[Trial]:
    if source.name == EMBEDDED:
        return nullcontext(TrialHere())
    return TrialProcess(source.files.weight_bytes, temporary)


def _prepared(steps: StepReporter, wrapper: WrapperName, source: Source, remarks: list[str], trial: Trial) -> list[str]:
    """Load the libraries, here and in the trial; notes on what they read of the source. Raises TrialFailed."""
    with steps.step("prepare"):
        if wrapper == "transformers":
            from mlflow import transformers  # noqa: F401  (seconds of import belong to this step, not to "log")
        trial.ask("start", START_S)
        notes = [*remarks]
        if source.files.sliding_window:
            notes.append(
                "Its genai_config.json caps the KV cache at the sliding window, which causes a crash past 2,063 tokens; "
                "the logged copy does not."
            )
        if difference := trial.ask("template", TEMPLATE_S, folder=str(source.folder)):
            notes.append(difference)
    for note in notes:
        steps.note(note)
    return notes


def _window(onnx_folder: Path) -> dict[str, str]:
    from phi3kit.packaging.export import window_of

    window = window_of(onnx_folder)
    return {WINDOW_TAG: str(window)} if window else {}


def _export(steps: StepReporter, source: Source, temporary: Path, precision: Precision) -> Path:
    """The ONNX folder: the source itself, or its export by a process of its own."""
    from phi3kit.packaging.export import export_onnx

    if source.kind == "onnx":
        return source.folder
    name = re.sub(r"[^\w.-]", "-", source.name.rstrip("/").rpartition("/")[2])  # not the folder's, which is a commit
    folder = temporary / "export" / f"{name}-{precision}"
    with steps.step("read weights"):
        export_onnx(source.folder, folder, precision, steps.next_step)
    return folder


def _logged(
    steps: StepReporter, wrapper: WrapperName, folder: Path, source: Source, run_id: str, facts: dict[str, str]
) -> ModelInfo:
    with steps.step("log"), mlflow.start_run(run_id=run_id):
        from phi3kit.packaging.wrappers.log import log_onnx, log_transformers

        logged = log_onnx(folder, facts) if wrapper == "onnx" else log_transformers(folder, source.name, facts)
        mlflow.log_params({"wrapper": wrapper, **{name.partition(".")[2]: value for name, value in facts.items()}})
        return logged


def _checked(trial: Trial, source: Source, model_uri: str, wrapper: WrapperName, temporary: Path) -> str:
    """The model's answer, as plain MLflow loads it from the store. Raises TrialFailed or BuildFailed."""
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri)).resolve()
    if not folder.is_relative_to(temporary.resolve()):  # the trial reads nothing else
        shutil.copytree(
            folder,
            logged := temporary / "logged",
            symlinks=True,  # followed neither here nor by the trial
            copy_function=lambda *pair: link_or_copy(*map(Path, pair)),
        )
        folder = logged
    answer = trial.ask("check", step_seconds(source.files.weight_bytes), folder=str(folder), wrapper=wrapper)
    if not answer:
        raise BuildFailed(
            what=f"The logged {wrapper} model gave no answer.",
            why="Plain MLflow loaded it, and its completion was empty.",
            next_step="Check the weights, or build with --precision fp32.",
        )
    return str(answer)


def _compared(trial: Trial, source: Source, report: ReportEvent) -> str:
    from phi3kit.packaging.wrappers.compare import PROMPTS

    began = time.perf_counter()

    def on_done(done: int) -> None:
        rate = done / (time.perf_counter() - began)
        report(StepProgress("compare", done, len(PROMPTS), "prompts", rate, (len(PROMPTS) - done) / rate))

    same = trial.ask("compare", step_seconds(source.files.weight_bytes), on_done, source=str(source.folder))
    return f"{same} of {len(PROMPTS)}"
