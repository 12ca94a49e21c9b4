"""Draws tokens and finds the K best from rows of logits, in numpy.

Two facts make this cheap next to a decode. The K largest of a row lie in the K groups with the largest maxima, so one
pass for the groups' maxima bounds the K-th value from below and few candidates remain to be sorted. And an inverse-CDF
draw needs cumulative sums of blocks and then of one block only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt

from eager.types import ENTROPY_TOP_K, SamplingParams

Floats = npt.NDArray[np.float32]
_BLOCK = 64

NO_DISTRIBUTION = (
    "the model's logits are not numbers, or infinite, so that no token can be drawn: its weights are broken (convert"
    " them anew), or too large for 16 bits (compute in bfloat16 or float32)"
)


class NoDistributionError(ValueError):
    """A row of logits from which nothing can be drawn."""

    def __init__(self) -> None:
        super().__init__(NO_DISTRIBUTION)


def best_k(rows: Seq[Floats], k: int = ENTROPY_TOP_K) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Ids and log-probabilities (temperature 1) of the k most likely tokens of each row, most likely first.

    `rows`: at least one row of logits, (vocabulary,) each. Returns two arrays (n, min(k, vocabulary)); equal logits are
    ordered by id.
    """
    k = min(k, len(rows[0]))
    ids = np.empty((len(rows), k), dtype=np.int64)
    values = np.empty((len(rows), k), dtype=np.float64)
    for i, row in enumerate(rows):
        ids[i], values[i] = _best_k_of_row(row, k)
    return ids, values


def _best_k_of_row(row: Floats, k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    ids = _top_ids(row, k)
    top = row[ids[0]]
    log_total = np.log(_block_sums(np.exp(row - top)).sum(dtype=np.float64))
    return ids, row[ids].astype(np.float64) - float(top) - log_total


def _top_ids(row: Floats, k: int) -> npt.NDArray[np.int64]:
    """The ids of the k largest values, largest first, equal ones by id."""
    candidates = _candidates(row, k)
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]


def _candidates(row: Floats, k: int) -> npt.NDArray[np.int64]:
    """Ids, in order, of some values that hold the k largest.

    Of n groups each is every n-th value: their maxima are those of whole slices, the fastest for numpy.
    """
    n_groups = len(row) // _BLOCK
    if n_groups <= k:
        return np.arange(len(row))
    whole = n_groups * _BLOCK
    groups = row[:whole].reshape(_BLOCK, n_groups)
    maxima = groups.max(axis=0)
    floor = np.partition(maxima, -k)[-k]
    promising = np.flatnonzero(maxima >= floor)
    members, columns = np.nonzero(groups[:, promising] >= floor)
    return np.append(members * n_groups + promising[columns], whole + np.flatnonzero(row[whole:] >= floor))


def draw(row: Floats, sampling: SamplingParams, u: float) -> int:
    """The token at `u` in [0, 1) of the row's distribution: temperature, then min_p, top_k and top_p.

    Raises NoDistributionError where the row's largest logit is not finite, as where any of them is nan.
    """
    top = row.max()
    if not math.isfinite(top):
        raise NoDistributionError
    weights = np.exp((row - top) * np.float32(1 / sampling.temperature))
    if sampling.min_p > 0:
        weights[weights < sampling.min_p] = 0  # the most likely token weighs 1
    if 0 < sampling.top_k < len(weights):
        _keep_only(weights, _top_ids(weights, sampling.top_k))
    if sampling.top_p < 1:
        _keep_top_p(weights, sampling.top_p)
    return _inverse_cdf(weights, u)


def _keep_only(weights: Floats, ids: npt.NDArray[np.int64]) -> None:
    values = weights[ids]
    weights[:] = 0
    weights[ids] = values


def _keep_top_p(weights: Floats, top_p: float) -> None:
    """Keep the fewest most likely tokens whose share reaches `top_p`."""
    total = weights.sum(dtype=np.float64)
    # Tokens below this bound sum to less than 1 - top_p even if all of them were: the rest holds the nucleus.
    candidates = np.flatnonzero(weights >= (1 - top_p) * total / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    n_kept = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), top_p * total)) + 1
    _keep_only(weights, order[:n_kept])


def _inverse_cdf(weights: Floats, u: float) -> int:
    sums = np.cumsum(_block_sums(weights), dtype=np.float64)
    target = u * sums[-1]
    block = min(int(np.searchsorted(sums, target, side="right")), len(sums) - 1)
    start = block * _BLOCK
    within = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    offset = int(np.searchsorted(within, target - (sums[block - 1] if block else 0.0), side="right"))
    if offset >= len(within) or weights[start + offset] == 0:  # rounding at a block's end
        return int(start + np.flatnonzero(weights[start : start + _BLOCK])[-1])
    return start + offset


def _block_sums(row: Floats) -> Floats:
    """Sums of consecutive blocks of the row, the last one possibly shorter."""
    whole = len(row) // _BLOCK * _BLOCK
    # numpy's own sum over a short last axis takes four times as long.
    sums: Floats = np.einsum("ij->i", row[:whole].reshape(-1, _BLOCK))
    if whole == len(row):
        return sums
    return np.append(sums, row[whole:].sum(dtype=np.float32))
