"""Prices: one's own and the list prices, and what tokens cost by them."""

from pathlib import Path

import pytest

from phi3kit.core.errors import StorageFailed
from phi3kit.usage.prices import Price, compared, cost, list_prices, load, save
from tests.conftest import settings_for
from tests.support.actors import ADMIN
from tests.support.samples import table, turn

TURNS = table(
    turn("a", prompt_tokens=1_000_000, cached_prompt_tokens=400_000, completion_tokens=500_000),
    turn("b", wrapper="transformers", prompt_tokens=100_000, completion_tokens=0),
)


class TestCost:
    def test_every_kind_of_token_has_its_price_and_a_cached_one_no_other(self):
        assert Price(prompt=1.0, completion=4.0, cached_prompt=0.5).cost(TURNS.iloc[:1]) == pytest.approx(
            0.6 + 0.2 + 2.0
        )

    def test_wrappers_have_prices_of_their_own_and_what_has_none_costs_nothing(self):
        assert cost(TURNS, {"onnx": Price(1.0, 4.0, 0.5)}) == pytest.approx(2.8)
        assert cost(TURNS, {"transformers": Price(10.0)}) == pytest.approx(1.0)
        assert cost(TURNS, {}) == 0

    def test_no_turns_cost_nothing(self):
        assert cost(TURNS.head(0), {"onnx": Price(1.0)}) == 0


class TestOwnPrices:
    def test_are_read_as_they_were_saved(self, tmp_path: Path):
        assert load(tmp_path) == {}
        prices = {"onnx": Price(0.1, 0.2, 0.03), "remote": Price()}
        save(ADMIN, settings_for(tmp_path), prices)
        assert load(tmp_path) == prices
        assert [path.name for path in tmp_path.iterdir()] == ["prices.json"]

    @pytest.mark.parametrize(
        "text", ["", "[1]", '{"onnx": {"prompt": "much"}}', '{"onnx": {"price": 1}}', '{"onnx": 1}']
    )
    def test_a_file_that_says_no_prices_is_named(self, tmp_path: Path, text: str):
        (tmp_path / "prices.json").write_text(text)
        with pytest.raises(StorageFailed, match=r"prices\.json"):
            load(tmp_path)

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path):
        with pytest.raises(StorageFailed, match="cannot be saved"):
            save(ADMIN, settings_for(tmp_path / "missing"), {})


class TestListPrices:
    def test_are_those_of_the_installed_mlflow(self):
        prices = list_prices()
        assert prices["Phi-3-mini-4k-instruct (Azure AI)"] == Price(0.13, 0.52, 0.13)
        assert prices["gpt-4o-mini (OpenAI)"].cached_prompt < prices["gpt-4o-mini (OpenAI)"].prompt

    def test_the_same_tokens_are_compared_under_ones_own_the_cheapest_first(self):
        rows = compared(TURNS, {"onnx": Price(1.0, 4.0, 0.5)}).to_dict("records")
        assert (rows[0]["model"], rows[0]["cost"]) == ("These turns at your prices", pytest.approx(2.8))
        costs = [row["cost"] for row in rows[1:]]
        assert costs == sorted(costs)
        phi = next(row for row in rows if row["model"].startswith("Phi-3-mini"))
        assert phi["cost"] == pytest.approx(1.1 * 0.13 + 0.5 * 0.52)
