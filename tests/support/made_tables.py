"""MLflow's tables, made once for all test processes: a new SQLite store gets a copy.

MLflow runs some forty migrations on an empty database, and waits for the disk behind each. Knows nothing of what is stored.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.store.db import utils
from sqlalchemy import create_engine

from phi3kit.core.settings import PROJECT_ROOT

_CACHE = PROJECT_ROOT / ".pytest_cache" / "phi3kit"
_make = utils._initialize_tables


def install() -> None:
    """From now on this process, and those that are forked from it, copy."""
    utils._initialize_tables = _copy


def new_database(file: Path) -> None:
    """Write a database with MLflow's tables and nothing in them; no store is opened."""
    with FileLock(_CACHE / "tables.lock"):
        shutil.copyfile(_made(), file)


def _copy(engine: Any) -> None:
    if engine.dialect.name != "sqlite" or not engine.url.database:
        _make(engine)
        return
    with FileLock(_CACHE / "tables.lock"):
        if utils._all_tables_exist(engine):  # another process was faster
            return
        with closing(sqlite3.connect(_made())) as made, closing(engine.raw_connection()) as new:
            made.backup(new.driver_connection)


def _made() -> Path:
    """A database with the tables of this MLflow, and nothing in them."""
    file = _CACHE / f"tables-{mlflow.__version__}.db"
    if not file.exists():
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        engine = create_engine(f"sqlite:///{new}")
        _make(engine)
        engine.dispose()
        new.rename(file)
    return file


_CACHE.mkdir(parents=True, exist_ok=True)
