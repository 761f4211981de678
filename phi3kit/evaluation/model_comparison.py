"""Model comparison: what two logged models are, what their turns measured and what their newest evaluations found.

Knows the table of turns and the evaluations that were logged. Evaluates nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from phi3kit.evaluation.results import Evaluation
from phi3kit.evaluation.scores import SCORES
from phi3kit.tracking.logged_models import LoggedModel
from phi3kit.tracking.registry import RegisteredModel
from phi3kit.usage.summary import totals


@dataclass(frozen=True)
class Fact:
    """One property of two models; None where it is not known."""

    name: str
    unit: str  # "", "bytes", "tokens", "turns", "s", "tokens/s", "share"
    a: str | float | None
    b: str | float | None


def turns_of_model(turns: pd.DataFrame, model_uri: str, registered: Sequence[RegisteredModel]) -> pd.DataFrame:
    """The turns of a logged model, under its own URI or a version's; an alias moves and is none of its names.

    turns, and the result: the columns of usage.turns_table.
    """
    versions = (version for each in registered for version in each.versions)
    uris = {model_uri} | {version.model_uri for version in versions if version.logged_model == model_uri}
    return turns[turns["model_uri"].isin(uris)]


def compare_models(
    a: LoggedModel,
    b: LoggedModel,
    turns: pd.DataFrame,
    registered: Sequence[RegisteredModel],
    evaluations: Sequence[Evaluation],
) -> list[Fact]:
    """What two logged models are and what was measured with each, in the order to be read.

    evaluations: newest first, as list_evaluations gives them.
    """
    of_a, of_b = (totals(turns_of_model(turns, model.model_uri, registered)) for model in (a, b))
    newest_a, newest_b = (
        next((found for found in evaluations if found.model_uri == model.model_uri), None) for model in (a, b)
    )
    return [
        Fact("wrapper", "", a.wrapper, b.wrapper),
        Fact("source", "", a.source, b.source),
        Fact("precision", "", a.precision, b.precision),
        Fact("size", "bytes", a.size_bytes, b.size_bytes),
        Fact("context", "tokens", a.context_tokens, b.context_tokens),
        Fact("turns logged", "turns", of_a.turns, of_b.turns),
        Fact("speed, median", "tokens/s", of_a.tokens_per_second_median, of_b.tokens_per_second_median),
        Fact("time to first token, p95", "s", of_a.time_to_first_token_p95_s, of_b.time_to_first_token_p95_s),
        *(
            Fact(f"evaluation: {name}", "share", getattr(newest_a, name, None), getattr(newest_b, name, None))
            for name in SCORES
        ),
    ]
