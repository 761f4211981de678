"""What is known of two models, side by side: sizes, the speed of logged turns, evaluations."""

from pathlib import Path

import pytest

from phi3kit.core.settings import Settings
from phi3kit.evaluation import model_comparison
from phi3kit.evaluation.results import DIGEST_TAG, list_evaluations
from phi3kit.tracking import registry
from phi3kit.tracking.logged_models import list_models
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, experiment_id, open_store
from tests.support.actors import ADMIN
from tests.support.samples import logged_model, new_store, table, turn


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return new_store(tmp_path)


def evaluate(settings: Settings, uri: str, at_ms: int, status: str = "FINISHED", **scores: float) -> str:
    """Log the run of an evaluation as phi3kit does; without scores, a run of another program."""
    client = open_store(settings)
    experiment = experiment_id(settings, EVALUATIONS_EXPERIMENT)
    tags = {"phi3kit.model_uri": uri, "phi3kit.wrapper": "onnx", DIGEST_TAG: "d1"}
    run = client.create_run(experiment, start_time=at_ms, tags=tags).info.run_id
    for name, value in {"model_uri": uri, "data": "embedded", "at_once": 1}.items():
        client.log_param(run, name, value)
    others = {"questions": 2, "failed": 0, "completion_tokens": 5, "latency_s": 0.1, "latency_p95_s": 0.1}
    for name, value in {**others, **scores}.items():
        client.log_metric(run, name, value)
    client.set_terminated(run, status)
    return str(run)


class TestTurnsOf:
    def test_turns_under_the_model_and_under_its_versions_count_and_those_under_an_alias_do_not(
        self, settings: Settings
    ) -> None:
        uri, other = logged_model(settings), logged_model(settings)
        registry.register(uri, "phi3", ADMIN, settings, aliases=["champion"])
        uris = [uri, "models:/phi3/1", "models:/phi3@champion", other]
        turns = table(*(turn(f"t{number}", model_uri=each) for number, each in enumerate(uris)))
        mine = model_comparison.turns_of_model(turns, uri, registry.list_registered(settings))
        assert sorted(mine["model_uri"]) == sorted([uri, "models:/phi3/1"])


class TestEvaluations:
    def test_the_newest_finished_run_of_each_model_is_taken(self, settings: Settings) -> None:
        uri, other = logged_model(settings), logged_model(settings)
        first = evaluate(settings, uri, 1_000, exact=0.5, contains=0.5, word_f1=0.5)
        newest = evaluate(settings, uri, 2_000, exact=0.75, contains=0.8, word_f1=0.9)
        evaluate(settings, uri, 3_000, status="FAILED", exact=0.1, contains=0.1, word_f1=0.1)
        evaluate(settings, uri, 4_000, loss=3.0)
        found = list_evaluations(settings)
        assert [each.run_id for each in found] == [newest, first]
        models = {model.model_uri: model for model in list_models(settings)}
        facts = model_comparison.compare_models(models[uri], models[other], table(), [], found)
        scores = {fact.name: (fact.a, fact.b) for fact in facts if fact.name.startswith("evaluation")}
        assert scores == {
            "evaluation: exact": (0.75, None),
            "evaluation: contains": (0.8, None),
            "evaluation: word_f1": (0.9, None),
        }

    def test_without_the_experiment_there_are_none_and_it_is_not_made(self, settings: Settings) -> None:
        assert list_evaluations(settings) == []
        assert open_store(settings).get_experiment_by_name(EVALUATIONS_EXPERIMENT) is None


class TestCompare:
    def test_every_measure_stands_beside_the_others_and_an_unmeasured_one_is_empty(self, settings: Settings) -> None:
        small, big = logged_model(settings, size_bytes=1000), logged_model(settings, size_bytes=5000)
        evaluate(settings, small, 1_000, exact=0.5, contains=0.6, word_f1=0.7)
        turns = table(
            turn("t1", model_uri=small, completion_tokens=11, duration_s=2.0, time_to_first_token_s=1.0),
            turn("t2", model_uri=small, completion_tokens=21, duration_s=2.0, time_to_first_token_s=1.0),
        )
        models = {model.model_uri: model for model in list_models(settings)}
        facts = model_comparison.compare_models(models[small], models[big], turns, [], list_evaluations(settings))
        shown = {fact.name: (fact.a, fact.b) for fact in facts}
        assert shown == {
            "wrapper": ("onnx", "onnx"),
            "source": ("embedded", "embedded"),
            "precision": ("int4", "int4"),
            "size": (1000, 5000),
            "context": (4096, 4096),
            "turns logged": (2, 0),
            "speed, median": (15.0, None),
            "time to first token, p95": (1.0, None),
            "evaluation: exact": (0.5, None),
            "evaluation: contains": (0.6, None),
            "evaluation: word_f1": (0.7, None),
        }
