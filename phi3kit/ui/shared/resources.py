"""Resources: what all sessions of the app share, made once a process, and cached lists of what the store holds.

Knows the kit's long-lived parts; everything here is safe to share. Draws only what it waits for.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import streamlit as st
from mlflow.models import ModelSignature

from phi3kit.access.actor import Actor
from phi3kit.access.people import People
from phi3kit.batch.columns import GuessedColumns, guess_columns
from phi3kit.batch.jobs import BatchJobs
from phi3kit.batch.tables import ReadOptions, Table, open_table, read_rows
from phi3kit.conversations.growing_answer import GrowingAnswers
from phi3kit.core.data_folder import changed_at
from phi3kit.core.errors import Phi3KitError, StorageFailed
from phi3kit.core.profiles import Role
from phi3kit.core.records import Endpoint
from phi3kit.core.redaction import hide_in_logs
from phi3kit.core.settings import Settings, read_settings
from phi3kit.deployment.servers import ScoringServers
from phi3kit.endpoints import targets
from phi3kit.endpoints.connections import Connection, list_connections
from phi3kit.endpoints.targets import Target
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation.jobs import EvaluationJobs
from phi3kit.evaluation.results import Evaluation, list_evaluations, seen_by
from phi3kit.packaging.events import BuildRequest
from phi3kit.packaging.jobs import BuildJobs
from phi3kit.packaging.plan import Plan, make_plan
from phi3kit.packaging.sources.find import Source, find_source
from phi3kit.tracking import logged_models, registry
from phi3kit.tracking.deleted_models import DeletedModels
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import ModelChoice, RegisteredModel
from phi3kit.tracking.store import open_store
from phi3kit.tracking.upkeep import Upkeep
from phi3kit.ui.shared import visitors, words
from phi3kit.usage.outbox import Outbox
from phi3kit.usage.reader import TurnsReader, TurnsReading
from phi3kit.usage.writer import UsageWriter

T = TypeVar("T")


def _deleted(settings: Settings) -> list[LoggedModel]:
    """None where they cannot be read: they are names and nothing else."""
    with contextlib.suppress(StorageFailed):
        return DeletedModels(settings.home).all()
    return []


_LISTS: dict[str, Callable[[Settings], Any]] = {
    "models": logged_models.list_models,
    "deleted": _deleted,
    "registered": registry.list_registered,
    "evaluations": list_evaluations,
}
_FRESH_S = 3.0  # seconds that a list from the store may be old
_PLAN_FRESH_S = 60.0  # seconds that a plan may be old


@dataclass(frozen=True)
class Kit:
    """The app's long-lived parts."""

    settings: Settings
    pool: WorkerPool
    writer: UsageWriter
    reader: TurnsReader
    outbox: Outbox
    builds: BuildJobs
    servers: ScoringServers
    batches: BatchJobs
    evaluations: EvaluationJobs
    upkeep: Upkeep
    growing: GrowingAnswers

    def close(self) -> None:
        """End workers, scoring servers, writer, and the builds, batches and evaluations that this app started."""
        ending = (self.upkeep, self.builds, self.batches, self.evaluations, self.servers, self.pool, self.writer)
        for part in ending:
            part.close()


def secrets() -> dict[str, object]:
    """Names to secrets: environment variables win over secrets.toml, as they do for MLflow itself."""
    return {**(dict(st.secrets) if st.secrets.load_if_toml_exists() else {}), **os.environ}


# Not in Streamlit's caches, which one message of any browser clears.
_opened: list[Kit] = []  # the one, once it is open
_opening = threading.Lock()


def kit() -> Kit:
    """The shared parts. Raises SettingInvalid or StorageFailed."""
    with _opening:
        if not _opened:
            with st.spinner("Opening the store"):
                _opened.append(_open())
        return _opened[0]


def forget() -> None:
    """End what is shared and forget it, and what is known of people: the next page makes it anew."""
    with _opening:
        while _opened:
            _opened.pop().close()
    visitors.forget()


def _open() -> Kit:
    hide_in_logs(secrets())
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    for name in ("mlflow.pyfunc", "mlflow.models.utils"):  # they warn of every payload that is tried on Signatures
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = read_settings(secrets())
    open_store(settings)
    if settings.profile == "team":
        People(settings.home).reread(settings.role_lists)
    pool = WorkerPool(settings)
    shared = Kit(
        settings=settings,
        pool=pool,
        writer=UsageWriter(settings),
        reader=TurnsReader(settings),
        outbox=Outbox(settings.home),
        builds=BuildJobs(settings),
        servers=ScoringServers(settings),
        batches=BatchJobs(settings),
        evaluations=EvaluationJobs(settings),
        upkeep=Upkeep(settings, lambda: [each.model_uri for each in pool.statuses() if each.state != "stopped"]),
        growing=GrowingAnswers(),
    )
    shared.writer.start()
    shared.upkeep.start()
    return shared


def settings() -> Settings:
    """The app's settings. Raises SettingInvalid or StorageFailed."""
    return kit().settings


def actor() -> Actor:
    """The person at this browser tab. Raises SettingInvalid or StorageFailed."""
    return visitors.actor(kit().settings)


@st.cache_data(ttl=_FRESH_S, show_spinner=False)
def _fresh(name: str, home: str, last_event_at: float) -> Any:
    """A list from the store, at most a few seconds old, and read anew when a job that makes its entries has reported."""
    return _LISTS[name](kit().settings)


def models() -> list[LoggedModel]:
    """The built wrappers, newest first. Raises StorageFailed."""
    return _fresh("models", str(settings().home), kit().builds.last_event_at())


def model_names() -> dict[str, str]:
    """What each logged model is or, once it is deleted, was (weights, precision, time of its build), by its URI."""
    deleted: list[LoggedModel] = _fresh("deleted", str(settings().home), kit().builds.last_event_at())
    names = {model.model_uri: f"{words.model_label(model)} · deleted" for model in deleted}
    return names | {model.model_uri: words.model_label(model) for model in models()}


def registered() -> list[RegisteredModel]:
    """The registered models with their versions and aliases. Raises StorageFailed."""
    return _fresh("registered", str(settings().home), kit().builds.last_event_at())


def choices() -> list[ModelChoice]:
    """Aliases, versions and logged models that can be chosen. Raises StorageFailed."""
    return registry.choices(models(), registered())


def evaluations() -> list[Evaluation]:
    """The evaluations that this person may see, newest first. Raises StorageFailed."""
    return seen_by(actor(), _fresh("evaluations", str(settings().home), kit().evaluations.last_event_at()))


def connections() -> list[Connection]:
    """The remote endpoints that were added. Raises StorageFailed."""
    return list_connections(kit().settings.home)


def endpoint(target: Target, on_wait: Callable[[str], None] = lambda what: None) -> Endpoint:
    """Where a target answers. Raises ModelNotFound, WorkerFailed or ConnectionInvalid."""
    return targets.endpoint_of(target, kit().pool, secrets(), actor(), settings(), on_wait)


def reading(*, whole: bool = False) -> TurnsReading:
    """The logged turns as far as they are known, after a short wait; a progress bar while they are read the first time.

    whole: compare every run with the store. Raises StorageFailed when nothing is known.
    """
    reader = kit().reader
    found = reader.current(whole=whole)
    if found.snapshot is None and found.error is None:
        bar = st.progress(0.0, "Reading the logged turns")
        while found.snapshot is None and found.error is None:
            reader.wait(0.2)
            found = reader.current(wait_s=0)
            if found.progress and found.progress.runs:
                text = f"Reading the logged turns: {found.progress.runs:,} runs"
                bar.progress(found.progress.share, text)
        bar.empty()
    if found.snapshot is None and found.error is not None:
        raise found.error
    watcher = actor()
    return found if watcher.may("watch") else found.of(watcher.name)


def turns() -> pd.DataFrame:
    """The logged turns, newest first; not to be changed. Raises StorageFailed."""
    return reading().turns


def forget_lists() -> None:
    """Read the lists anew: something was built or logged."""
    _fresh.clear()
    kit().reader.forget()


@st.cache_data(ttl=_PLAN_FRESH_S, max_entries=20, show_spinner="Checking the source")
def _planned(request: BuildRequest, home: str, role: Role) -> tuple[Source, Plan] | Phi3KitError:
    planner = Actor("", role)
    try:
        source = find_source(request.source, planner, settings())
        return source, make_plan(request, source, planner, settings())
    except Phi3KitError as error:  # cached too: a hub that is away is not asked again at every click
        return error


def plan(request: BuildRequest) -> tuple[Source, Plan]:
    """The source of a build, and what the build needs. Raises SourceInvalid or DownloadFailed."""
    return unwrap(_planned(request, str(kit().settings.home), actor().role))


@st.cache_data(max_entries=20, show_spinner="Reading the table")
def _table(path: Path, reading: ReadOptions, changed_at: float) -> Table | Phi3KitError:
    try:
        return open_table(path, reading)
    except Phi3KitError as error:  # cached too: a big file that is wrong is not read again at every click
        return error


def table(path: Path, reading: ReadOptions) -> Table:
    """A table that was looked through. Raises TableInvalid."""
    return unwrap(_table(path, reading, changed_at(path)))


@st.cache_data(max_entries=20, show_spinner=False)
def _guessed_columns(table: Table, changed_at: float) -> GuessedColumns:
    return guess_columns(table.columns, read_rows(table))


def guessed_columns(table: Table) -> GuessedColumns:
    """Which column of a table is what, as its first rows look. Raises TableInvalid."""
    return _guessed_columns(table, changed_at(table.path))


def forget_plans() -> None:
    """Look at sources anew."""
    _planned.clear()


@st.cache_data(max_entries=100, show_spinner=False)
def signature(model_uri: str) -> ModelSignature:
    """A logged model's signature, which never changes. Raises ModelNotFound or StorageFailed."""
    return logged_models.signature_of(model_uri, kit().settings)


@st.cache_data(max_entries=100, show_spinner=False)
def files(model_uri: str) -> list[tuple[str, int]]:
    """A logged model's files, which never change. Raises ModelNotFound or StorageFailed."""
    return logged_models.files_of(model_uri, kit().settings)


def unwrap(found: T | Phi3KitError) -> T:
    """What a cached function returned; an error that it caught is raised."""
    if isinstance(found, Phi3KitError):
        raise found
    return found
