"""Turns' table: MLflow's runs as one table of turns, and periods of it.

Knows which runs are turns, and the columns that pages and files show. Reads no store, draws nothing.
"""

import numpy as np
import pandas as pd

from phi3kit.core.errors import RequestInvalid
from phi3kit.usage.turn_fields import METRICS, PARAMS, TAGS

COLUMNS = ("at", *TAGS[:6], *METRICS, *PARAMS, *TAGS[6:], "run_id")

_TOKEN_COUNTS = METRICS[:4]
_MEASURES = METRICS[4:]
_MOST_TOKENS = 10**9  # of one turn, so that sums fit into 64 bits
_SHORTEST_S, _LONGEST_S = 1e-9, 10**9  # a clock's nanosecond; of tokens/s too
_EARLIEST_MS, _LATEST_MS = 0, 4_102_444_800_000  # 1970 and 2100
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def turns_in(sorted_out: pd.DataFrame) -> pd.DataFrame:
    """The turns among the rows of `sort_out`, with the columns COLUMNS; a turn that was written twice is there once."""
    ours = sorted_out["odd"] == ""
    wanted = ours & ~_twice(sorted_out, ours)
    # All rows as they are share memory with the copy.
    turns = sorted_out if wanted.all() else sorted_out[wanted].reset_index(drop=True)
    at = pd.to_datetime(turns["start_ms"], unit="ms", utc=True).dt.as_unit("ms")
    return turns.assign(at=at)[list(COLUMNS)]


def oddities(sorted_out: pd.DataFrame) -> dict[str, int]:
    """The number of runs that are no turns, by the reason, most first."""
    reasons = sorted_out.loc[sorted_out["odd"] != "", "odd"].value_counts()
    found = {str(reason): int(count) for reason, count in reasons.items()}
    twice = int(_twice(sorted_out, sorted_out["odd"] == "").sum())
    return found | ({"written twice": twice} if twice else {})


def _twice(rows: pd.DataFrame, ours: pd.Series) -> pd.Series:
    """Which rows are a turn's second and later runs; the rows are newest first."""
    turn_ids = rows["turn_id"].where(ours)
    return turn_ids.duplicated(keep="last") & turn_ids.notna()


def sort_out(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs (see runs.Runs) with their types.

    Columns: COLUMNS but for `at`, then `start_ms`, and `odd`: why a run is no turn, in words ("" for a turn).
    """
    seeds = pd.array([_whole(value) for value in table["seed"]], dtype="Int64")
    for name in METRICS + PARAMS:
        table[name] = pd.to_numeric(table[name], errors="coerce").astype("float64")
    table["seed"] = seeds
    for name in _MEASURES:
        # MLflow stores an infinite metric as the largest float.
        possible = table[name].between(_SHORTEST_S, _LONGEST_S, inclusive="left") | (table[name] == 0)
        table[name] = table[name].where(possible)
    for name in (*TAGS, "run_id"):
        table[name] = table[name].astype("str")
    counts = table[list(_TOKEN_COUNTS)].fillna({"cached_prompt_tokens": 0})
    sound = ((counts >= 0) & (counts <= _MOST_TOKENS) & (counts % 1 == 0)).all(axis="columns")
    sound &= counts["prompt_tokens"] + counts["completion_tokens"] == counts["total_tokens"]
    sound &= counts["cached_prompt_tokens"] <= counts["prompt_tokens"]
    start_ms = pd.to_numeric(table["start_ms"], errors="coerce").astype("float64")
    checks = {
        "without the tag phi3kit.wrapper": table["wrapper"].isna(),
        "without token counts": counts.isna().any(axis="columns"),
        "with impossible token counts": ~sound,
        "with an impossible time": ~start_ms.between(_EARLIEST_MS, _LATEST_MS),
    }
    table["odd"] = pd.Series(
        np.select([check.to_numpy() for check in checks.values()], list(checks), default=""),
        index=table.index,
        dtype="str",
    )
    table[list(_TOKEN_COUNTS)] = counts.where(table["odd"] == "", 0).astype("int64")
    table["start_ms"] = start_ms.fillna(_EARLIEST_MS).clip(-(2.0**62), 2.0**62).astype("int64")
    table["tokens_counted"] = table["tokens_counted"] != "no"
    return table[[*COLUMNS[1:], "start_ms", "odd"]]


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
    end = now or pd.Timestamp.now(tz="UTC")
    return turns[turns["at"] >= end - length_of(period)]


def before(turns: pd.DataFrame, period: str, now: pd.Timestamp | None = None) -> pd.DataFrame | None:
    """The turns of the period before the last `period`; None for all. Raises RequestInvalid."""
    if period == "all":
        return None
    end = (now or pd.Timestamp.now(tz="UTC")) - length_of(period)
    return turns[(turns["at"] >= end - length_of(period)) & (turns["at"] < end)]


def length_of(period: str) -> pd.Timedelta:
    """The length of 12h, 7d, 4w. Raises RequestInvalid."""
    amount, hours = period[:-1], _HOURS.get(period[-1:])
    if hours is None or not amount.isdecimal() or not 0 < int(amount) < 10_000:
        raise RequestInvalid(
            what=f"The period {period!r} cannot be read.",
            why="A period is a number followed by h, d or w.",
            next_step="Write for example 12h, 7d, 4w, or all.",
            param="since",
        )
    return pd.Timedelta(hours=int(amount) * hours)
