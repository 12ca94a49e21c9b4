"""What is taken of a monitored request's raw logits: entropy and K best of every token, tied to its position.

Where vLLM's model runs in this process, the logits processor that draws a token (`_vllm_draw`) puts them into the
request's own `Watch`, and nothing is asked of vLLM. Elsewhere they are read off the log-probabilities that vLLM
returns. A row that is taken twice, for a prefill in several steps or after a preemption, replaces the earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eager.engines._vllm_top import best_ids
from eager.entropy import top_k_entropy
from eager.types import ENTROPY_TOP_K

Row = tuple[float, list[int], list[float]]
"""Entropy, best ids and their log-probabilities, as in a `Token`."""


class Watch:
    """What is seen of one request's logits, from where that is to where its tokens are delivered; positions from 0.

    `rows` while it `is_on`. `fault`, on or off: the position at which the logits were no distribution.
    """

    __slots__ = ("fault", "is_on", "rows")

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self.rows: dict[int, Row] = {}
        self.fault: int | None = None


def rows_of(logits: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """`logits[indices]`, not copied where that is all of them in order."""
    return logits if indices == list(range(len(logits))) else logits[indices]


def watch_logits(logits: torch.Tensor, watched: Seq[tuple[int, Watch, int]]) -> None:
    """Take the rows of `logits`, raw and of shape (n, vocabulary), that `watched` names: (row, watch, position)."""
    indices = [index for index, _, _ in watched]
    chosen = rows_of(logits, indices)
    ids = best_ids(chosen)
    logprobs = chosen.log_softmax(dim=-1, dtype=torch.float32).gather(-1, ids)
    places = ((watch, position) for _, watch, position in watched)
    _fill(places, ids.cpu().numpy(), logprobs.cpu().numpy())


def watch_logprobs(outputs: Iterable[tuple[Watch, int, Any]]) -> None:
    """Take what vLLM returned for requests that asked: (watch, position of the first token, vLLM's FlatLogprobs)."""
    places: list[tuple[Watch, int]] = []
    ids: list[Seq[int]] = []
    logprobs: list[Seq[float]] = []
    for watch, first, flat in outputs:
        for position, (start, end) in enumerate(zip(flat.start_indices, flat.end_indices, strict=True), first):
            # For each token the sampled one first and then the K best in order.
            best = slice(start + 1, min(end, start + 1 + ENTROPY_TOP_K))
            places.append((watch, position))
            ids.append(flat.token_ids[best])
            logprobs.append(flat.logprobs[best])
    if places:
        _fill(places, np.array(ids), np.array(logprobs))


def _fill(
    places: Iterable[tuple[Watch, int]], ids: npt.NDArray[np.int64], logprobs: npt.NDArray[np.floating[Any]]
) -> None:
    """Give every place its row of `ids` and `logprobs`, both of shape (places, K), in any order."""
    # Logits in 16 bits are often equal, and nobody says which of them comes first: the smaller id does.
    order = np.lexsort((ids, -logprobs))
    rows = zip(
        top_k_entropy(logprobs).tolist(),
        np.take_along_axis(ids, order, axis=1).tolist(),
        np.take_along_axis(logprobs, order, axis=1).tolist(),
        strict=True,
    )
    for (watch, position), row in zip(places, rows, strict=True):
        watch.rows[position] = row
