"""Sampling: from a model's scores to the next token, the same for both wrappers.

Knows temperature, top_p, seeds, penalties, biases and log probabilities as OpenAI names them. Knows no model.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phi3kit.worker.runtime import Logits


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. temperature 0 is greedy; seed None is a new draw each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # added to the score of a token
    logprobs: int | None = None  # how many likely tokens to name beside each; None: no log probabilities


@dataclass(frozen=True)
class SampledToken:
    """A chosen token; where wanted, its log probability and the likeliest tokens with theirs."""

    id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        seed = None if sampling.seed is None else sampling.seed % 2**64  # a generator takes no negative seed
        self._random = np.random.default_rng(seed)
        self._written: Counter[int] = Counter()
        self._biased = np.fromiter(sampling.logit_bias.keys(), dtype=np.int64)
        self._biases = np.fromiter(sampling.logit_bias.values(), dtype=np.float32)

    def choose(self, logits: Logits) -> SampledToken:
        """The next token. logits: shape (vocabulary,)."""
        sampling = self._sampling
        scores = self._adjusted(logits)
        chosen = int(scores.argmax()) if sampling.temperature == 0 else self._drawn(scores)
        self._written[chosen] += 1
        return self.named(logits, chosen)

    def named(self, logits: Logits, token_id: int) -> SampledToken:
        """A token with its log probability and the likeliest others, where they are wanted."""
        if self._sampling.logprobs is None:
            return SampledToken(token_id)
        # Of the model's own scores, before penalties and temperature.
        whole = _log_sum_exp(logits)
        likeliest = _greatest(logits, self._sampling.logprobs)
        return SampledToken(
            token_id, float(logits[token_id]) - whole, tuple((int(i), float(logits[i]) - whole) for i in likeliest)
        )

    def _adjusted(self, logits: Logits) -> Logits:
        sampling = self._sampling
        penalised = (sampling.presence_penalty or sampling.frequency_penalty) and self._written
        if not penalised and not sampling.logit_bias:
            return logits
        scores = logits.copy()
        if penalised:
            ids = list(self._written)
            counts = np.array(list(self._written.values()), dtype=np.float32)
            scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        scores[self._biased] += self._biases
        return scores

    def _drawn(self, scores: Logits) -> int:
        with np.errstate(over="ignore"):  # a tiny temperature leaves only the likeliest token
            weights = np.exp((scores.astype(np.float64) - scores.max()) / self._sampling.temperature)
        order: np.ndarray[Any, Any] | None = None
        if self._sampling.top_p < 1:
            # The likeliest tokens that together reach top_p, the one that reaches it included.
            order = np.argsort(-weights, kind="stable")
            weights = weights[order]
            enough = int(np.searchsorted(weights.cumsum(), self._sampling.top_p * weights.sum())) + 1
            weights = weights[:enough]
        sums = weights.cumsum()
        at = min(int(np.searchsorted(sums, self._random.random() * sums[-1], side="right")), len(sums) - 1)
        return int(order[at]) if order is not None else at


def _greatest(scores: Any, count: int) -> Any:
    """The places of the greatest scores, greatest first, the first of equals first. Sorts only those: ten times as fast."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    enough = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return enough[np.argsort(-scores[enough], kind="stable")][:count]


def _log_sum_exp(scores: Logits) -> float:
    """The logarithm of the sum of all exponentials: a score less this is a log probability. Of 32,000 scores to 1e-6."""
    greatest = scores.max()
    return float(greatest) + math.log(np.exp(scores - greatest).sum(dtype=np.float64))
