"""Watching requests in vLLM's V2 model runner, the one on GPUs, where it runs in this process. Not run on a GPU yet.

It draws by itself, from a hash of (seed, position), so nothing but the logits is looked at. The K best are found on the
device and copied without waiting; whoever takes the first row of a step waits for its copy, and by then vLLM has waited
for that step's tokens, which were drawn after it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from eager.engines._vllm_api import (
    LogitsContext,
    LogitsProcRequestState,
    SamplingParams as VLLMSamplingParams,
    V2LogitsProcessor,
    VllmConfig,
    async_tensor_h2d,
)
from eager.engines._vllm_draw import WATCH_KEY
from eager.engines._vllm_top import best_with_logprobs
from eager.engines._vllm_watch import Rows, Watch


class _Place(NamedTuple):
    """A watched row of a step's logits, and the position of the token that is drawn from it."""

    row: int
    watch: Watch
    position: int


class LogitsWatch(V2LogitsProcessor):  # type: ignore[misc] # vLLM is not followed by the type checker
    """Leaves all logits as they are. Without speculative decoding each request has one row of them."""

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        self._states = req_states
        self._watches: dict[int, Watch] = {}  # by vLLM's slots, which are used again

    def add_request(self, req_idx: int, sampling_params: VLLMSamplingParams) -> bool:
        self._watches.pop(req_idx, None)
        watch: Watch | None = (sampling_params.extra_args or {}).get(WATCH_KEY)
        if watch is None:
            return False
        self._watches[req_idx] = watch
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        places = self._places(ctx)
        if places:
            index = async_tensor_h2d([place.row for place in places], device=logits.device, dtype=torch.int64)
            rows = _on_their_way(*best_with_logprobs(logits[index]))
            for i, place in enumerate(places):
                place.watch.put(place.position, rows, i)
        return logits

    def _places(self, ctx: LogitsContext) -> list[_Place]:
        lengths, slots = ctx.seq_lens_upper_bound_np.tolist(), ctx.idx_mapping_np.tolist()
        prompts, prefilled = self._states.prompt_len.np, self._states.prefill_len.np
        return [
            _Place(row, watch, lengths[row] - int(prompts[slot]))
            for row, slot in enumerate(slots)
            # The row of an unfinished prefill draws a token that is thrown away.
            if (watch := self._watches.get(slot)) and watch.is_on and lengths[row] >= prefilled[slot]
        ]


def _on_their_way(ids: torch.Tensor, logprobs: torch.Tensor) -> Rows:
    here = ids.to("cpu", non_blocking=True), logprobs.to("cpu", non_blocking=True)
    if ids.device.type == "cpu":
        return Rows(*here)
    event = torch.Event(device=ids.device)
    event.record()
    return Rows(*here, event.synchronize)
