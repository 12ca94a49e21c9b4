"""A tree grown over the gate: which requests to send a server, and what becomes of what they decode.

A state machine without I/O, as `eager.branching` is, but where that decides where to branch, here the gate inside the
server has decided: a request that ends with the reserved token has branched (docs/gate.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

from eager.engines._gate_rule import First, Rule
from eager.engines.base import EngineError
from eager.randomness import sequence_seed
from eager.types import MAX_ENTROPY, Branch, BranchConfig, FinishReason, Generation, SequenceResult, Stops, TreeJob

_FIRST: dict[str, tuple[First, First]] = {"top2": ("best", "second"), "sample": ("drawn", "drawn")}
BRANCH_RULES = tuple(_FIRST)
"""Those that can be had over the gate."""

_NEVER = (1 << 31) - 1


def not_over_gate(rules: BranchConfig) -> str | None:
    """Why these rules cannot be had over the gate; None where they can."""
    if rules.branch_rule not in BRANCH_RULES:
        return (
            f"branch_rule {rules.branch_rule} cannot be had over the gate, which hands out no log-probabilities:"
            f" choose {' or '.join(BRANCH_RULES)}"
        )
    if rules.varentropy_threshold is not None:
        return "varentropy_threshold cannot be had over the gate, which takes entropies alone: leave it out"
    if rules.stop_after is not None:
        return "stop_after cannot be had over the gate, where sequences run ahead of each other: leave it out"
    return None


@dataclass(frozen=True, slots=True)
class GatedRequest:
    """Decode sequence `seq` from exactly `token_ids`, at most `max_tokens` more; the draws are seeded `seed`.

    It stops at `stop_ids`. A `rule` goes to the gate; without one the request is none of the gate's.
    """

    seq: int
    token_ids: tuple[int, ...]
    max_tokens: int
    seed: int
    stop_ids: tuple[int, ...]
    rule: Rule | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of a request that is over; `n_cached` of its ids did not go through the model again."""

    token_ids: Seq[int]
    finish_reason: FinishReason
    error: str | None = None
    n_cached: int = 0


class _Sequence:
    __slots__ = ("error", "final", "fork", "parent", "tokens")

    def __init__(self, parent: int | None, tokens: list[int]) -> None:
        self.parent = parent
        self.fork = len(tokens)
        self.tokens = tokens
        self.final: FinishReason | None = None
        self.error: str | None = None


class GatedTree:
    """Grows the tree of one job: `start` and `take` say which requests to send next, `result` is the finished tree.

    `name` must be no other tree's, `pause_id` a token that the model never gives. `branches` holds (sequence, position)
    of each, in the order in which the children are numbered, `ended` the numbers of sequences that have all their
    tokens; both grow as it happens. Raises ValueError for rules that are `not_over_gate`.
    """

    def __init__(self, job: TreeJob, stops: Stops, *, name: str, pause_id: int) -> None:
        reason = not_over_gate(job.config)
        if reason is not None:
            raise ValueError(reason)
        self.job = job
        self.name = name
        self.branches: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.n_tokens = 0
        """Decoded by requests that are over."""
        self._stops = stops
        self._pause_id = pause_id
        self._sequences: list[_Sequence] = []
        self._n_places = job.config.max_sequences - job.n_roots
        self._recomputed = self._discarded = 0

    @property
    def is_gated(self) -> bool:
        """Whether the gate sees this tree: where it does not, nothing of it is kept there."""
        return self._n_places > 0 or self.job.record_entropies

    @property
    def is_done(self) -> bool:
        """Whether every sequence has ended."""
        return len(self.ended) == len(self._sequences)

    def start(self) -> list[GatedRequest]:
        """Open the roots."""
        self._sequences = [_Sequence(None, []) for _ in range(self.job.n_roots)]
        return [self._request(index, None) for index in range(self.job.n_roots)]

    def take(self, request: GatedRequest, decoded: Decoded) -> list[GatedRequest]:
        """What `request` decoded until it was over; the sequence ends, or goes on, with a child where it branched."""
        sequence = self._sequences[request.seq]
        if len(request.token_ids) > len(self.job.prompt_ids):
            # Of a continued sequence the last token is new; the rest has been through the model before.
            self._recomputed += max(0, len(request.token_ids) - 1 - decoded.n_cached)
        self.n_tokens += len(decoded.token_ids)
        sequence.tokens.extend(decoded.token_ids)
        has_paused = bool(decoded.token_ids) and sequence.tokens[-1] == self._pause_id and request.rule is not None
        if not has_paused:
            sequence.final, sequence.error = decoded.finish_reason, decoded.error
            self.ended.append(request.seq)
            return []
        sequence.tokens.pop()
        self._discarded += 1
        return self._branch(request.seq)

    def sequence(self, index: int) -> SequenceResult:
        """One of the ended sequences, its entropies yet unknown."""
        sequence = self._sequences[index]
        return SequenceResult(
            token_ids=tuple(sequence.tokens),
            entropies=(None,) * len(sequence.tokens),
            finish_reason=sequence.final or "error",
            parent=sequence.parent,
            fork=sequence.fork,
            error=sequence.error,
        )

    def result(self, record: Mapping[str, Any] | None) -> Generation:
        """The finished tree; `record` is what the gate kept (`GateWorker.eager_take`), None where it sees no such tree.

        Raises EngineError where it has forgotten the tree.
        """
        if not self.is_done:
            raise RuntimeError("the tree has open sequences")
        if record is None and self.is_gated and any(sequence.tokens for sequence in self._sequences):
            raise EngineError("the gate has forgotten the tree, quiet for too long among many: ask for it again")
        kept = record or {"branches": [], "entropies": {}}
        pauses = {(seq, position): (entropy, limit) for seq, position, entropy, limit in kept["branches"]}
        return Generation(
            sequences=tuple(self._with_entropies(index, kept["entropies"]) for index in range(len(self._sequences))),
            branches=tuple(self._branch_of(child, pauses) for child in range(self.job.n_roots, len(self._sequences))),
            recomputed=self._recomputed,
            discarded=self._discarded,
        )

    def _branch(self, seq: int) -> list[GatedRequest]:
        sequence = self._sequences[seq]
        if len(self.branches) == self._n_places:
            # None to be had: the entropies alone are wanted, or the gate had forgotten how many there were.
            return [self._request(seq, "drawn")]
        child = len(self._sequences)
        self._sequences.append(_Sequence(seq, list(sequence.tokens)))
        self.branches.append((seq, len(sequence.tokens)))
        own, new = _FIRST[self.job.config.branch_rule]
        return [self._request(seq, own), self._request(child, new)]

    def _request(self, seq: int, first: First | None) -> GatedRequest:
        job = self.job
        tokens = (*job.prompt_ids, *self._sequences[seq].tokens)
        stop_ids = sorted(self._stops.stop_ids)
        return GatedRequest(
            seq=seq,
            token_ids=tokens,
            max_tokens=job.max_length - len(tokens),
            seed=sequence_seed(job.seed, job.prompt_index, job.first_sequence + seq),
            stop_ids=(*stop_ids, self._pause_id) if self.is_gated else tuple(stop_ids),
            rule=self._rule(seq, first) if self.is_gated else None,
        )

    def _rule(self, seq: int, first: First | None) -> Rule:
        rules, n_prompt = self.job.config, len(self.job.prompt_ids)
        if self._n_places == 0:
            # Entropies to the very end: the gate takes them while the tree has places. Where one is as high as can be
            # it pauses all the same, and the sequence goes on with what it draws.
            return Rule(self.name, seq, n_prompt, _NEVER, MAX_ENTROPY, self._pause_id, None, _NEVER, first=first)
        return Rule(
            self.name,
            seq,
            n_prompt,
            self._n_places,
            rules.entropy_threshold,
            self._pause_id,
            rules.threshold_percentile,
            rules.max_tokens_without_branch,
            self._stops.thinking_end,
            first,
        )

    def _with_entropies(self, seq: int, entropies: Mapping[str, Any]) -> SequenceResult:
        sequence = self._sequences[seq]
        start, values = entropies.get(str(seq), (0, []))
        taken = {start + i: value for i, value in enumerate(values)}
        own = [taken.get(position) for position in range(sequence.fork, len(sequence.tokens))]
        return replace(self.sequence(seq), entropies=(*[None] * sequence.fork, *own))

    def _branch_of(self, child: int, pauses: Mapping[tuple[int, int], tuple[float, float]]) -> Branch:
        seq, position = self.branches[child - self.job.n_roots]
        if (seq, position) not in pauses:
            raise EngineError("the gate has forgotten a part of the tree, among many others: ask for it again")
        entropy, limit = pauses[seq, position]
        kept, new = (tokens[position : position + 1] for tokens in (self._tokens(seq), self._tokens(child)))
        return Branch(
            seq, position, entropy, limit, child, kept_id=kept[0] if kept else None, new_id=new[0] if new else None
        )

    def _tokens(self, seq: int) -> list[int]:
        return self._sequences[seq].tokens
