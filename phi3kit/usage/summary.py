"""Summary: the numbers that a table of turns comes down to.

Knows turns and what one compares of them. Draws nothing, reads no store.
"""

from dataclasses import dataclass

import pandas as pd

from phi3kit.core.records import SERVED, WRAPPERS, WrapperName

PERCENTILES = (0.5, 0.95, 0.99)
REST = "all others"
_MOST_NAMES = 12  # that are told apart; other programs may write as many as they like


@dataclass(frozen=True)
class Totals:
    """The numbers above the charts; None where no turn has the measure."""

    turns: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    time_to_first_token_p95_s: float | None
    tokens_per_second_median: float | None
    cached_prompt_tokens: int = 0  # of prompt_tokens
    uncounted_turns: int = 0  # whose endpoint gave no counts: they stand in no sum of tokens


NOTHING = Totals(0, 0, 0, 0, None, None)


def totals(turns: pd.DataFrame) -> Totals:
    """Sums and quantiles of the turns."""

    def quantile(column: str, share: float) -> float | None:
        values = turns[column].dropna()
        return float(values.quantile(share)) if len(values) else None

    return Totals(
        turns=len(turns),
        prompt_tokens=int(turns["prompt_tokens"].sum()),
        completion_tokens=int(turns["completion_tokens"].sum()),
        total_tokens=int(turns["total_tokens"].sum()),
        time_to_first_token_p95_s=quantile("time_to_first_token_s", 0.95),
        tokens_per_second_median=quantile("tokens_per_second", 0.5),
        cached_prompt_tokens=int(turns["cached_prompt_tokens"].sum()),
        uncounted_turns=int((~turns["tokens_counted"]).sum()),
    )


def change(now: float | None, before: float | None) -> float | None:
    """How much more `now` is than `before`, as a share of it; None where there is nothing to compare with."""
    return None if now is None or not before else now / before - 1


def few(names: pd.Series, weights: pd.Series) -> pd.Series:
    """The names, those beyond the dozen with most weight as REST."""
    if names.nunique() <= _MOST_NAMES + 1:
        return names
    return names.where(names.isin(weights.groupby(names).sum().nlargest(_MOST_NAMES).index), REST)


def _few_by_turns(names: pd.Series) -> pd.Series:
    return few(names, pd.Series(1, index=names.index))


def served_by(turns: pd.DataFrame) -> pd.Series:
    """What answered each turn: a wrapper, a remote endpoint, or what other programs call theirs.

    Of theirs the dozen with most turns, and REST.
    """
    names = turns["wrapper"]
    if names.nunique() <= _MOST_NAMES + 1:  # which leaves no rest
        return names
    ours = names.isin(SERVED)
    return names.where(ours, _few_by_turns(names[~ours]))


def served(by: pd.Series) -> list[str]:
    """The names in `served_by` in the order that charts have: the wrappers, remote endpoints, other programs', REST."""
    found = set(by.unique())
    return [name for name in SERVED if name in found] + sorted(
        found - set(SERVED), key=lambda name: (name == REST, name)
    )


def percentiles(turns: pd.DataFrame, column: str) -> pd.DataFrame:
    """p50, p95 and p99 of a measure for each of `served`: wrapper, turns (that have the measure), p50, p95, p99."""
    rows = []
    by = served_by(turns)
    for wrapper in served(by):
        values = turns.loc[by == wrapper, column].dropna()
        if len(values):
            cuts = values.quantile(list(PERCENTILES))
            rows.append((wrapper, len(values), *(float(cut) for cut in cuts)))
    return pd.DataFrame(rows, columns=["wrapper", "turns", *(f"p{share * 100:.0f}" for share in PERCENTILES)])


def outcome_of(turns: pd.DataFrame) -> pd.Series:
    """How each turn ended: its finish reason, for errors their code; beyond the dozen with most turns REST."""
    outcome = turns["finish_reason"].fillna("unknown")
    failed = (outcome == "error") & turns["error_code"].notna()
    return _few_by_turns(outcome.where(~failed, "error: " + turns["error_code"].fillna("")))


def outcomes(turns: pd.DataFrame) -> pd.DataFrame:
    """How turns ended, for each of `served`: outcome (the finish reason, and for errors their code), wrapper, turns.

    Outcomes beyond the dozen with most turns are REST, the last one.
    """
    counts = turns.groupby([outcome_of(turns).rename("outcome"), served_by(turns)]).size().reset_index(name="turns")
    most_first = counts.groupby("outcome")["turns"].sum().sort_values(ascending=False).index
    order = sorted(most_first, key=lambda name: name == REST)
    return counts.sort_values("outcome", key=lambda column: column.map(order.index), kind="stable", ignore_index=True)


def conversations(turns: pd.DataFrame) -> pd.DataFrame:
    """Conversations, the one with most tokens first: conversation_id, turns, total_tokens, at (of its last turn), wrapper."""
    groups = turns[turns["conversation_id"].notna()].groupby("conversation_id", sort=False)
    table = groups.agg(
        turns=("run_id", "size"), total_tokens=("total_tokens", "sum"), at=("at", "max"), wrapper=("wrapper", "first")
    )
    return table.reset_index().sort_values("total_tokens", ascending=False, kind="stable", ignore_index=True)


def same_prompts(turns: pd.DataFrame) -> pd.DataFrame:
    """Both wrappers on the prompts that both were asked: one row a wrapper.

    Columns wrapper, prompts, turns, and the medians over prompts (of a prompt's own medians) of time_to_first_token_s,
    tokens_per_second, completion_tokens and duration_s. Empty when there are none.
    """
    measures = ["time_to_first_token_s", "tokens_per_second", "completion_tokens", "duration_s"]
    ended = turns[
        turns["prompt_key"].notna() & turns["wrapper"].isin(WRAPPERS) & turns["finish_reason"].isin(["stop", "length"])
    ]
    asked = ended.groupby("prompt_key")["wrapper"].nunique()
    both = ended[ended["prompt_key"].isin(asked.index[asked == len(WRAPPERS)])]
    columns = ["wrapper", "prompts", "turns", *measures]
    if both.empty:
        return pd.DataFrame(columns=columns)
    medians = both.groupby(["wrapper", "prompt_key"])[measures].median().groupby("wrapper").median()
    counts = both.groupby("wrapper").agg(prompts=("prompt_key", "nunique"), turns=("run_id", "size"))
    table = counts.join(medians).reset_index()
    return table.sort_values("wrapper", key=lambda column: column.map(WRAPPERS.index), ignore_index=True)[columns]


@dataclass(frozen=True)
class Faster:
    """The wrapper with the higher median speed, and how many times the other's it is."""

    wrapper: WrapperName
    ratio: float


def faster_wrapper(turns: pd.DataFrame) -> Faster | None:
    """Compare the wrappers' median tokens/s; None until both have answered."""
    medians = turns.groupby("wrapper")["tokens_per_second"].median().dropna()
    if not set(WRAPPERS) <= set(medians.index):
        return None
    ours = medians[list(WRAPPERS)]
    wrapper: WrapperName = max(WRAPPERS, key=lambda name: float(ours[name]))
    return Faster(wrapper, float(ours.max() / ours.min()))
