"""The gate for vLLM's V2 model runner, the one on GPUs: it decides on the device and never waits for it.

The host says which rows belong to a tree and which limit is in force; the device takes entropies, counts the tree's
branches, sees where thinking ended, and leaves the reserved token. What came of it is copied back without waiting and
read once it has arrived, a step or two later: the moving threshold and `max_tokens_without_branch` are that late.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from eager.engines._gate_rule import RANKS, Rule, read_rule
from eager.engines._gate_trees import MAX_TREES, Trees
from eager.engines._vllm_api import (
    LogitsContext,
    LogitsProcRequestState,
    SamplingParams as VLLMSamplingParams,
    V2LogitsProcessor,
    VllmConfig,
    async_tensor_h2d,
)
from eager.engines._vllm_draw import DRAW_KEY, Row as DrawRow, draw_rows
from eager.engines._vllm_top import Scratch, best_of, entropy_of
from eager.types import SamplingParams


@dataclass(slots=True, eq=False)
class _Request:
    """A request in one of vLLM's slots; the slot keeps it when it has ended, until another comes.

    `n_scanned`: so many of its tokens have been searched for the end of thinking.
    """

    rule: Rule | None
    draw_args: Seq[Any] | None
    max_tokens: int
    stop_ids: list[int]
    n_scanned: int = -1

    def drawn_at(self, n_before: int) -> DrawRow | None:
        if self.draw_args is None:
            return None
        seed, *sampling = self.draw_args
        return DrawRow(seed, SamplingParams(*sampling), n_before, [])


class _Row(NamedTuple):
    """A token about to be drawn: `at` is its row of logits.

    `n_before` tokens stand before it, of which those from `start` on were generated. `rank`: it is the best (0) or
    second best (1), or drawn (-1).
    """

    at: int
    slot: int
    request: _Request
    rule: Rule
    start: int
    n_before: int
    is_first: bool
    may_pause: bool
    rank: int

    @property
    def position(self) -> int:
        return self.n_before - self.start


class _Late(NamedTuple):
    """What the device found, on its way to the host. Entropies are NaN where none was to be taken."""

    rows: Seq[_Row]
    limits: Seq[float]
    entropies: torch.Tensor
    is_paused: torch.Tensor
    event: Any

    @property
    def is_here(self) -> bool:
        return self.event is None or bool(self.event.query())


class GateV2(V2LogitsProcessor):  # type: ignore[misc] # vLLM is not followed by the type checker
    """As `GateV1`, where each request has one row of logits and this worker sees the rows of all."""

    runner: ClassVar[int] = 2

    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("the gate does not work with speculative decoding: start the server without it")
        if vllm_config.parallel_config.enable_batch_sharded_sampling:
            raise ValueError("the gate must see whole trees: start the server without batch-sharded sampling")
        self._states = req_states
        self._device = req_states.device
        self._requests: dict[int, _Request] = {}
        self._scratch = Scratch()
        self._trees = Trees()
        self._late: deque[_Late] = deque()
        n_trees = MAX_TREES + req_states.max_num_reqs + 1
        self._numbers: dict[str, int] = {}  # of the trees, in `_places`
        self._free_numbers = list(range(n_trees))
        self._places = torch.zeros(n_trees, dtype=torch.int64, device=self._device)
        self._has_left = torch.zeros(req_states.max_num_reqs, dtype=torch.bool, device=self._device)

    def __len__(self) -> int:
        return len(self._trees)

    def take(self, tree: str) -> dict[str, Any] | None:
        self._collect(wait=True)
        self._release(tree)
        return self._trees.take(tree)

    def add_request(self, req_idx: int, sampling_params: VLLMSamplingParams) -> bool:
        self._requests.pop(req_idx, None)
        args = dict(sampling_params.extra_args or {})
        draw_args = args.pop(DRAW_KEY, None)
        rule = read_rule(args)
        if rule is None and draw_args is None:
            return False
        stop_ids = sorted(sampling_params.all_stop_token_ids)
        self._requests[req_idx] = _Request(rule, draw_args, sampling_params.max_tokens, stop_ids)
        for name in self._trees.forget_quiet(kept.rule.tree for kept in self._requests.values() if kept.rule):
            self._release(name)
        return True

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        lengths, prefilled = ctx.seq_lens_upper_bound_np.tolist(), self._states.prefill_len.np
        # The row of an unfinished prefill draws a token that is thrown away.
        here = {
            index: (slot, lengths[index])
            for index, slot in enumerate(ctx.idx_mapping_np.tolist())
            if slot in self._requests and lengths[index] >= prefilled[slot]
        }
        if here:
            rules = {index: self._requests[slot].rule for index, (slot, _) in here.items()}
            self._gate(logits, ctx, [self._row(index, *here[index], rule) for index, rule in rules.items() if rule])
            drawn = {index: self._requests[slot].drawn_at(n_before) for index, (slot, n_before) in here.items()}
            draw_rows(logits, {index: row for index, row in drawn.items() if row is not None}, self._scratch)
        return logits

    # -- on the host --------------------------------------------------------------------------------------------

    def _row(self, index: int, slot: int, n_before: int, rule: Rule) -> _Row:
        request, prompt_length = self._requests[slot], int(self._states.prompt_len.np[slot])
        is_first = n_before == prompt_length
        is_last_allowed = n_before + 1 >= prompt_length + request.max_tokens
        first = rule.first if is_first else None
        may_pause = first is None and not is_last_allowed
        start = min(rule.prompt_length, prompt_length)
        return _Row(index, slot, request, rule, start, n_before, is_first, may_pause, RANKS.get(first or "", -1))

    def _gate(self, logits: torch.Tensor, ctx: LogitsContext, rows: list[_Row]) -> None:
        if not rows:
            return
        self._collect(wait=False)
        rows.sort(key=lambda row: (row.rule.tree, row.position, row.rule.sequence))
        for row in rows:
            self._trees.of(row.rule).arrive(row.rule.sequence, row.position, row.may_pause)
        reserved = self._put([[row.at, row.rule.pause_id] for row in rows])
        # The reserved token means a branch and nothing else, so that nobody draws it.
        logits[reserved[:, 0], reserved[:, 1]] = -math.inf
        limits = [self._trees.of(row.rule).limit(row.position) for row in rows]
        watched = [i for i, row in enumerate(rows) if row.rank >= 0 or limits[i] < math.inf]
        if watched:
            self._decide(logits, ctx, [rows[i] for i in watched], [limits[i] for i in watched])

    def _collect(self, wait: bool) -> None:
        """Take what has come back from the device since the last call."""
        while self._late and (wait or self._late[0].is_here):
            late = self._late.popleft()
            if late.event is not None:
                late.event.synchronize()
            found = zip(late.rows, late.limits, late.entropies.tolist(), late.is_paused.tolist(), strict=True)
            for row, limit, entropy, is_paused in found:
                tree = self._trees.find(row.rule.tree)
                if tree is None or math.isnan(entropy):
                    continue
                tree.note(row.rule.sequence, row.position, entropy)
                if is_paused:
                    tree.pause(row.rule.sequence, row.position, entropy, limit)

    def _number(self, rule: Rule) -> int:
        if rule.tree not in self._numbers:
            self._numbers[rule.tree] = number = self._free_numbers.pop()
            self._places[number] = rule.max_branches
        return self._numbers[rule.tree]

    def _release(self, tree: str) -> None:
        if tree in self._numbers:
            self._free_numbers.append(self._numbers.pop(tree))

    # -- on the device, which nothing here waits for ------------------------------------------------------------

    def _put(self, values: Any, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return async_tensor_h2d(values, device=self._device, dtype=dtype)

    def _decide(self, logits: torch.Tensor, ctx: LogitsContext, rows: list[_Row], limits: list[float]) -> None:
        heads: dict[int, int] = {}  # the first of each tree's rows
        facts = []
        for i, row in enumerate(rows):
            of_tree = self._number(row.rule)
            facts.append((row.at, row.slot, row.rule.pause_id, of_tree, heads.setdefault(of_tree, i), row.rank))
        index, slot, pause_id, number, head, rank = self._put(facts).unbind(dim=1)
        bars = [limit if row.may_pause else math.inf for row, limit in zip(rows, limits, strict=True)]
        values, ids = best_of(logits[index])
        entropies = entropy_of(values)
        self._follow_thinking(rows)
        is_live = ~self._has_left[slot] & ~self._has_ended(ctx, rows, index)
        wants = is_live & (entropies.double() > self._put(bars, torch.float64))
        # Of a tree's sequences that would branch in this step, so many do as it has places left, in their order.
        n_earlier = wants.cumsum(0) - wants.long()
        is_paused = wants & (n_earlier - n_earlier[head] < self._places[number])
        self._places.index_add_(0, number, -is_paused.long())
        ranked = ids.gather(1, rank.clamp(min=0).unsqueeze(1)).squeeze(1)
        _leave_only(logits, index, torch.where(is_paused, pause_id, ranked), is_paused | (rank >= 0))
        self._send_back(rows, limits, entropies.masked_fill(~is_live & (rank < 0), math.nan), is_paused)

    def _send_back(self, rows: list[_Row], limits: list[float], entropies: torch.Tensor, paused: torch.Tensor) -> None:
        copies = entropies.to("cpu", non_blocking=True), paused.to("cpu", non_blocking=True)
        event = None
        if self._device.type != "cpu":
            event = torch.Event(device=self._device)
            event.record()
        self._late.append(_Late(rows, limits, *copies, event))

    def _has_ended(self, ctx: LogitsContext, rows: list[_Row], index: torch.Tensor) -> torch.Tensor:
        """Whose last token was a stop token: vLLM's scheduler, a step ahead, does not know yet."""
        stops = [[] if row.is_first else row.request.stop_ids for row in rows]
        widest = max(map(len, stops))
        padded = self._put([[*ids, *[-1] * (widest - len(ids))] for ids in stops]).view(len(rows), widest)
        return (ctx.input_ids[index].unsqueeze(1) == padded).any(dim=1)

    def _follow_thinking(self, rows: list[_Row]) -> None:
        """Bring `_has_left` up to date for these rows: by their newest token, or by all generated where it is not."""
        newest: dict[tuple[int, ...], list[_Row]] = {}
        for row in rows:
            marker, n_scanned = row.rule.thinking_end, row.request.n_scanned
            row.request.n_scanned = row.n_before
            if marker and n_scanned == row.n_before - 1:
                newest.setdefault(marker, []).append(row)
            elif marker or n_scanned < 0:
                self._has_left[row.slot] = self._contains(row, marker) if marker else False
        for marker, group in newest.items():
            slot, n_before, start = self._put([(row.slot, row.n_before, row.start) for row in group]).unbind(dim=1)
            places = n_before.unsqueeze(1) + torch.arange(-len(marker), 0, device=self._device)
            tail = self._states.all_token_ids.gpu[slot.unsqueeze(1), places.clamp(min=0)]
            ends = (tail == self._put(marker)).all(dim=1) & (places[:, 0] >= start)
            self._has_left[slot] = self._has_left[slot] | ends

    def _contains(self, row: _Row, marker: tuple[int, ...]) -> torch.Tensor:
        generated = self._states.all_token_ids.gpu[row.slot, row.start : row.n_before]
        if len(generated) < len(marker):
            return torch.zeros((), dtype=torch.bool, device=self._device)
        return (generated.unfold(0, len(marker), 1) == self._put(marker)).all(dim=1).any()


def _leave_only(logits: torch.Tensor, index: torch.Tensor, token_ids: torch.Tensor, where: torch.Tensor) -> None:
    """In the rows `index`, `where` it is said, leave only `token_ids`."""
    is_cleared = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    is_cleared[index] = where
    logits.masked_fill_(is_cleared.unsqueeze(1), -math.inf)
    logits[index, token_ids] = torch.where(where, 0.0, logits[index, token_ids])
