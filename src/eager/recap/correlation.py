"""How a sequence's high entropies go with its correctness (Pearson, Spearman).

The measure of a sequence is the mean of its own monitored entropies at or above their p-th percentile: p = 0 is the
mean of all, p = 99 that of its peaks. Tokens that were taken over from the parent or not monitored do not count.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.0, 50.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9)
_FEWEST = 3  # two points always lie on a line


class ScipyMissingError(RuntimeError):
    """The correlations need scipy; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """One percentile's correlation over n sequences, or over n prompts; None where nothing varies or n is too small."""

    percentile: float
    over: Literal["sequences", "prompts"]
    n: int
    pearson: float | None
    pearson_p: float | None
    spearman: float | None
    spearman_p: float | None


def peak_entropies(entropies: Seq[float | None]) -> NDArray[np.float64]:
    """The sequence's measure at each of PERCENTILES; NaN where it has no monitored token."""
    if entropies and entropies[0] is None and entropies.count(None) == len(entropies):
        return np.full(len(PERCENTILES), np.nan)  # seen without a number being made of each
    found = np.array(entropies, dtype=np.float64)  # None becomes NaN
    monitored = np.sort(found[~np.isnan(found)])
    if not monitored.size:
        return np.full(len(PERCENTILES), np.nan)
    thresholds = np.percentile(monitored, PERCENTILES)
    first = np.minimum(np.searchsorted(monitored, thresholds, side="left"), monitored.size - 1)
    sums_from = np.cumsum(monitored[::-1])[::-1]
    means: NDArray[np.float64] = sums_from[first] / (monitored.size - first)
    return means


def correlations(peaks: Seq[NDArray[np.float64]], correct: Seq[tuple[bool | None, ...]]) -> tuple[Correlation, ...]:
    """Over sequences, then over prompts; `peaks[i]` is (sequences, percentiles) of prompt i. ScipyMissingError."""
    prompts = [_graded(p, c) for p, c in zip(peaks, correct, strict=True)]
    prompts = [(p, c) for p, c in prompts if len(c)]
    if not prompts:
        return ()
    sequences = np.concatenate([p for p, _ in prompts]), np.concatenate([c for _, c in prompts])
    means = np.array([p.mean(axis=0) for p, _ in prompts]), np.array([c.mean() for _, c in prompts])
    found = []
    for column, percentile in enumerate(PERCENTILES):
        found.append(_correlate(percentile, "sequences", sequences[0][:, column], sequences[1]))
        found.append(_correlate(percentile, "prompts", means[0][:, column], means[1]))
    return tuple(sorted(found, key=lambda correlation: correlation.over != "sequences"))


def _graded(
    peaks: NDArray[np.float64], correct: tuple[bool | None, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sequences that are both monitored and graded."""
    kept = [i for i, grade in enumerate(correct) if grade is not None and not np.isnan(peaks[i, 0])]
    return peaks[kept], np.array([correct[i] for i in kept], dtype=np.float64)


def _correlate(
    percentile: float, over: Literal["sequences", "prompts"], x: NDArray[np.float64], y: NDArray[np.float64]
) -> Correlation:
    n = len(x)
    if n < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(percentile, over, n, None, None, None, None)
    stats = _scipy_stats()
    pearson, spearman = stats.pearsonr(x, y), stats.spearmanr(x, y)
    return Correlation(percentile, over, n, *map(_finite, (*pearson, *spearman)))


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise ScipyMissingError("entropy-accuracy correlations need scipy: pip install 'eager-gen[report]'") from None
    return stats
