"""Foreign values: whatever another program tagged a model or a run with, it is read as what it should be or as nothing."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from phi3kit.access.actor import Actor
from phi3kit.core.errors import StorageFailed
from phi3kit.core.settings import Settings
from phi3kit.evaluation import results
from phi3kit.evaluation.request import EMBEDDED_NAME
from phi3kit.tracking import foreign_values
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.store import open_store
from tests.support.samples import evaluation_run, logged_model, new_store

ODD = ["x", "", "-1", "1e3", "١", "9" * 5000, "NaN", "Infinity", "0x10", " 4096", "<b>4096</b>", "null", "4096.5"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


def tagged(settings: Settings, **tags: str) -> str:
    uri = logged_model(settings)
    client = open_store(settings)
    client.set_logged_model_tags(uri.removeprefix("models:/"), {f"phi3kit.{name}": tag for name, tag in tags.items()})
    return uri


@pytest.mark.parametrize("odd", ODD)
def test_a_models_odd_numbers_are_the_defaults(settings: Settings, odd: str) -> None:
    uri = tagged(settings, context_tokens=odd, size_bytes=odd)
    (model,) = list_models(settings)
    assert (model.model_uri, model.context_tokens, model.size_bytes) == (uri, 4096, 1000)


def test_a_model_of_another_kind_is_not_listed(settings: Settings) -> None:
    sound = logged_model(settings)
    for odd in ("x", "remote", "ONNX", "<script>"):
        tagged(settings, wrapper=odd)
    open_store(settings).delete_logged_model_tag(tagged(settings).removeprefix("models:/"), "phi3kit.wrapper")
    assert [model.model_uri for model in list_models(settings)] == [sound]


OLD_NAME = "embedded (withheld phrasings)"


class TestEvaluations:
    def test_only_sound_ones_are_listed(self, settings: Settings) -> None:
        sound = evaluation_run(settings, {}, {})
        for value in (math.inf, -1.0, 1e300, math.nan, 0.5):
            evaluation_run(settings, {"questions": value}, {})
        evaluation_run(settings, {"exact": math.nan}, {})
        evaluation_run(settings, {"latency_s": math.inf}, {})
        for odd in ("x", "0", "9" * 400):
            evaluation_run(settings, {}, {"at_once": odd})
        evaluation_run(settings, {}, {}, wrapper="x")
        assert [each.run_id for each in results.list_evaluations(settings)] == [sound]

    @pytest.mark.parametrize(
        "table",
        ["", "[]", "{}", '{"data": 1, "columns": ["question"]}', '{"data": [[1]], "columns": ["a", "b"]}', "[" * 100_000,
         '{"data": [["q"]], "columns": ["question"]}', '{"data": [{"a": 1}, {"b": 1}], "columns": null}',
         '{"data": [["q"], ["q", "e"]], "columns": ["question", "expected"]}', '{"data": [], "columns": ["a", "a"]}',
         '{"data": [["q", "e", "a", "x", 0, 0]], "columns": ["question", "expected", "answer", "exact/score", "contains/score",'
         ' "word_f1/score"]}'],
    )  # fmt: skip
    def test_a_damaged_table_is_one_error(self, settings: Settings, table: str) -> None:
        run = evaluation_run(settings, {}, {})
        open_store(settings).log_text(run, table, results._TABLE)
        with pytest.raises(StorageFailed, match="cannot be read"):
            results.answers_of(run, settings)

    def test_a_table_of_a_field_a_row_does_not_become_a_square(self, settings: Settings) -> None:
        run = evaluation_run(settings, {}, {})
        rows = [{f"k{number}": 0} for number in range(20_000)]  # 400 million cells, 3 GB
        open_store(settings).log_text(run, json.dumps({"columns": None, "data": rows}), results._TABLE)
        began = time.process_time()
        with pytest.raises(StorageFailed, match="cannot be read"):
            results.answers_of(run, settings)
        assert time.process_time() - began < 10

    def test_a_table_that_is_too_long_is_not_read(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "_MOST_BYTES", 100)
        run = evaluation_run(settings, {}, {})
        open_store(settings).log_text(run, " " * 101, results._TABLE)
        monkeypatch.setattr(results.mlflow.artifacts, "load_text", None)  # it would fail otherwise
        with pytest.raises(StorageFailed, match="cannot be read"):
            results.answers_of(run, settings)

    def test_questions_and_answers_are_their_askers_and_those_that_ship_everybodys(self, settings: Settings) -> None:
        for user, data in (
            ("bob", "salaries.csv"),
            ("carl", "c.csv"),
            ("bob", EMBEDDED_NAME),
            ("eve", OLD_NAME),
            ("", "foreign.csv"),
        ):
            evaluation_run(settings, {}, {"data": data}, user=user)
        found = results.list_evaluations(settings)
        seen = {
            role: {each.data for each in results.seen_by(Actor(name, role), found)}
            for name, role in (("bob", "user"), ("carl", "viewer"), ("", "visitor"), ("ada", "admin"))
        }
        assert seen == {
            "user": {"salaries.csv", EMBEDDED_NAME, OLD_NAME},
            "viewer": {"c.csv", EMBEDDED_NAME, OLD_NAME},
            "visitor": {EMBEDDED_NAME, OLD_NAME},
            "admin": {"salaries.csv", "c.csv", EMBEDDED_NAME, OLD_NAME, "foreign.csv"},
        }


@pytest.mark.parametrize("value", [*ODD, None, [], {}, math.nan, math.inf, -1, 2**60, b"1"])
def test_nothing_odd_is_a_number(value: Any) -> None:
    assert foreign_values.whole(value) is None
    assert foreign_values.moment(value) is None


def test_what_is_one_is_read() -> None:
    assert [foreign_values.whole(each) for each in (4096, 4096.0, "4096", "0")] == [4096, 4096, 4096, 0]
    assert foreign_values.whole("0", 1) is None
    assert [foreign_values.measure(each) for each in (1, 0.5, math.nan, math.inf, -1, "1")] == [
        1.0,
        0.5,
        None,
        None,
        None,
        None,
    ]
    assert foreign_values.one_of("onnx", ("transformers", "onnx")) == "onnx"
    assert str(foreign_values.moment(0)) == "1970-01-01 00:00:00+00:00"
