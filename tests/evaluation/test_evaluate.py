"""Evaluation: scores, the questions that ship, runs in MLflow, two versions compared, and a champion."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from phi3kit.core.embedded_model import QUESTIONS_FILE
from phi3kit.core.errors import TableInvalid
from phi3kit.core.settings import Settings
from phi3kit.embedded.withheld import write_questions
from phi3kit.endpoints.workers import WorkerPool
from phi3kit.evaluation.evaluate import _metrics, evaluate
from phi3kit.evaluation.promote import promote
from phi3kit.evaluation.request import EvaluationRequest, read_questions
from phi3kit.evaluation.results import answers_of, compare_answers, keeps_texts, list_evaluations
from phi3kit.evaluation.scores import SCORES, contains, exact, word_f1, words
from phi3kit.tracking.model_uris import canonical
from phi3kit.tracking.store import EVALUATIONS_EXPERIMENT, open_store
from tests.conftest import Built, run_cli
from tests.support.actors import ADMIN
from tests.support.samples import copy_of_store

TABLE = "message,expected\nWhat is the capital of Spain?,The capital of Spain is Madrid.\nWhat is the capital of Peru?,Lima\n"


class TestScores:
    def test_exact_minds_every_letter_and_no_space_around(self) -> None:
        assert [exact(" Madrid.\n", "Madrid."), exact("madrid.", "Madrid.")] == [1.0, 0.0]

    def test_contains_minds_no_case(self) -> None:
        assert [contains("It is  madrid, of course", "IT IS Madrid"), contains("Paris", "Madrid")] == [1.0, 0.0]

    def test_word_f1_is_the_share_of_common_words(self) -> None:
        assert word_f1("the capital is Madrid", "the capital of Spain is Madrid") == pytest.approx(2 * 4 / (4 + 6))
        assert [word_f1("", ""), word_f1("", "a"), word_f1("a a", "a")] == [1.0, 0.0, pytest.approx(2 / 3)]

    def test_japanese_counts_by_character_and_greek_by_word(self) -> None:
        assert words("首都はMadridです") == ["首", "都", "は", "madrid", "で", "す"]
        assert words("Η Μαδρίτη, ναι;") == ["η", "μαδρίτη", "ναι"]


class TestQuestions:
    def test_the_table_that_ships_is_what_the_recipe_withholds(self, tmp_path: Path) -> None:
        write_questions(tmp_path / "questions.csv")
        assert (tmp_path / "questions.csv").read_bytes() == QUESTIONS_FILE.read_bytes()

    def test_a_limit_takes_evenly_so_that_every_language_has_its_share(self) -> None:
        asked = read_questions(EvaluationRequest("models:/m-1", limit=30)).questions
        assert len(asked) == 30
        japanese = [
            each for each in asked if "です" in each.expected or "ます" in each.expected or "。" in each.expected
        ]
        assert 5 <= len(japanese) <= 15

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("message\nHello\n", "no column expected"),
            ("message,expected\n", "has no questions"),
            ("message,expected\nHello,\n", "Row 1 of in.csv is not a question. The expected answer is empty."),
            ("question,expected\nHello,Hi\n", "no column message"),
        ],
    )
    def test_a_table_that_is_none_is_explained(self, tmp_path: Path, content: str, said: str) -> None:
        path = tmp_path / "in.csv"
        path.write_text(content)
        with pytest.raises(TableInvalid) as caught:
            read_questions(EvaluationRequest("models:/m-1", str(path)))
        assert said in str(caught.value)


def test_the_p95_of_few_answers_is_not_above_the_slowest_of_them() -> None:
    scored = {name: [1.0, 1.0] for name in SCORES}
    table = pd.DataFrame({"error": "", "latency_s": [1.0, 2.0], "completion_tokens": [5, 5], **scored})
    assert _metrics(table)["latency_p95_s"] == pytest.approx(1.95)


@pytest.fixture(scope="module")
def store(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("evaluated")
    return copy_of_store(built.settings, home)


class TestEvaluate:
    """In this order: the second compares with the first."""

    def test_1_scores_are_those_of_the_answers_and_logged_as_a_run(
        self, built: Built, store: Settings, pool: WorkerPool, tmp_path: Path
    ) -> None:
        path = tmp_path / "in.csv"
        path.write_text(TABLE)
        found = evaluate(EvaluationRequest(built.uri("onnx"), str(path)), ADMIN, store, lambda _: None, pool)
        assert (found.exact, found.contains, found.questions, found.failed) == (0.5, 1.0, 2, 0)
        assert found.word_f1 == pytest.approx((1 + 2 * 1 / (6 + 1)) / 2)
        run = open_store(store).get_run(found.run_id)
        assert open_store(store).get_experiment(run.info.experiment_id).name == EVALUATIONS_EXPERIMENT
        assert run.data.tags["phi3kit.model_uri"] == built.uri("onnx")
        assert run.data.metrics["exact"] == 0.5
        assert 0 < run.data.metrics["latency_s"] <= run.data.metrics["latency_p95_s"] * 2
        answers = answers_of(found.run_id, store)
        assert list(answers["answer"]) == ["The capital of Spain is Madrid.", "The capital of Peru is Lima."]
        assert list(answers["exact"]) == [1.0, 0.0]

    def test_2_the_command_line_evaluates_the_other_wrapper(
        self, built: Built, store: Settings, tmp_path: Path
    ) -> None:
        path = tmp_path / "in.csv"
        path.write_text(TABLE)
        done = run_cli("evaluate", built.uri("transformers"), "--data", str(path), home=store.home)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        newest, first = list_evaluations(store)
        assert (said["run_id"], newest.wrapper, newest.digest) == (newest.run_id, "transformers", first.digest)
        both = compare_answers(answers_of(newest.run_id, store), answers_of(first.run_id, store))
        assert list(both["better"]) == ["same", "same"]

    def test_3_the_better_one_becomes_champion_and_the_alias_moves(self, store: Settings) -> None:
        newest, first = list_evaluations(store)
        assert promote(newest, "phi3", "champion", ADMIN, store) == "models:/phi3@champion"
        assert canonical("models:/phi3@champion", store) == newest.model_uri
        promote(first, "phi3", "champion", ADMIN, store)
        assert canonical("models:/phi3@champion", store) == first.model_uri
        promote(newest, "phi3", "champion", ADMIN, store)
        assert canonical("models:/phi3@champion", store) == newest.model_uri
        assert len(open_store(store).search_model_versions("name = 'phi3'")) == 2, "no version is made twice"

    def test_4_a_mistake_is_one_line_and_exit_code_2(self, built: Built) -> None:
        done = run_cli("evaluate", built.uri("onnx"), "--data", "/no/such/file.csv", home=built.home)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1


class TestCompare:
    def test_each_question_says_who_was_better(self) -> None:
        def answers(*texts: str) -> pd.DataFrame:
            rows = [(f"q{n}", "a b", text, exact(text, "a b"), word_f1(text, "a b")) for n, text in enumerate(texts)]
            return pd.DataFrame(rows, columns=["question", "expected", "answer", "exact", "word_f1"])

        both = compare_answers(answers("a b", "x", "a"), answers("a", "x", "a b"))
        assert list(both["better"]) == ["A", "same", "B"]
        assert list(both["exact_a"]) == [True, False, False]


def test_without_texts_a_run_has_scores_and_no_question_and_answer(
    built: Built, pool: WorkerPool, tmp_path: Path
) -> None:
    settings = replace(copy_of_store(built.settings, tmp_path / "home"), log_text=False)
    path = tmp_path / "in.csv"
    path.write_text(TABLE)
    found = evaluate(EvaluationRequest(built.uri("onnx"), str(path)), ADMIN, settings, lambda _: None, pool)
    assert (found.exact, found.contains) == (0.5, 1.0)
    answers = answers_of(found.run_id, settings)
    assert list(answers["exact"]) == [1.0, 0.0]
    both = compare_answers(answers, answers)
    assert not keeps_texts(both)
    logged = [each for each in (settings.home / "artifacts").rglob("*") if each.is_file() and found.run_id in str(each)]
    assert logged
    for file in logged:
        assert not [text for text in ("capital", "Madrid", "Lima") if text in file.read_text(errors="replace")]
