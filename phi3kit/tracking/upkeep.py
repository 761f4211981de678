"""Upkeep: what of the data folder is cleaned up, and when.

What is registered, running or waiting is never touched, nor is what people saved. Knows files and the store.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import ViewType

from phi3kit.access.actor import Actor
from phi3kit.core.data_folder import changed_at, disk_bytes
from phi3kit.core.errors import Phi3KitError
from phi3kit.core.settings import Settings
from phi3kit.jobs.job_folder import alive, last_write
from phi3kit.jobs.kinds import JOB_KINDS
from phi3kit.tracking import logged_models
from phi3kit.tracking.registry import list_registered
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors

log = logging.getLogger(__name__)

_EVERY_S = 600.0
_HOUR_S = 3600.0
_MOST_RUNS = 1000  # a round; the rest goes with the next one
# What can be made or downloaded again: bundles, exports of broken builds, torch's cache, copies of remote models, logs.
_REMAKEABLE = ("bundles", "exports", "cache", "logs")


@dataclass(frozen=True)
class Cleaned:
    """What a clean-up removed."""

    files_bytes: int = 0  # without the models'
    models: int = 0
    turns: int = 0


def clean_up(actor: Actor, settings: Settings, older_than_s: float) -> Cleaned:
    """Remove ended jobs with what they left, uploads, and what can be made again, where it is older.

    Raises NotAllowed or StorageFailed.
    """
    actor.require("administer")
    return _clean_up(settings, time.time() - older_than_s, ())


def _clean_up(settings: Settings, before: float, loaded: Collection[str]) -> Cleaned:
    """In the profile public what strangers made goes too. loaded: URIs of models that are in use."""
    held = _held(settings)
    for kind in JOB_KINDS:
        for folder in kind.folders(settings):
            if not alive(folder) and last_write(folder) < before:
                shutil.rmtree(folder, ignore_errors=True)
    for folder in (settings.home / "batches" / "uploads", *(settings.home / name for name in _REMAKEABLE)):
        _remove_old(folder, before)
    _remove_unused_models(settings.home / "models", before)
    models = turns = 0
    if settings.profile == "public":
        models = _expire_models(settings, before, loaded)
        turns = _expire_turns(settings, before)
    return Cleaned(max(0, held - _held(settings)), models, turns)


def _held(settings: Settings) -> int:
    """What all this takes; the store is left out, for others write to it meanwhile."""
    return sum(
        disk_bytes(settings.home / name) for name in (*(kind.name for kind in JOB_KINDS), *_REMAKEABLE, "models")
    )


def _remove_old(folder: Path, before: float) -> None:
    """Files that were not written lately, and the folders that are empty then."""
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            with suppress(OSError):  # somebody else removed it
                if (path := Path(place, name)).lstat().st_mtime < before:
                    path.unlink()
        for name in folders:
            with suppress(OSError):  # there is something in it, or it is a link
                Path(place, name).rmdir()


def _remove_unused_models(folder: Path, before: float) -> None:
    """Copies of remote models that nobody asked for lately, each as a whole."""
    for each in folder.iterdir() if folder.is_dir() else ():
        if changed_at(each) < before:
            shutil.rmtree(each, ignore_errors=True)


def _expire_models(settings: Settings, before: float, loaded: Collection[str]) -> int:
    registered = {version.logged_model for each in list_registered(settings) for version in each.versions}
    old = [
        model.model_uri
        for model in logged_models.list_models(settings)
        if model.created_at.timestamp() < before and model.model_uri not in registered | set(loaded)
    ]
    for model_uri in old:
        logged_models.delete(model_uri, settings)
    return len(old)


def _expire_turns(settings: Settings, before: float) -> int:
    """Traces go for good; runs are marked as deleted, and `mlflow gc` removes those."""
    client, before_ms = open_store(settings), int(before * 1000)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    with storage_errors(settings.home):
        runs = client.search_runs(
            [experiment], f"attributes.start_time < {before_ms}", ViewType.ACTIVE_ONLY, _MOST_RUNS
        )
        for run in runs:
            client.delete_run(run.info.run_id)
        client.delete_traces(experiment, max_timestamp_millis=before_ms, max_traces=_MOST_RUNS)
    return len(runs)


class Upkeep:
    """Cleans up by itself where PHI3KIT_KEEP_HOURS is set, for as long as the process lives."""

    def __init__(self, settings: Settings, loaded: Callable[[], Collection[str]]) -> None:
        self._settings, self._loaded = settings, loaded
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin, where there is something to do."""
        if self._settings.limits.keep_hours:
            self._thread.start()

    def close(self) -> None:
        """End after the round in hand."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        hours = self._settings.limits.keep_hours or 0
        while not self._ended.wait(_EVERY_S):
            try:
                found = _clean_up(self._settings, time.time() - hours * _HOUR_S, self._loaded())
                log.info("cleaned up: %s", found)
            except (Phi3KitError, OSError) as error:  # the store is away: the next round does it
                log.warning("not cleaned up: %s", error)
