"""What came over the wire as the tokens of the house: the K best in order, the entropy; all of a step at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Seq

import numpy as np

from eager.engines._openai_wire import Raw
from eager.entropy import top_k_entropy
from eager.types import ENTROPY_TOP_K, Token


def tokens_of(sequences: Seq[Seq[Raw]]) -> list[list[Token]]:
    """The tokens of each of these sequences; of equally likely ids the smaller is first."""
    watched = [_row(raw.best_ids, raw.best_logprobs) for raws in sequences for raw in raws if raw.best_ids is not None]
    rows = iter(_with_entropies(watched))
    return [[_token(raw, rows) for raw in raws] for raws in sequences]


def _token(raw: Raw, rows: Iterator[tuple[float, list[int], list[float]]]) -> Token:
    if raw.best_ids is None:
        return Token(raw.id)
    own = raw.best_logprobs[raw.best_ids.index(raw.id)] if raw.best_logprobs and raw.id in raw.best_ids else None
    return Token(raw.id, *next(rows), own)


def _row(ids: list[int], logprobs: list[float] | None) -> tuple[list[int], list[float]]:
    """The K best of one token. There are more where the sampled one is not among them."""
    values = logprobs or []
    if len(ids) <= ENTROPY_TOP_K:
        return ids, values
    best = sorted(zip(values, ids, strict=True), key=lambda pair: (-pair[0], pair[1]))[:ENTROPY_TOP_K]
    return [token_id for _, token_id in best], [value for value, _ in best]


def _with_entropies(rows: Seq[tuple[list[int], list[float]]]) -> list[tuple[float, list[int], list[float]]]:
    """(entropy, ids, log-probabilities) of each, most likely first. All rows are as long, K or the vocabulary."""
    if not rows:
        return []
    ids = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1] for row in rows], dtype=np.float64)
    order = np.lexsort((ids, -values), axis=-1)
    ids, values = np.take_along_axis(ids, order, axis=-1), np.take_along_axis(values, order, axis=-1)
    return list(zip(top_k_entropy(values).tolist(), ids.tolist(), values.tolist(), strict=True))
