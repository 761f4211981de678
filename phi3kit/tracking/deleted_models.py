"""Deleted models: what a logged model was, for the turns and evaluations that name it.

Kept in one SQLite file under the data folder when somebody deletes a model with phi3kit; MLflow lists a deleted one no more.
A model that another program deleted, or that expired, is known by its URI alone.
"""

import sqlite3
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from phi3kit.core.records import WRAPPERS
from phi3kit.core.sqlite_file import transaction
from phi3kit.tracking.logged_models import LoggedModel

_SCHEMA = """
create table if not exists deleted_models (
    model_uri text primary key, wrapper text not null, source text not null, precision text not null,
    context_tokens integer not null, created_at text not null, run_id text not null
);
"""


class DeletedModels:
    """Safe from several threads and processes. Each method raises StorageFailed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "deleted_models.db"

    def keep(self, model: LoggedModel) -> None:
        """Remember what a model was that is deleted now."""
        values = (model.model_uri, model.wrapper, model.source, model.precision, model.context_tokens)
        with self._transaction() as connection:
            connection.execute(
                "insert or replace into deleted_models values (?, ?, ?, ?, ?, ?, ?)",
                (*values, model.created_at.isoformat(), model.run_id),
            )

    def all(self) -> list[LoggedModel]:
        """Every model that is remembered; their files are gone."""
        with self._transaction() as connection:
            rows = connection.execute("select * from deleted_models").fetchall()
        return [
            LoggedModel(uri, wrapper, source, precision, context, datetime.fromisoformat(at), run, files_gone=True)
            for uri, wrapper, source, precision, context, at, run in rows
            if wrapper in WRAPPERS
        ]

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, "The names of deleted models cannot be used.")
