"""Reader: the logged turns as one table.

Knows MLflow's runs and the columns that pages and files show. Draws nothing, writes nothing.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd

from phi3kit.errors import RequestInvalid
from phi3kit.settings import Settings
from phi3kit.store import USAGE_EXPERIMENT, experiment_id, open_store, storage_errors

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
TAGS = ("wrapper", "interface", "origin", "user", "finish_reason", "model_uri", "conversation_id")
COLUMNS = ("at", *TAGS[:5], *METRICS, *PARAMS, *TAGS[5:], "run_id")

_TOKEN_COUNTS = METRICS[:4]
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def read_turns(settings: Settings) -> pd.DataFrame:
    """Every turn of phi3kit-usage, newest first, with the columns COLUMNS; `at` is UTC. Raises StorageFailed."""
    open_store(settings)
    experiment = experiment_id(settings, USAGE_EXPERIMENT)
    with storage_errors(settings.home):
        runs: Any = mlflow.search_runs(
            experiment_ids=[experiment],
            filter_string="attributes.status != 'RUNNING'",
            order_by=["attributes.start_time DESC"],
            max_results=50_000,
        )
    return turns_of(runs)


def turns_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of turns from MLflow's table of runs; runs that other programs wrote are left out."""
    named = {"start_time": "at", "run_id": "run_id"}
    named |= {f"metrics.{name}": name for name in METRICS}
    named |= {f"params.{name}": name for name in PARAMS}
    named |= {f"tags.phi3kit.{name}": name for name in TAGS}
    table = runs.reindex(columns=list(named)).rename(columns=named)
    seeds = pd.array([_whole(value) for value in table["seed"]], dtype="Int64")
    for name in METRICS + PARAMS:
        table[name] = pd.to_numeric(table[name], errors="coerce").replace([np.inf, -np.inf], np.nan)
    counts = table[list(_TOKEN_COUNTS)].fillna({"cached_prompt_tokens": 0})
    # MLflow stores an infinite metric as the largest float, which no integer holds.
    ours = table["wrapper"].notna() & ((counts >= 0) & (counts < 2**53)).all(axis="columns")
    table["seed"] = seeds
    table = table[ours].reset_index(drop=True)
    table["at"] = pd.to_datetime(table["at"], utc=True)
    table[list(_TOKEN_COUNTS)] = table[list(_TOKEN_COUNTS)].fillna(0).astype("int64")
    return table[list(COLUMNS)]


def _whole(text: object) -> int | None:
    """A seed, digit by digit: a float holds only 53 bits of it."""
    try:
        number = int(str(text))
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def since(turns: pd.DataFrame, period: str, now: pd.Timestamp | None = None) -> pd.DataFrame:
    """The turns of the last `period`: 12h, 7d, 4w, or all. Raises RequestInvalid."""
    if period == "all":
        return turns
    amount, hours = period[:-1], _HOURS.get(period[-1:])
    if hours is None or not amount.isdecimal() or not 0 < int(amount) < 10_000:
        raise RequestInvalid(
            what=f"The period {period!r} cannot be read.",
            why="A period is a number with h, d or w behind it.",
            next_step="Write for example 12h, 7d, 4w, or all.",
            param="since",
        )
    end = now if now is not None else pd.Timestamp.now(tz="UTC")
    return turns[turns["at"] >= end - pd.Timedelta(hours=int(amount) * hours)]
