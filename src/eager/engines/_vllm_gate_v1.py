"""The gate for vLLM's V1 model runner, which tells a logits processor what moves in its batch.

The gate decides on the host: on a CPU that costs nothing, on a GPU it waits for the device once a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from eager.engines._gate_rule import RANKS, Rule, read_rule
from eager.engines._gate_trees import Trees
from eager.engines._vllm_api import BatchUpdate, SamplingParams as VLLMSamplingParams, VllmConfig, process_dict_updates
from eager.engines._vllm_draw import DRAW_KEY, CounterDraw
from eager.engines._vllm_top import best_of, entropy_of


class _Ask(NamedTuple):
    """A token about to be drawn for a request of a tree. `rank`: it is the best (0) or second best (1), not drawn."""

    row: int
    rule: Rule
    position: int
    is_monitored: bool
    may_pause: bool
    rank: int | None

    @property
    def turn(self) -> tuple[str, int, int]:
        """The order in which a tree's tokens are examined."""
        return self.rule.tree, self.position, self.rule.sequence


@dataclass(slots=True, eq=False)
class _Request:
    """A request of a tree in the batch. `generated`: what was before it; `output_ids`: vLLM's own list, which grows."""

    rule: Rule
    max_tokens: int
    stop_ids: frozenset[int]
    generated: list[int]
    output_ids: list[int]
    has_left_thinking: bool

    def ask(self, row: int) -> _Ask | None:
        """None where it has ended and vLLM's scheduler, a step ahead, does not know yet."""
        outputs = self.output_ids
        if outputs and outputs[-1] in self.stop_ids:
            return None
        marker = self.rule.thinking_end
        if marker and outputs and outputs[-1] == marker[-1] and not self.has_left_thinking:
            tail = [*self.generated, *outputs] if len(outputs) < len(marker) else outputs
            self.has_left_thinking = tuple(tail[-len(marker) :]) == marker
        first = None if outputs else self.rule.first
        is_last_allowed = len(outputs) + 1 >= self.max_tokens
        return _Ask(
            row,
            self.rule,
            len(self.generated) + len(outputs),
            is_monitored=not self.has_left_thinking,
            may_pause=first is None and not self.has_left_thinking and not is_last_allowed,
            rank=RANKS.get(first or ""),
        )


class GateV1(CounterDraw):
    """Leaves a request of a tree with the reserved token where it branches; draws as `CounterDraw` for who asks it."""

    runner: ClassVar[int] = 1

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._requests: dict[int, _Request] = {}
        self._trees = Trees()

    def __len__(self) -> int:
        return len(self._trees)

    def take(self, tree: str) -> dict[str, Any] | None:
        return self._trees.take(tree)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        super().update_state(batch_update)
        if process_dict_updates(self._requests, batch_update, _new_request):
            self._trees.forget_quiet(request.rule.tree for request in self._requests.values())

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._requests:
            asks = [ask for row, request in self._requests.items() if (ask := request.ask(row))]
            self._gate(logits, sorted(asks, key=lambda ask: ask.turn))
        return super().apply(logits)

    def _gate(self, logits: torch.Tensor, asks: Seq[_Ask]) -> None:
        for ask in asks:
            # The reserved token means a branch and nothing else, so that nobody draws it.
            logits[ask.row, ask.rule.pause_id] = -math.inf
            self._trees.of(ask.rule).arrive(ask.rule.sequence, ask.position, ask.may_pause)
        watched = [ask for ask in asks if ask.rank is not None or (ask.is_monitored and self._is_open(ask))]
        if watched:
            values, ids = best_of(logits[[ask.row for ask in watched]])
            self._decide(logits, watched, entropy_of(values).tolist(), ids[:, :2].tolist())

    def _is_open(self, ask: _Ask) -> bool:
        return self._trees.of(ask.rule).limit(ask.position) < math.inf

    def _decide(self, logits: torch.Tensor, asks: Seq[_Ask], entropies: Seq[float], best: Seq[Seq[int]]) -> None:
        for ask, entropy in zip(asks, entropies, strict=True):
            self._trees.of(ask.rule).note(ask.rule.sequence, ask.position, entropy)
        for ask, entropy, ids in zip(asks, entropies, best, strict=True):
            tree = self._trees.of(ask.rule)
            if ask.rank is not None:
                _leave_only(logits, ask.row, ids[ask.rank])
            elif ask.may_pause and entropy > (limit := tree.limit(ask.position)):
                tree.pause(ask.rule.sequence, ask.position, entropy, limit)
                _leave_only(logits, ask.row, ask.rule.pause_id)


def _leave_only(logits: torch.Tensor, row: int, token_id: int) -> None:
    logits[row] = -math.inf
    logits[row, token_id] = 0.0


def _new_request(params: VLLMSamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> _Request | None:
    rule = read_rule({name: value for name, value in (params.extra_args or {}).items() if name != DRAW_KEY})
    if rule is None:
        return None
    generated = (prompt_ids or [])[rule.prompt_length :]
    has_left = _contains([*generated, *output_ids], rule.thinking_end)
    return _Request(rule, params.max_tokens, frozenset(params.all_stop_token_ids), generated, output_ids, has_left)


def _contains(tokens: Seq[int], marker: Seq[int]) -> bool:
    """Whether `marker` is a run of `tokens`; an empty one never is."""
    size = len(marker)
    return size > 0 and any(tuple(tokens[i : i + size]) == tuple(marker) for i in range(len(tokens) - size + 1))
