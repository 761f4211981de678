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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models.model import ModelInfo

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import DISK_FULL
from phi3kit.core.errors import BuildFailed, Phi3KitError
from phi3kit.core.records import WINDOW_TAG, Message, Precision, WrapperName
from phi3kit.core.settings import Settings
from phi3kit.formats import chat_template
from phi3kit.formats.model_copy import copy_model
from phi3kit.packaging.events import BuildRequest, ReportEvent, StepProgress, StepReporter
from phi3kit.packaging.sources.find import Source, fetch
from phi3kit.packaging.sources.hub_names import DownloadProgress
from phi3kit.tracking.logged_models import SIZE_TAG, delete_files
from phi3kit.tracking.registry import register
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
            source, left_out = _known(source, temporary)
            folder = _export(steps, source, temporary, request.precision) if wrapper == "onnx" else source.folder
            facts |= _window(folder) if wrapper == "onnx" else {}
            notes = _prepared(
                steps, wrapper, source, left_out
            )  # after the export, which needs the memory of these libraries
            info = _logged(steps, wrapper, folder, source, run_id, facts)
            with steps.step("check"):
                model, answer = _checked(info.model_uri, wrapper)
            same = None
            if wrapper == "onnx" and source.kind == "weights":
                with steps.step("compare"):
                    same = _compared(model, source, report)
                client.set_tag(run_id, "phi3kit.same_beginnings", same)
            registered = None
            if request.register:
                with steps.step("register"):
                    registered = register(info.model_uri, request.register, actor, settings).model_uri
            size_bytes = mlflow.models.Model.load(info.model_uri).model_size_bytes or 0
            tags = {"phi3kit.wrapper": wrapper, **facts, SIZE_TAG: str(size_bytes), CHECKED_TAG: "true"}
            client.set_logged_model_tags(info.model_id, tags)
        except (Phi3KitError, MlflowException, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
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


def _known(source: Source, temporary: Path) -> tuple[Source, list[str]]:
    """The source as the libraries get to see it, and remarks on what that lacks. Raises SourceInvalid."""
    folder = temporary / "source" / re.sub(r"[^\w.-]", "-", source.folder.name)
    remarks = copy_model(source.name, [source.folder], folder)
    return replace(source, folder=folder), remarks


def _prepared(steps: StepReporter, wrapper: WrapperName, source: Source, remarks: list[str]) -> list[str]:
    """Load the libraries; notes on what they read of the source."""
    with steps.step("prepare"):
        if wrapper == "transformers":
            from mlflow import transformers  # noqa: F401  (seconds of import belong to this step, not to "log")
        notes = remarks + _notes(source)
    for note in notes:
        steps.note(note)
    return notes


def _notes(source: Source) -> list[str]:
    notes = []
    if source.files.sliding_window:
        notes.append(
            "Its genai_config.json caps the KV cache at the sliding window, which ends in a crash past 2,063 tokens; "
            "the logged copy does not."
        )
    if difference := template_difference(source.folder):
        notes.append(difference)
    return notes


def template_difference(folder: Path) -> str | None:
    """How the model's own chat template differs from the one that phi3kit's workers apply; None when it does not."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        return "It has no chat template of its own; phi3kit's workers apply Phi-3's."
    system, user, assistant = Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi")
    for said, messages in (
        ("messages", [user]),
        ("a system message", [system, user]),
        ("an earlier answer", [user, assistant, user]),
    ):
        rendered = chat_template.raw_prompt(messages)
        try:
            own = tokenizer.apply_chat_template(
                [asdict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # some templates refuse a role
            return f"Its own chat template refuses {said}: {_first_line(error)} phi3kit's workers apply Phi-3's."
        if tokenizer.encode(own) != tokenizer.encode(rendered):
            return (
                f"Its own chat template renders {said} differently from Phi-3's, which phi3kit's workers "
                f"apply: {own!r} against {rendered!r}."
            )
    return None


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
    folder = temporary / f"{name}-{precision}"
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


def _checked(model_uri: str, wrapper: WrapperName) -> tuple[Any, str]:
    """The model as plain MLflow loads it, and its answer."""
    from phi3kit.packaging.wrappers.check import answer_of, load

    model = load(model_uri, wrapper)
    answer = answer_of(model, wrapper)
    if not answer:
        raise BuildFailed(
            what=f"The logged {wrapper} model gave no answer.",
            why="Plain MLflow loaded it, and its completion was empty.",
            next_step="Check the weights, or build with --precision fp32.",
        )
    return model, answer


def _compared(model: Any, source: Source, report: ReportEvent) -> str:
    from phi3kit.packaging.wrappers.compare import PROMPTS, same_beginnings

    began = time.perf_counter()

    def on_done(done: int) -> None:
        rate = done / (time.perf_counter() - began)
        report(StepProgress("compare", done, len(PROMPTS), "prompts", rate, (len(PROMPTS) - done) / rate))

    return f"{same_beginnings(model, source.folder, on_done=on_done)} of {len(PROMPTS)}"


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line}."
