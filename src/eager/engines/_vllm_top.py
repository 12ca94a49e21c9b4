"""The K best tokens and their entropy, taken where vLLM's logits are."""

from __future__ import annotations

import torch

from eager.types import ENTROPY_TOP_K


def top_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropies, best ids and best log-probabilities of `logits`, raw and of shape (n, vocabulary).

    Entropies in nats of the K best, renormalised: float32, shape (n,). Ids (int64) and log-probabilities (float32) of
    the whole vocabulary's softmax: shape (n, K), most likely first; of equally likely tokens the smaller id. Stays on
    the logits' device and never waits for it.
    """
    values, ids = best_of(logits)
    return entropy_of(values), ids, values - logits.float().logsumexp(dim=-1, keepdim=True)


def best_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The K largest logits (float32) and their ids, each of shape (n, K), ordered as in `top_of`."""
    # Logits in 16 bits are often equal, and topk leaves open which of them comes first.
    ids = logits.topk(min(ENTROPY_TOP_K, logits.shape[-1]), dim=-1, sorted=False).indices.sort(dim=-1).values
    values, order = logits.gather(-1, ids).float().sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def entropy_of(values: torch.Tensor) -> torch.Tensor:
    """Entropies in nats (float32, shape (n,)) of logits, renormalised; shape (n, K). As `entropy.top_k_entropy`."""
    shifted = values.double() - values.double().amax(dim=-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(dim=-1)
    # A weight of 0 has a logit of -inf and contributes nothing.
    mean = (weights * shifted.masked_fill(weights == 0, 0.0)).sum(dim=-1) / total
    return (total.log() - mean).clamp_(min=0.0).float()
