"""Executor: what runs on Spark's executors: the model, loaded once a Python process, and the rows that it answers.

Sent to the executors with the rest of phi3kit. Knows Spark's files. Knows no driver.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.batch.request import RowResult
from phi3kit.core.records import WrapperName

if TYPE_CHECKING:
    import pandas as pd

    from phi3kit.batch.in_process import InProcess


@dataclass(frozen=True)
class Load:
    """What an executor needs to load the model."""

    folder: str  # of the model, on the driver's machine
    sent: str | None  # the archive that Spark put on the executor; None: the executor runs on the driver's machine
    wrapper: WrapperName
    model_uri: str
    threads: int
    user: str
    home: str  # the data folder, on the driver's machine

    def path(self) -> Path:
        """The model's folder on this executor."""
        if self.sent is None:
            return Path(self.folder)
        from filelock import FileLock
        from pyspark import SparkFiles

        archive = Path(SparkFiles.get(self.sent))
        target = archive.with_suffix("")
        with FileLock(f"{target}.lock"):  # a machine runs several Python processes
            if not target.exists():
                draft = target.with_suffix(".part")
                shutil.rmtree(draft, ignore_errors=True)
                with zipfile.ZipFile(archive) as file:
                    file.extractall(draft)  # our own archive, made of a logged model
                draft.rename(target)
        return target


_loaded: "dict[Load, InProcess]" = {}  # one: Spark uses a Python process for many tasks


def _in_process(load: Load) -> "InProcess":
    """The executor's model. The one before it ends first: there may be no memory for both."""
    from phi3kit.batch.in_process import InProcess

    if load not in _loaded:
        while _loaded:
            _loaded.popitem()[1].close()
        folder = load.path()
        home = folder if load.sent else Path(load.home)  # what was sent is this executor's own
        _loaded[load] = InProcess(folder, load.wrapper, load.model_uri, load.threads, load.user, home)
    return _loaded[load]


def trouble(load: Load) -> str:
    """Why the model cannot be loaded on this executor; empty when it can."""
    try:
        _in_process(load)
    except Exception as error:  # a missing library, a damaged model
        return first_line(error)
    return ""


def answered(frames: "Iterator[pd.DataFrame]", load: Load, batch_id: str) -> "Iterator[pd.DataFrame]":
    """The results of a partition's rows, each with its turn as JSON. Runs on an executor."""
    import pandas as pd

    names = [field.name for field in fields(RowResult)]
    for frame in frames:
        rows = [(int(row), json.loads(body)) for row, body in zip(frame["row"], frame["body"], strict=True)]
        answers = _in_process(load).answer(rows, batch_id)
        yield pd.DataFrame(
            [[*(getattr(result, name) for name in names), turn] for result, turn in answers], columns=[*names, "turn"]
        )


def first_line(error: BaseException) -> str:
    """The line of an error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Py4J says where it happened first, and what happened later.
    line = next((each for each in lines if ": " in each and not each.startswith("An error occurred")), "")
    return (line or next(iter(lines), type(error).__name__))[:300].rstrip(".") + "."
