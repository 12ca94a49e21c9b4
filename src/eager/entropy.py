"""Top-K token entropy: how uncertain the model is about its next token (paper, section 3.1); and its relatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush, heappushpop

import numpy as np
import numpy.typing as npt

from eager.types import ENTROPY_TOP_K


def top_k_entropy(logprobs: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Entropy in nats of the K largest log-probabilities, renormalised; 0 <= H <= ln K.

    `logprobs`: shape (..., n), n >= 1, in any order; where n > K (vLLM returns K+1 when the sampled token is
    outside the top K) only the K largest count. Any constant may be added to a row. Returns shape (...).
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.shape[-1] > ENTROPY_TOP_K:
        values = np.partition(values, -ENTROPY_TOP_K, axis=-1)[..., -ENTROPY_TOP_K:]
    shifted = values - values.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=-1)
    # H = ln Z - E[x] for p = e^x / Z; a weight of 0 has x = -inf and contributes nothing.
    mean = np.where(weights > 0, weights * np.where(weights > 0, shifted, 0.0), 0.0).sum(axis=-1) / total
    entropy: npt.NDArray[np.float64] = np.maximum(np.log(total) - mean, 0.0)
    return entropy


def top_k_varentropy(logprobs: Sequence[float]) -> float:
    """The variance of -ln p over the same K: V = Σ p̃ (-ln p̃ - H)², in nats². `logprobs`: one row, as above."""
    row = sorted(logprobs, reverse=True)[:ENTROPY_TOP_K]
    shifted = [logprob - row[0] for logprob in row if logprob > -math.inf]
    weights = [math.exp(x) for x in shifted]
    total = math.fsum(weights)
    # -ln p̃ = ln Z - x: the variance of x is that of -ln p̃.
    mean = math.fsum(w * x for w, x in zip(weights, shifted, strict=True)) / total
    return math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, shifted, strict=True)) / total


class RunningPercentile:
    """numpy's linear percentile of all values added so far, to the last digit, in O(log n) a value."""

    def __init__(self, percentile: float) -> None:
        self._share = percentile / 100
        self._low: list[float] = []  # negated: a max-heap of the values up to the percentile
        self._high: list[float] = []

    def add(self, value: float) -> None:
        heappush(self._high, -heappushpop(self._low, -value))
        n_low = int(self._rank()) + 1
        while len(self._low) < n_low:
            heappush(self._low, -heappop(self._high))

    @property
    def value(self) -> float:
        """The percentile; at least one value must have been added."""
        below, above = -self._low[0], self._high[0] if self._high else -self._low[0]
        share = self._rank() - (len(self._low) - 1)
        # As numpy does it: from the nearer end, so that the last digit is the same.
        if share < 0.5:
            return below + (above - below) * share
        return above - (above - below) * (1 - share)

    def _rank(self) -> float:
        """Where the percentile lies among the sorted values, counted from 0."""
        return (len(self._low) + len(self._high) - 1) * self._share
