"""Votes: which answer of a comparison a person liked best, kept until it is a tag of each turn's run in MLflow.

A table in the outbox's file. A comparison has one vote; voting again changes it. Knows no page.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient

from phi3kit.core.records import Served
from phi3kit.core.settings import Settings
from phi3kit.core.sqlite_file import connect, sqlite_errors
from phi3kit.tracking.store import USAGE_EXPERIMENT, experiment_id, known, open_store, storage_errors

log = logging.getLogger(__name__)

Outcome = Literal["won", "lost", "tie"]
TAG = "phi3kit.vote"

_SCHEMA = """
create table if not exists votes (
    turn_id text primary key,
    comparison_id text not null,
    wrapper text not null,
    model_uri text not null,
    outcome text not null,
    user text not null,
    at real not null,  -- seconds since the epoch
    run_id text  -- of the run that has it as a tag; null while it waits
);
"""
_NO_RUN = ""  # there is no run to tag


@dataclass(frozen=True)
class Vote:
    """What a vote means for one turn of a comparison."""

    turn_id: str
    wrapper: Served
    model_uri: str
    outcome: Outcome


@dataclass(frozen=True)
class Tally:
    """How often a model's answers were voted for."""

    wrapper: Served
    model_uri: str
    won: int
    tied: int
    lost: int

    @property
    def votes(self) -> int:
        """Comparisons in which it stood."""
        return self.won + self.tied + self.lost


class Votes:
    """The votes on this machine. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self._path = home / "outbox.db"

    def cast(self, comparison_id: str, votes: Sequence[Vote], user: str) -> None:
        """Keep the votes of one comparison durably, in the place of earlier ones. Raises StorageFailed."""
        with self._connection() as connection:
            connection.executemany(
                "insert into votes (turn_id, comparison_id, wrapper, model_uri, outcome, user, at) values (?, ?, ?, ?, ?, ?, ?) "
                "on conflict (turn_id) do update set outcome = excluded.outcome, run_id = null "
                "where outcome <> excluded.outcome",
                [
                    (each.turn_id, comparison_id, each.wrapper, each.model_uri, each.outcome, user, time.time())
                    for each in votes
                ],
            )

    def of(self, comparison_id: str) -> dict[str, Outcome]:
        """A comparison's vote: turn ids to outcomes; empty when nobody has voted. Raises StorageFailed."""
        with self._connection() as connection:
            query = "select turn_id, outcome from votes where comparison_id = ?"
            return dict(connection.execute(query, (comparison_id,)))

    def tally(self) -> list[Tally]:
        """Every model that was voted on, most wins first. Raises StorageFailed."""
        with self._connection() as connection:
            rows = connection.execute(
                "select wrapper, model_uri, sum(outcome = 'won') as won, sum(outcome = 'tie'), sum(outcome = 'lost') "
                "from votes group by wrapper, model_uri order by won desc, count(*) desc, model_uri"
            )
            return [Tally(*row) for row in rows]

    def ready(self) -> list[tuple[str, Outcome, str | None]]:
        """Votes that can be written: turn id, outcome, and the turn's run where the outbox knows it."""
        with self._connection() as connection:
            has_turns = connection.execute("select 1 from sqlite_master where name = 'turns'").fetchone()
            if not has_turns:
                return []
            return connection.execute(
                "select votes.turn_id, outcome, turns.run_id from votes left join turns using (turn_id) "
                "where votes.run_id is null and (turns.turn_id is null or turns.run_id is not null)"
            ).fetchall()

    def written(self, turn_id: str, outcome: Outcome, run_id: str) -> None:
        """Mark a vote as written, unless it was changed meanwhile."""
        with self._connection() as connection:
            connection.execute(
                "update votes set run_id = ? where turn_id = ? and outcome = ?", (run_id, turn_id, outcome)
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        what = "The votes cannot be saved or read."
        with sqlite_errors(self._path, what), closing(connect(self._path, _SCHEMA)) as connection, connection:
            yield connection


def write_votes(settings: Settings) -> None:
    """Tag the runs of turns that were voted on; turns that are not written yet are left for later.

    Raises StorageFailed and leaves the rest waiting.
    """
    votes = Votes(settings.home)
    if not (ready := votes.ready()):
        return
    client = open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    with storage_errors(settings.home):
        for turn_id, outcome, known_run in ready:
            run_id = known_run or _run_of(client, experiment, turn_id)
            # A run that was deleted takes no tag.
            if run_id is None or not known(partial(_tag, client, run_id, outcome)):
                log.warning("a vote has no run: turn %s was never logged, or its run was deleted", turn_id)
                run_id = _NO_RUN
            votes.written(turn_id, outcome, run_id)


def _tag(client: MlflowClient, run_id: str, outcome: Outcome) -> bool:
    client.set_tag(run_id, TAG, outcome)
    return True


def _run_of(client: MlflowClient, experiment: str, turn_id: str) -> str | None:
    """The run of a turn that the outbox has forgotten."""
    found = client.search_runs([experiment], f"tags.`phi3kit.turn_id` = '{turn_id}'", max_results=1)
    return found[0].info.run_id if found else None
