"""What is taken of a monitored request's raw logits: entropy and K best of every token, tied to its position.

Where vLLM's model runs in this process, a logits processor (`_vllm_draw`, or `_vllm_watch_v2` on a GPU) puts them into
the request's own `Watch`, and nothing is asked of vLLM. Elsewhere they are read off the log-probabilities that vLLM
returns. A row that is taken twice, for a prefill in several steps or after a preemption, replaces the earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence as Seq
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eager.engines._vllm_top import Scratch, best_with_logprobs
from eager.entropy import top_k_entropy
from eager.types import ENTROPY_TOP_K

Row = tuple[float, list[int], list[float], float | None]
"""Entropy, best ids, their log-probabilities and the drawn token's own, as in a `Token`."""


class Rows:
    """The K best of the tokens of one step, made into rows when the first is wanted.

    `ids`, `logprobs`: shape (n, K), each row in any order, on the host or on their way there; `arrived` waits for them.
    """

    def __init__(self, ids: Any, logprobs: Any, arrived: Callable[[], None] | None = None) -> None:
        self._ids, self._logprobs, self._arrived = ids, logprobs, arrived
        self._made: list[tuple[float, list[int], list[float]]] = []
        self.drawn: Seq[float] = ()
        """The log-probabilities of the tokens that were drawn, where somebody knows them."""

    def __getitem__(self, index: int) -> Row:
        if not self._made:
            if self._arrived is not None:
                self._arrived()
            self._made = _made(np.asarray(self._ids), np.asarray(self._logprobs))
        return *self._made[index], self.drawn[index] if self.drawn else None


def _made(
    ids: npt.NDArray[np.int64], logprobs: npt.NDArray[np.floating[Any]]
) -> list[tuple[float, list[int], list[float]]]:
    # Logits in 16 bits are often equal, and nobody says which of them comes first: the smaller id does.
    order = np.lexsort((ids, -logprobs))
    return list(
        zip(
            top_k_entropy(logprobs).tolist(),
            np.take_along_axis(ids, order, axis=1).tolist(),
            np.take_along_axis(logprobs, order, axis=1).tolist(),
            strict=True,
        )
    )


class Watch:
    """What is seen of one request's logits, from where that is to where its tokens are delivered; positions from 0.

    Rows are put in and taken out while it `is_on`. `fault`, on or off: the position at which the logits were no
    distribution.
    """

    __slots__ = ("_rows", "fault", "is_on")

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self.fault: int | None = None
        self._rows: dict[int, tuple[Rows, int]] = {}

    def put(self, position: int, rows: Rows, index: int) -> None:
        """In place of what was there: a token that is drawn again counts once."""
        self._rows[position] = rows, index

    def take(self, position: int) -> Row:
        """Raises KeyError where nobody saw those logits."""
        rows, index = self._rows.pop(position)
        return rows[index]


Note = Callable[[Seq[float]], None]
"""Takes the raw logits of the tokens that were then drawn, one a row."""


def watch_logits(logits: torch.Tensor, watched: Seq[tuple[int, Watch, int]], scratch: Scratch | None = None) -> Note:
    """Take the rows of `logits`, on the host, raw, (n, vocabulary), that `watched` names: (row, watch, position).

    Whoever draws from them notes what was drawn.
    """
    seen = rows_of(logits, [index for index, _, _ in watched])
    ids, logprobs = best_with_logprobs(seen, scratch)
    log_totals = (seen.gather(-1, ids[:, :1]).double() - logprobs[:, :1].double()).flatten().tolist()
    rows = Rows(ids.cpu(), logprobs.cpu())
    for i, (_, watch, position) in enumerate(watched):
        watch.put(position, rows, i)

    def note(drawn: Seq[float]) -> None:
        rows.drawn = [logit - log_total for logit, log_total in zip(drawn, log_totals, strict=True)]

    return note


def watch_logprobs(outputs: Iterable[tuple[Watch, int, Any]]) -> None:
    """Take what vLLM returned for requests that asked: (watch, position of the first token, vLLM's FlatLogprobs)."""
    ids: list[Seq[int]] = []
    logprobs: list[Seq[float]] = []
    rows = Rows(ids, logprobs)
    rows.drawn = drawn = list[float]()
    for watch, first, flat in outputs:
        for position, (start, end) in enumerate(zip(flat.start_indices, flat.end_indices, strict=True), first):
            # For each token the sampled one first and then the K best in order.
            best = slice(start + 1, min(end, start + 1 + ENTROPY_TOP_K))
            watch.put(position, rows, len(ids))
            ids.append(flat.token_ids[best])
            logprobs.append(flat.logprobs[best])
            drawn.append(flat.logprobs[start])


def rows_of(logits: torch.Tensor, indices: list[int]) -> torch.Tensor:
    """`logits[indices]`, not copied where that is all of them in order."""
    return logits if indices == list(range(len(logits))) else logits[indices]
