"""Top-K token entropy: how uncertain the model is about its next token (paper, section 3.1)."""

from __future__ import annotations

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
