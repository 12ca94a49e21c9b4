"""The K best tokens and their entropy, taken where vLLM's logits are."""

from __future__ import annotations

import torch

from eager.types import ENTROPY_TOP_K

_BLOCK = 64


class Scratch:
    """Room for a tensor of the logits' size, kept from step to step; docs/engines.md has what that saves."""

    def __init__(self) -> None:
        self._room = torch.empty(0)

    def like(self, logits: torch.Tensor) -> torch.Tensor:
        """float32, of the shape and on the device of `logits`, holding anything; until it is asked for again."""
        if self._room.device != logits.device or self._room.numel() < logits.numel():
            self._room = torch.empty(logits.numel(), dtype=torch.float32, device=logits.device)
        return self._room[: logits.numel()].view(logits.shape)


def best_with_logprobs(logits: torch.Tensor, scratch: Scratch | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probabilities of the K best of `logits`, raw and of shape (n, vocabulary).

    Ids (int64) and log-probabilities (float32) of the whole vocabulary's softmax, to the last bit vLLM's raw ones:
    shape (n, K), in any order. Stays on the logits' device and never waits for it.
    """
    ids = best_ids(logits)
    if scratch is None or logits.dtype != torch.float32:
        return ids, logits.log_softmax(dim=-1, dtype=torch.float32).gather(-1, ids)
    return ids, torch.log_softmax(logits, dim=-1, out=scratch.like(logits)).gather(-1, ids)


def best_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The K largest logits (float32) and their ids, each of shape (n, K); of equal ones the smaller id is first."""
    # Logits in 16 bits are often equal, and topk leaves open which of them comes first.
    ids = best_ids(logits).sort(dim=-1).values
    values, order = logits.gather(-1, ids).float().sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(-1, order)


def best_ids(logits: torch.Tensor) -> torch.Tensor:
    """The ids (int64, shape (n, K)) of the K largest logits, in any order.

    They lie in the K blocks with the largest maxima. On a CPU one pass for those and a search among few candidates
    take less than half the time of a search among all.
    """
    n_vocab = logits.shape[-1]
    n_whole = n_vocab // _BLOCK * _BLOCK
    if n_whole <= ENTROPY_TOP_K * _BLOCK:
        return logits.topk(min(ENTROPY_TOP_K, n_vocab), dim=-1, sorted=False).indices
    blocks = logits[:, :n_whole].unflatten(-1, (-1, _BLOCK)).amax(dim=-1).topk(ENTROPY_TOP_K, dim=-1).indices
    candidates = (blocks.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    rest = torch.arange(n_whole, n_vocab, device=logits.device).expand(len(logits), -1)
    candidates = torch.cat([candidates, rest], dim=-1)
    best = logits.gather(-1, candidates).topk(ENTROPY_TOP_K, dim=-1, sorted=False).indices
    return candidates.gather(-1, best)


def entropy_of(values: torch.Tensor) -> torch.Tensor:
    """Entropies in nats (float32, shape (n,)) of logits, renormalised; shape (n, K). As `entropy.top_k_entropy`."""
    shifted = values.double() - values.double().amax(dim=-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(dim=-1)
    # A weight of 0 has a logit of -inf and contributes nothing.
    mean = (weights * shifted.masked_fill(weights == 0, 0.0)).sum(dim=-1) / total
    return (total.log() - mean).clamp_(min=0.0).float()
