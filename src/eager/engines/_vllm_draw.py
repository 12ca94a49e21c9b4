"""Draws inside vLLM's V1 model runner that depend on (seed, position) alone.

vLLM's V1 runner gives a seeded request a generator whose state advances with every draw: what it draws then depends
on where the request began, and on a CPU it cannot be rewound when a prefill takes several steps (`CPU Generator does
not use offset`). Here the token is drawn by a logits processor instead: it finds the token from the counter-based
`uniform` of the request's seed and position and lifts it above all others, and vLLM's greedy choice takes it. A draw
made for an unfinished prefill is thrown away by vLLM and made again, the same, when the prefill is complete.

The same processor takes the entropies of monitored rows (`_vllm_watch`) from the raw logits, before it draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from eager.engines._draw import NO_DISTRIBUTION, NoDistributionError, draw
from eager.engines._vllm_api import (
    BatchUpdate,
    LogitsProcessor,
    SamplingParams as VLLMSamplingParams,
    VllmConfig,
    process_dict_updates,
)
from eager.engines._vllm_top import Scratch
from eager.engines._vllm_watch import Watch, rows_of, watch_logits
from eager.randomness import uniform
from eager.types import SamplingParams

# Where a request's `extra_args` hold what `draw_args` made.
DRAW_KEY = "eager_draw"
WATCH_KEY = "eager_watch"

_BLOCK = 64
_NO_TOKEN = -1
_SEED_MASK = (1 << 64) - 1  # as `uniform` does; more does not change process


def draw_args(seed: int, sampling: SamplingParams, watch: Watch | None = None) -> dict[str, Any]:
    """The `extra_args` of a request that `CounterDraw` draws for; plain values, since they may change process.

    All but `watch`, which is for a processor in this process alone: what it sees of the logits goes there.
    """
    args: dict[str, Any] = {
        DRAW_KEY: [seed & _SEED_MASK, sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p]
    }
    return args if watch is None else {**args, WATCH_KEY: watch}


class Row(NamedTuple):
    """One request in the batch. `output_ids` is vLLM's own list, which grows."""

    seed: int
    sampling: SamplingParams
    prompt_length: int
    output_ids: list[int]
    watch: Watch | None = None

    @property
    def u(self) -> float:
        return uniform(self.seed, self.prompt_length + len(self.output_ids))


class CounterDraw(LogitsProcessor):  # type: ignore[misc] # vLLM is not followed by the type checker
    """Leaves each of its rows with one token that is infinitely likely: the one drawn."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, Row] = {}
        self._scratch = Scratch()

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, _new_row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        rows = sorted(self._rows.items())  # in the order of the batch, so that a full one need not be copied
        watched = [(i, row.watch, len(row.output_ids)) for i, row in rows if row.watch and row.watch.is_on]
        note = watch_logits(logits, watched, self._scratch) if watched else None
        drawn: dict[int, float] = {}
        draw_rows(logits, dict(rows), self._scratch, drawn if watched else None)
        if note is not None:
            note([drawn[i] for i, _, _ in watched])
        return logits


def draw_rows(
    logits: torch.Tensor, rows: Mapping[int, Row], scratch: Scratch, drawn: dict[int, float] | None = None
) -> None:
    """Draw a token for each of these rows of `logits`, and make it infinitely likely; what it was goes into `drawn`."""
    plain = [i for i, row in rows.items() if row.sampling.top_p == 1 and row.sampling.top_k == 0]
    if plain:
        tokens = _draw_plain(logits, plain, [rows[i] for i in plain], scratch)
        places = torch.tensor(plain, device=logits.device), tokens
        if drawn is not None:
            drawn.update(zip(plain, logits[places].tolist(), strict=True))
        logits[places] = math.inf
        _note(rows[i] for i, token in zip(plain, tokens.tolist(), strict=True) if token == _NO_TOKEN)
    for i in rows.keys() - plain:
        logit = _draw_truncated(logits[i], rows[i])
        if drawn is not None:
            drawn[i] = logit


def _draw_truncated(logits: torch.Tensor, row: Row) -> float:
    """Returns what the logit of the token was; nan where none could be drawn."""
    try:
        token = draw(logits.cpu().numpy(), row.sampling, row.u)
    except NoDistributionError:
        _note([row])
        return math.nan
    logit = float(logits[token])
    logits[token] = math.inf
    return logit


def _note(rows: Iterable[Row]) -> None:
    """Tell the engine which rows have no distribution: what vLLM takes for their tokens is none.

    In another process nobody could be told, so there it ends vLLM.
    """
    for row in rows:
        if row.watch is None:
            raise RuntimeError(NO_DISTRIBUTION)
        if row.watch.fault is None:
            row.watch.fault = len(row.output_ids)


def _new_row(params: VLLMSamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> Row | None:
    args: Mapping[str, Any] = params.extra_args or {}
    if DRAW_KEY not in args:
        return None
    seed, temperature, top_p, top_k, min_p = args[DRAW_KEY]
    return Row(
        seed, SamplingParams(temperature, top_p, top_k, min_p), len(prompt_ids or ()), output_ids, args.get(WATCH_KEY)
    )


def _draw_plain(logits: torch.Tensor, indices: list[int], rows: list[Row], scratch: Scratch) -> torch.Tensor:
    """Inverse-CDF draws of all `rows` at once, with temperature and min_p. Returns token ids, shape (rows,).

    _NO_TOKEN where a row's largest logit is not finite: then none of its weights is a number, nor is their sum.

    Cumulative sums of blocks find the block, those of one block the token: a full cumulative sum is many times slower.
    """
    weights = _weights(rows_of(logits, indices), rows, scratch)
    missing = -weights.shape[1] % _BLOCK
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    blocks = weights.view(len(rows), -1, _BLOCK)
    ends = blocks.sum(dim=-1).double().cumsum(dim=-1)
    u = torch.tensor([row.u for row in rows], dtype=torch.float64, device=logits.device).unsqueeze(1)
    block, rest = _locate(ends, u * ends[:, -1:])
    every = torch.arange(len(rows), device=logits.device)
    within = blocks[every, block].double()
    offset, _ = _locate(within.cumsum(dim=-1), rest)
    # Rounding at a block's end may hit a token of weight 0: then the most likely one of the block stands in.
    offset = torch.where(within[every, offset] > 0, offset, within.argmax(dim=-1))
    return torch.where(ends[:, -1].isfinite(), block * _BLOCK + offset, _NO_TOKEN)


def _weights(logits: torch.Tensor, rows: list[Row], scratch: Scratch) -> torch.Tensor:
    """Unnormalised probabilities; the most likely token of each row weighs 1."""
    inverse = torch.tensor([[1 / row.sampling.temperature] for row in rows], device=logits.device)
    weights = torch.sub(logits, logits.amax(dim=-1, keepdim=True), out=scratch.like(logits)).mul_(inverse).exp_()
    if any(row.sampling.min_p > 0 for row in rows):
        floor = torch.tensor([[row.sampling.min_p] for row in rows], device=logits.device)
        weights.masked_fill_(weights < floor, 0.0)
    return weights


def _locate(ends: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each row's target falls among its cumulative sums, and what of it is left there, shape (rows, 1)."""
    index = torch.searchsorted(ends, targets, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(index > 0, ends.gather(1, (index - 1).clamp_(min=0)), 0.0)
    return index.squeeze(1), targets - before
