"""Sampling: which token is next, measured over thousands of draws with fixed seeds."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from phi3kit.worker.runtime import Logits
from phi3kit.worker.sampling import SampledToken, Sampler, Sampling

SCORES = (0.5, 2.0, -1.0, 1.25, 0.0, -4.0)  # likeliest first: 1, 3, 0, 4, 2, 5


def logits(*scores: float) -> Logits:
    return np.array(scores, dtype=np.float32)


def written(sampling: Sampling, scores: Sequence[float] = SCORES, tokens: int = 100) -> list[int]:
    """What one sampler writes when the model's scores are always the same."""
    sampler = Sampler(sampling)
    return [sampler.choose(logits(*scores)).id for _ in range(tokens)]


def softmax(scores: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(score / temperature) for score in scores]
    return [weight / sum(weights) for weight in weights]


def frequencies(ids: list[int]) -> list[float]:
    counts = Counter(ids)
    return [counts[token] / len(ids) for token in range(len(SCORES))]


def choice(sampling: Sampling, scores: Sequence[float] = SCORES) -> SampledToken:
    return Sampler(sampling).choose(logits(*scores))


class TestTemperature:
    def test_zero_takes_the_likeliest_token_whatever_the_seed(self):
        assert {token for seed in range(20) for token in written(Sampling(seed=seed), tokens=5)} == {1}

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_tokens_come_as_often_as_their_softmax_says(self, temperature: float):
        drawn = frequencies(written(Sampling(temperature=temperature, seed=3), tokens=8000))
        assert drawn == pytest.approx(softmax(SCORES, temperature), abs=0.025)

    @pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-6, 0.01])
    @pytest.mark.parametrize("top_p", [1.0, 0.9])
    def test_a_tiny_one_leaves_the_likeliest_alone(self, temperature: float, top_p: float):
        assert set(written(Sampling(temperature=temperature, top_p=top_p, seed=1))) == {1}

    @pytest.mark.parametrize("level", [-30000.0, 30000.0])
    def test_scores_of_any_size_can_be_drawn_from(self, level: float):
        assert set(written(Sampling(temperature=1.0, seed=1), (level, level - 1, level - 1000))) == {0, 1}


class TestSeed:
    @pytest.mark.parametrize("seed", [0, 7, -1, -(2**63), 2**63 - 1, 2**200])
    def test_repeats(self, seed: int):
        first, second = (written(Sampling(temperature=1.5, seed=seed)) for _ in range(2))
        assert first == second
        assert len(set(first)) > 1

    def test_others_write_something_else(self):
        answers = {tuple(written(Sampling(temperature=1.5, seed=seed))) for seed in (0, 1, -1, -2, 2**63 - 1, -(2**63))}
        assert len(answers) == 6

    def test_without_one_each_answer_is_a_new_draw(self):
        assert written(Sampling(temperature=1.5)) != written(Sampling(temperature=1.5))


class TestTopP:
    @pytest.mark.parametrize(("top_p", "kept"), [(1e-9, {1}), (0.5, {1}), (0.75, {1, 3}), (0.99, {0, 1, 2, 3, 4})])
    def test_keeps_the_likeliest_tokens_up_to_the_one_that_reaches_it(self, top_p: float, kept: set[int]):
        probabilities = softmax(SCORES)
        total = math.fsum(probabilities[token] for token in kept)
        assert total - min(probabilities[token] for token in kept) < top_p <= total  # the smallest set that reaches it
        assert set(written(Sampling(temperature=1.0, top_p=top_p, seed=5), tokens=3000)) == kept

    @pytest.mark.parametrize(("top_p", "kept"), [(0.25, {0}), (0.5, {0, 1}), (0.51, {0, 1, 2}), (0.75, {0, 1, 2})])
    def test_a_set_that_reaches_it_exactly_is_enough(self, top_p: float, kept: set[int]):
        assert set(written(Sampling(temperature=1.0, top_p=top_p, seed=5), (1.0, 1.0, 1.0, 1.0), 500)) == kept

    def test_what_is_kept_keeps_its_proportions(self):
        drawn = frequencies(written(Sampling(temperature=1.0, top_p=0.75, seed=5), tokens=8000))
        one, three = softmax((2.0, 1.25))
        assert drawn == pytest.approx([0, one, 0, three, 0, 0], abs=0.025)

    def test_counts_what_temperature_made_of_the_scores(self):
        assert set(written(Sampling(temperature=0.2, top_p=0.75, seed=5), tokens=500)) == {1}
        assert set(written(Sampling(temperature=9.0, top_p=0.75, seed=5), tokens=500)) == {0, 1, 2, 3, 4}


class TestPenalties:
    def test_frequency_is_taken_off_for_every_time_a_token_was_written(self):
        # 3 2 1 | 2.25 2 1 | 1.5 2 1 | 1.5 1.25 1 | 0.75 1.25 1 | 0.75 0.5 1
        assert written(Sampling(frequency_penalty=0.75), (3, 2, 1), 6) == [0, 0, 1, 0, 1, 2]

    def test_presence_is_taken_off_once(self):
        # 3 2 1 | 1.5 2 1 | 1.5 0.5 1, and so it stays
        assert written(Sampling(presence_penalty=1.5), (3, 2, 1), 6) == [0, 1, 0, 0, 0, 0]

    def test_both_add_up(self):
        # 3 2 0 | 1.75 2 0 | 1.75 0.75 0 | 1.25 0.75 0 | 0.75 0.75 0: the first of equals | 0.25 0.75 0 | 0.25 0.25 0
        sampling = Sampling(presence_penalty=0.75, frequency_penalty=0.5)
        assert written(sampling, (3, 2, 0), 7) == [0, 1, 0, 0, 0, 1, 0]


class TestLogitBias:
    def test_a_hundred_forces_a_token_even_against_temperature_and_penalties(self):
        sampling = Sampling(temperature=2.0, seed=1, presence_penalty=2.0, logit_bias={5: 100.0})
        assert set(written(sampling)) == {5}

    def test_minus_a_hundred_bans_a_token(self):
        assert set(written(Sampling(logit_bias={1: -100.0}))) == {3}
        sampling = Sampling(temperature=1.0, seed=2, logit_bias={1: -100.0, 3: -100.0})
        assert set(written(sampling, tokens=3000)) == {0, 2, 4, 5}

    def test_is_added_to_the_score(self):
        drawn = frequencies(written(Sampling(temperature=1.0, seed=2, logit_bias={2: 2.5, 0: -1.0}), tokens=8000))
        assert drawn == pytest.approx(softmax((-0.5, 2.0, 1.5, 1.25, 0.0, -4.0)), abs=0.025)


class TestLogprobs:
    def test_are_the_log_softmax_of_the_scores_likeliest_first(self):
        found = choice(Sampling(logprobs=4))
        reference = [score - math.log(math.fsum(math.exp(each) for each in SCORES)) for score in SCORES]
        assert [token for token, _ in found.likeliest] == [1, 3, 0, 4]
        assert [value for _, value in found.likeliest] == pytest.approx([reference[i] for i in (1, 3, 0, 4)], abs=1e-6)
        assert found.logprob == found.likeliest[0][1]

    def test_are_the_models_own_whatever_changes_the_choice(self):
        plain = choice(Sampling(logprobs=6))
        sampling = Sampling(0.3, 0.5, 9, presence_penalty=2.0, frequency_penalty=2.0, logit_bias={5: 100.0}, logprobs=6)
        sampler = Sampler(sampling)
        for _ in range(3):  # penalties begin with the second
            found = sampler.choose(logits(*SCORES))
            assert (found.id, found.likeliest) == (5, plain.likeliest)
            assert found.logprob == dict(plain.likeliest)[5]

    def test_the_chosen_one_has_its_own_even_when_no_others_are_named(self):
        (_, second) = choice(Sampling(logprobs=2)).likeliest
        assert choice(Sampling(logprobs=0, logit_bias={3: 100.0})) == SampledToken(*second)

    def test_are_left_out_unless_asked_for(self):
        assert choice(Sampling()) == SampledToken(1, None, ())

    def test_are_finite_for_scores_of_any_size(self):
        values = [value for _, value in choice(Sampling(logprobs=2), (30000.0, 29999.0)).likeliest]
        assert values == pytest.approx([-math.log1p(math.exp(-1)), -math.log1p(math.e)])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_scores_passed_in_are_never_changed(temperature: float):
    sampler = Sampler(Sampling(temperature, 0.5, 1, 1.0, 1.0, {0: 5.0, 1: -100.0}, logprobs=3))
    scores = logits(*SCORES)
    for _ in range(5):
        sampler.choose(scores)
    assert tuple(scores.tolist()) == SCORES
