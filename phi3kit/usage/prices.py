"""Prices: what tokens cost, by the operator's own prices and by others' list prices.

In US dollars for a million tokens. Own prices are kept in the data folder; list prices are those of MLflow's model
catalog. Knows no store.
"""

import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from phi3kit.access.actor import Actor
from phi3kit.core.errors import StorageFailed
from phi3kit.core.settings import Settings

if TYPE_CHECKING:  # who writes a turn's cost draws no table
    import pandas as pd

_MILLION = 1_000_000
_CATALOG = {  # models of MLflow's catalog to compare a small model with
    "azure_ai": ("Phi-3-mini-4k-instruct", "Phi-3-medium-4k-instruct", "Phi-4-mini-instruct", "Phi-4"),
    "openai": ("gpt-4o-mini", "gpt-4.1-mini", "gpt-5-mini", "gpt-4o"),
    "anthropic": ("claude-haiku-4-5",),
}
_PROVIDERS = {"azure_ai": "Azure AI", "openai": "OpenAI", "anthropic": "Anthropic"}


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens of each kind; a prompt token that was cached costs `cached_prompt` alone."""

    prompt: float = 0.0
    completion: float = 0.0
    cached_prompt: float = 0.0

    def of_turn(self, prompt: int, cached: int, completion: int) -> tuple[float, float]:
        """What prompt tokens, of which some were cached, and completion tokens cost, in US dollars."""
        spent = (prompt - cached) * self.prompt + cached * self.cached_prompt
        return spent / _MILLION, completion * self.completion / _MILLION

    def cost(self, turns: "pd.DataFrame") -> float:
        """What the turns' tokens cost, in US dollars."""
        counts = (int(turns[name].sum()) for name in ("prompt_tokens", "cached_prompt_tokens", "completion_tokens"))
        return sum(self.of_turn(*counts))


def load(home: Path) -> dict[str, Price]:
    """The own prices by wrapper; without one a wrapper costs nothing. Raises StorageFailed."""
    try:
        found = json.loads((home / "prices.json").read_text("utf-8"))
        return {
            str(wrapper): Price(**{name: float(value) for name, value in each.items()})
            for wrapper, each in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StorageFailed(
            "The prices cannot be read.", f"prices.json: {error}.", "Correct or remove the file in the data folder."
        ) from error


def save(actor: Actor, settings: Settings, prices: dict[str, Price]) -> None:
    """Keep the own prices, which hold for all users. Raises NotAllowed or StorageFailed."""
    actor.require("administer")
    new = settings.home / f"prices.json.{os.getpid()}.new"
    try:
        new.write_text(json.dumps({wrapper: asdict(price) for wrapper, price in prices.items()}, indent=2), "utf-8")
        new.replace(settings.home / "prices.json")
    except OSError as error:
        raise StorageFailed(
            "The prices cannot be saved.", f"{error.strerror or error}.", "Free some space in the data folder."
        ) from error


def cost(turns: "pd.DataFrame", prices: dict[str, Price]) -> float:
    """What the turns cost by the own prices, in US dollars."""
    return sum(price.cost(turns[turns["wrapper"] == wrapper]) for wrapper, price in prices.items())


@lru_cache(maxsize=1)
def list_prices() -> dict[str, Price]:
    """List prices by model, of the installed MLflow."""
    found = {}
    for provider, models in _CATALOG.items():
        source = files("mlflow").joinpath("utils", "model_catalog", f"{provider}.json")
        catalog = json.loads(source.read_text("utf-8"))["models"]
        for model in models:
            pricing = catalog.get(model, {}).get("pricing", {})
            prompt, completion = pricing.get("input_per_million_tokens"), pricing.get("output_per_million_tokens")
            if prompt is not None and completion is not None:
                cached = pricing.get("cache_read_per_million_tokens", prompt)
                found[f"{model} ({_PROVIDERS[provider]})"] = Price(float(prompt), float(completion), float(cached))
    return found


def compared(turns: "pd.DataFrame", prices: dict[str, Price]) -> "pd.DataFrame":
    """The cost of the turns' tokens by the own prices, then by each list price, the cheapest first.

    Columns model, prompt, cached_prompt, completion (US dollars for a million tokens; None for the own prices, which
    differ by wrapper), cost.
    """
    import pandas as pd

    rows = [("These turns at your prices", None, None, None, cost(turns, prices))]
    others = [
        (model, price.prompt, price.cached_prompt, price.completion, price.cost(turns))
        for model, price in list_prices().items()
    ]
    rows += sorted(others, key=lambda row: row[-1])  # type: ignore[arg-type,return-value]
    return pd.DataFrame(rows, columns=["model", "prompt", "cached_prompt", "completion", "cost"])
