"""Runs: those of one experiment, as rows, from wherever MLflow keeps them.

Knows MLflow's client, which reads any store, and the tables of a database that this process is connected to: read
directly they give 100,000 runs in seconds, where the client takes minutes. Knows no turns and no copy.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, Engine, and_, case, func, select

METRICS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_prompt_tokens",
    "time_to_first_token_s",
    "duration_s",
    "tokens_per_second",
)
PARAMS = ("temperature", "max_tokens", "top_p", "seed")
TAGS = (
    "wrapper", "interface", "origin", "user", "finish_reason", "error_code", "model_uri", "conversation_id", "turn_id",
    "prompt_key", "tokens_counted",
)  # fmt: skip

PageReport = Callable[[int, int], None]  # runs of a page, and when the last of them began

DAY_MS = 86_400_000

_PAGE = 5000  # runs that are put together at once
_REQUEST = 1000  # runs a request to the client
_ENDED = "attributes.status != 'RUNNING'"
_TABLES: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (SqlLatestMetric, METRICS, ""), (SqlParam, PARAMS, ""), (SqlTag, TAGS, "phi3kit."),
)  # fmt: skip
_CHUNK = 500  # run ids a statement; MLflow itself asks for as many


class Runs(Protocol):
    """The runs of one experiment that have ended. Rows: run_id, start_ms, METRICS, PARAMS and TAGS as they are stored."""

    def between(self, begin_ms: int | None, end_ms: int | None, report: PageReport = ...) -> Iterator[pd.DataFrame]:
        """The runs that began at `begin_ms` or later and before `end_ms`, newest first, page by page; None: no bound."""
        ...

    def span(self) -> tuple[int, int] | None:
        """When the first and the last run began, in ms; None where there is none."""
        ...

    def days(self) -> dict[int, tuple[int, int]] | None:
        """The number of runs of each day (since 1970, UTC) and the sum of their ms of the day, which shows whether they
        are still the same; None where asking would take long."""
        ...

    def deleted(self) -> list[str]:
        """The newest of the runs that were deleted."""
        ...


def runs_of(client: MlflowClient, experiment: str) -> Runs:
    """The quickest way to an experiment's runs."""
    store = client._tracking_client.store  # MLflow offers no other way to the database that it is connected to
    if isinstance(store, SqlAlchemyStore):
        return DatabaseRuns(store.engine, experiment)
    return ClientRuns(client, experiment)


class ClientRuns:
    """By MLflow's client."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def between(
        self, begin_ms: int | None, end_ms: int | None, report: PageReport = lambda count, last_ms: None
    ) -> Iterator[pd.DataFrame]:
        """See Runs."""
        bounds = [_ENDED]
        bounds += [f"attributes.start_time >= {begin_ms}"] if begin_ms is not None else []
        bounds += [f"attributes.start_time < {end_ms}"] if end_ms is not None else []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                " and ".join(bounds),
                max_results=_REQUEST,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield _rows(page)
            if page:
                report(len(page), int(page[-1].info.start_time))
            token = page.token
            if not token:
                return

    def span(self) -> tuple[int, int] | None:
        """See Runs."""
        ends = [
            self._client.search_runs(
                [self._experiment], _ENDED, max_results=1, order_by=[f"attributes.start_time {order}"]
            )
            for order in ("ASC", "DESC")
        ]
        return (int(ends[0][0].info.start_time), int(ends[1][0].info.start_time)) if all(ends) else None

    def days(self) -> None:
        """Paging through all of them is what the copy is there to avoid."""

    def deleted(self) -> list[str]:
        """See Runs."""
        found = self._client.search_runs(
            [self._experiment],
            run_view_type=ViewType.DELETED_ONLY,
            max_results=200,
            order_by=["attributes.start_time DESC"],
        )
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
    """By the tables of MLflow's database; MLflow has seen to it that they are of its own version."""

    def __init__(self, engine: Engine, experiment: str) -> None:
        self._engine = engine
        self._ended = and_(
            SqlRun.experiment_id == int(experiment), SqlRun.lifecycle_stage == "active", SqlRun.status != "RUNNING"
        )
        self._deleted = and_(SqlRun.experiment_id == int(experiment), SqlRun.lifecycle_stage == "deleted")

    def between(
        self, begin_ms: int | None, end_ms: int | None, report: PageReport = lambda count, last_ms: None
    ) -> Iterator[pd.DataFrame]:
        """See Runs."""
        wanted = [self._ended]
        wanted += [SqlRun.start_time >= begin_ms] if begin_ms is not None else []
        wanted += [SqlRun.start_time < end_ms] if end_ms is not None else []
        chosen = select(SqlRun.run_uuid, SqlRun.start_time).where(and_(*wanted)).order_by(SqlRun.start_time.desc())
        with self._engine.connect() as connection:
            found = pd.DataFrame(connection.execute(chosen).fetchall(), columns=["run_id", "start_ms"])
            for begin in range(0, max(len(found), 1), _PAGE):
                page = found.iloc[begin : begin + _PAGE].reset_index(drop=True)
                yield self._with_values(connection, page)
                if len(page):
                    report(len(page), int(page["start_ms"].iloc[-1] or 0))

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

    def span(self) -> tuple[int, int] | None:
        """See Runs."""
        with self._engine.connect() as connection:
            query = select(func.min(SqlRun.start_time), func.max(SqlRun.start_time)).where(self._ended)
            first, last = connection.execute(query).one()
        return None if first is None else (int(first), int(last))

    def days(self) -> dict[int, tuple[int, int]]:
        """See Runs."""
        day = SqlRun.start_time // DAY_MS
        with self._engine.connect() as connection:
            query = select(day, func.count(), func.sum(SqlRun.start_time % DAY_MS)).where(self._ended).group_by(day)
            return {int(row[0]): (int(row[1]), int(row[2])) for row in connection.execute(query) if row[0] is not None}

    def deleted(self) -> list[str]:
        """Not asked for where days can be compared."""
        return []
