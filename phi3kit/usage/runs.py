"""Runs: the runs of one experiment as rows, from wherever MLflow keeps them.

Knows MLflow's client, which reads any store, and the tables of a database that this process is connected to: read
directly they take a ninth of the client's time. Knows no turns and no copy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, Engine, and_, case, func, select

from phi3kit.usage.turn_fields import METRICS, PARAMS, TAGS

DAY_MS = 86_400_000

_PAGE = 5000  # runs of the tables at once
_REQUEST = 1000  # runs of the client at once
_ENDED = "attributes.status != 'RUNNING'"
_NEWEST_FIRST, _OLDEST_FIRST = "attributes.start_time DESC", "attributes.start_time ASC"
_TABLES: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (SqlLatestMetric, METRICS, ""), (SqlParam, PARAMS, ""), (SqlTag, TAGS, "phi3kit."),
)  # fmt: skip
_CHUNK = 500  # run ids a statement, as MLflow's own


class Runs(Protocol):
    """The runs of one experiment that have ended. Rows: run_id, start_ms, METRICS, PARAMS and TAGS as they are stored."""

    def between(self, begin_ms: int | None, end_ms: int | None) -> Iterator[pd.DataFrame]:
        """The runs that began at `begin_ms` or later and before `end_ms`, newest first, page by page; None: no bound."""

    def first_ms(self) -> int | None:
        """When the first run began; None where there is none."""

    def days(self) -> dict[int, tuple[int, int]] | None:
        """For each day (since 1970, UTC) the number of its runs and the sum of their ms of the day, to see whether they
        are still the same; None where that would take long."""

    def deleted(self) -> list[str]:
        """The newest of the deleted runs; none where days can be compared."""


def runs_of(client: MlflowClient, experiment: str) -> Runs:
    """The quickest way to an experiment's runs."""
    store = client._tracking_client.store  # MLflow has no public way to its database
    if isinstance(store, SqlAlchemyStore):
        return DatabaseRuns(store.engine, experiment)
    return ClientRuns(client, experiment)


class ClientRuns:
    """Runs by MLflow's client."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def between(self, begin_ms: int | None, end_ms: int | None) -> Iterator[pd.DataFrame]:
        """See Runs."""
        query = _ENDED
        query += f" and attributes.start_time >= {begin_ms}" if begin_ms is not None else ""
        query += f" and attributes.start_time < {end_ms}" if end_ms is not None else ""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], query, ViewType.ACTIVE_ONLY, _REQUEST, [_NEWEST_FIRST], token
            )
            yield _rows(page)
            token = page.token
            if not token:
                return

    def first_ms(self) -> int | None:
        """See Runs."""
        found = self._client.search_runs([self._experiment], _ENDED, max_results=1, order_by=[_OLDEST_FIRST])
        return int(found[0].info.start_time) if found else None

    def days(self) -> None:
        """None: it would take reading all runs, which the copy is there to avoid."""

    def deleted(self) -> list[str]:
        """See Runs."""
        found = self._client.search_runs([self._experiment], "", ViewType.DELETED_ONLY, 200, [_NEWEST_FIRST])
        return [str(run.info.run_id) for run in found]


def _rows(runs: Sequence[Run]) -> pd.DataFrame:
    infos, data = [run.info for run in runs], [run.data for run in runs]
    values: dict[str, list[Any]] = {
        "run_id": [info.run_id for info in infos],
        "start_ms": [info.start_time for info in infos],
        **{name: [each.metrics.get(name) for each in data] for name in METRICS},
        **{name: [each.params.get(name) for each in data] for name in PARAMS},
        **{name: [each.tags.get(f"phi3kit.{name}") for each in data] for name in TAGS},
    }
    return pd.DataFrame(values, columns=list(values))


class DatabaseRuns:
    """Runs by the tables of MLflow's database, which MLflow has checked to be of its own version."""

    def __init__(self, engine: Engine, experiment: str) -> None:
        self._engine = engine
        self._ended = and_(
            SqlRun.experiment_id == int(experiment), SqlRun.lifecycle_stage == "active", SqlRun.status != "RUNNING"
        )

    def between(self, begin_ms: int | None, end_ms: int | None) -> Iterator[pd.DataFrame]:
        """See Runs."""
        query = select(SqlRun.run_uuid, SqlRun.start_time).where(self._ended).order_by(SqlRun.start_time.desc())
        query = query.where(SqlRun.start_time >= begin_ms) if begin_ms is not None else query
        query = query.where(SqlRun.start_time < end_ms) if end_ms is not None else query
        with self._engine.connect() as connection:
            found = pd.DataFrame(connection.execute(query).fetchall(), columns=["run_id", "start_ms"])
            for begin in range(0, max(len(found), 1), _PAGE):
                yield self._with_values(connection, found.iloc[begin : begin + _PAGE].reset_index(drop=True))

    def _with_values(self, connection: Connection, page: pd.DataFrame) -> pd.DataFrame:
        columns: dict[str, list[Any]] = {name: [None] * len(page) for name in (*METRICS, *PARAMS, *TAGS)}
        place = {run_id: number for number, run_id in enumerate(page["run_id"])}
        for begin in range(0, len(page), _CHUNK):
            ids = page["run_id"].iloc[begin : begin + _CHUNK].tolist()
            for model, names, prefix in _TABLES:
                value = case((model.is_nan, None), else_=model.value) if model is SqlLatestMetric else model.value
                query = select(model.run_uuid, model.key, value).where(
                    model.run_uuid.in_(ids), model.key.in_([prefix + name for name in names])
                )
                for run_id, key, stored in connection.execute(query).fetchall():
                    columns[key.removeprefix(prefix)][place[run_id]] = stored
        return page.assign(**{name: pd.Series(values, dtype=object) for name, values in columns.items()})

    def first_ms(self) -> int | None:
        """See Runs."""
        with self._engine.connect() as connection:
            found = connection.execute(select(func.min(SqlRun.start_time)).where(self._ended)).scalar()
        return None if found is None else int(found)

    def days(self) -> dict[int, tuple[int, int]]:
        """See Runs."""
        day = SqlRun.start_time // DAY_MS
        with self._engine.connect() as connection:
            query = select(day, func.count(), func.sum(SqlRun.start_time % DAY_MS)).where(self._ended).group_by(day)
            return {int(row[0]): (int(row[1]), int(row[2])) for row in connection.execute(query) if row[0] is not None}

    def deleted(self) -> list[str]:
        """None: days can be compared."""
        return []
