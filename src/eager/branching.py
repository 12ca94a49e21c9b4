"""EAGer-init: one tree that forks where the model is uncertain (paper, section 3.2).

A `Brancher` is a state machine. `start()` says which sequences to open; `observe()` takes what was decoded and
says which sequences to open, close or stop monitoring; `result()` is the finished tree. It sees token ids,
entropies and the K best ids with their log-probabilities, never text, logits, a clock or an engine.

The tree depends only on the tokens, not on the order in which an engine delivers them: tokens of sequences that
may still branch are examined by position and, within a position, by sequence number. A sequence that runs ahead
waits, its tokens pending, until the others have caught up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence as Seq
from dataclasses import replace
from heapq import heappush, heappushpop
from itertools import accumulate

from eager.randomness import sequence_seed, uniform
from eager.types import (
    Action,
    Branch,
    BranchConfig,
    BranchRule,
    Close,
    Delta,
    FinishReason,
    Generation,
    Open,
    SequenceResult,
    Stops,
    TreeJob,
    Unmonitor,
)

Token = tuple[int, float, Seq[int], Seq[float]]
"""A monitored token: its id, the entropy it was drawn under, the best ids and their log-probabilities."""

Split = tuple[int, int | None] | None
"""What a branch makes of a token: the parent's and the child's; a child of None draws its own; None: no branch."""

SplitRule = Callable[[Token, float, Callable[[], float]], Split]
"""(token, temperature, a uniform draw of the child's) -> split."""


def top2(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The paper's rule: the parent goes on with the most likely token, the child with the second."""
    _, _, best_ids, _ = token
    return (int(best_ids[0]), int(best_ids[1])) if len(best_ids) > 1 else None


def distinct(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The parent keeps what it sampled, the child draws from the rest of the top K."""
    sampled, _, best_ids, best_logprobs = token
    rest = [(int(i), lp) for i, lp in zip(best_ids, best_logprobs, strict=True) if i != sampled and lp > -math.inf]
    if not rest:
        return None
    top = max(logprob for _, logprob in rest)
    cumulative = list(accumulate(math.exp((logprob - top) / temperature) for _, logprob in rest))
    chosen = bisect_left(cumulative, draw() * cumulative[-1])
    return sampled, rest[min(chosen, len(rest) - 1)][0]


def sample(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The sequence forks before the token: the parent keeps its draw, the child makes its own."""
    return token[0], None


BRANCH_RULES: dict[BranchRule, SplitRule] = {"top2": top2, "distinct": distinct, "sample": sample}


class RunningPercentile:
    """The nearest-rank percentile of all values added so far, in O(log n) a value."""

    def __init__(self, percentile: float) -> None:
        self._share = percentile / 100
        self._low: list[float] = []  # negated: a max-heap of the values up to the percentile
        self._high: list[float] = []

    def add(self, value: float) -> float:
        """Add `value`; the percentile of all values, `value` included."""
        n_low = max(1, math.ceil(self._share * (len(self._low) + len(self._high) + 1)))
        if len(self._low) < n_low:
            heappush(self._low, -heappushpop(self._high, value))
        else:
            heappush(self._high, -heappushpop(self._low, -value))
        return -self._low[0]


class _Sequence:
    """One growing sequence. `tokens` are settled; `pending` were decoded but not yet examined."""

    __slots__ = ("entropies", "error", "examined", "final", "fork", "index", "parent", "pending", "tokens")

    def __init__(self, index: int, parent: int | None, tokens: list[int]) -> None:
        self.index = index
        self.parent = parent
        self.fork = len(tokens)
        self.tokens = tokens
        self.entropies: list[float | None] = [None] * len(tokens)
        self.pending: deque[Token] = deque()
        self.examined = False
        self.final: FinishReason | None = None  # why the engine stopped decoding it
        self.error: str | None = None

    def settle_pending(self) -> None:
        self.tokens.extend(token[0] for token in self.pending)
        self.pending.clear()


class Brancher:
    """Grows the tree of one job: at most `max_sequences` sequences, forked where the entropy exceeds the threshold."""

    def __init__(self, job: TreeJob, stops: Stops) -> None:
        self._job = job
        self._config: BranchConfig = job.config
        self._stops = stops
        self._rule = BRANCH_RULES[job.config.branch_rule]
        percentile = job.config.threshold_percentile
        self._percentile = None if percentile is None else RunningPercentile(percentile)
        self._sequences: list[_Sequence] = []
        self._branches: list[Branch] = []
        self._n_open = 0
        # The branching phase: sequences that may still branch, whose turn it is, and where the phase ends.
        self._examined: list[_Sequence] = []
        self._turn = 0
        self._position = 0
        self._end_position = job.config.max_tokens_without_branch
        self._recomputed = 0
        self._discarded = 0

    @property
    def is_done(self) -> bool:
        """Whether every sequence of the tree has ended."""
        return self._n_open == 0

    @property
    def n_open(self) -> int:
        return self._n_open

    @property
    def n_sequences(self) -> int:
        return len(self._sequences)

    @property
    def n_branches(self) -> int:
        return len(self._branches)

    def start(self) -> list[Action]:
        """Open the tree's roots on the prompt."""
        may_branch = self._config.n_roots < self._config.max_sequences
        roots = [self._add_sequence(None, []) for _ in range(self._config.n_roots)]
        return [self._open(root, parent=None, monitor=may_branch) for root in roots]

    def observe(self, deltas: Iterable[tuple[int, Delta]]) -> list[Action]:
        """Take what one engine step decoded for this tree, as (sequence number, delta) pairs."""
        for index, delta in deltas:
            sequence = self._sequences[index]
            self._recomputed += delta.recomputed
            self._discarded += delta.discarded
            if delta.finish_reason is not None:
                sequence.final, sequence.error = delta.finish_reason, delta.error
            if sequence.examined:
                sequence.pending.extend(_monitored_tokens(delta))
            else:
                sequence.tokens.extend(delta.token_ids)
                self._n_open -= sequence.final is not None
        actions: list[Action] = []
        while self._examined and self._examine_next(actions):
            pass
        return actions

    def result(self) -> Generation:
        """The finished tree; its sequences in the order of their birth."""
        if not self.is_done:
            raise RuntimeError("the tree has open sequences")
        return Generation(
            sequences=tuple(_sequence_result(sequence) for sequence in self._sequences),
            branches=tuple(map(_with_new_id, self._branches, self._sequences[self._config.n_roots :])),
            recomputed=self._recomputed,
            discarded=self._discarded,
        )

    # -- examining, in the order of (position, sequence) --------------------------------------------------------

    def _examine_next(self, actions: list[Action]) -> bool:
        """Examine the token whose turn it is; False when the engine has not decoded it yet."""
        if self._turn == len(self._examined):
            self._next_position(actions)
            return True
        sequence = self._examined[self._turn]
        is_newborn = len(sequence.tokens) > self._position  # born at this position: its turn comes at the next
        if sequence.examined and not is_newborn:
            if sequence.pending:
                self._examine(sequence, sequence.pending.popleft(), actions)
            elif sequence.final is None:
                return False
            else:
                self._retire(sequence)  # it ended without another token
        self._turn += 1
        return True

    def _next_position(self, actions: list[Action]) -> None:
        self._position += 1
        self._turn = 0
        self._examined = [sequence for sequence in self._examined if sequence.examined]
        if self._position >= self._end_position:
            self._end_branching(actions)

    def _examine(self, sequence: _Sequence, token: Token, actions: list[Action]) -> None:
        threshold = self._threshold(token[1])
        split = self._split(sequence, token, threshold)
        if split is None:
            self._settle(sequence, token[0], token[1], actions)
        else:
            self._branch(sequence, token, split, threshold, actions)

    def _threshold(self, entropy: float) -> float:
        if self._percentile is None:
            return self._config.entropy_threshold
        return max(self._config.entropy_threshold, self._percentile.add(entropy))

    def _split(self, sequence: _Sequence, token: Token, threshold: float) -> Split:
        if token[1] <= threshold:
            return None
        is_last_allowed = len(self._job.prompt_ids) + self._position + 1 >= self._config.max_length
        is_own_birth = (
            self._config.branch_rule == "sample" and sequence.parent is not None and sequence.fork == self._position
        )
        if is_last_allowed or is_own_birth:
            return None
        child_number = self._job.first_sequence + len(self._sequences)
        child_seed = sequence_seed(self._job.seed, self._job.prompt_index, child_number)
        position = len(self._job.prompt_ids) + self._position
        return self._rule(token, self._config.sampling.temperature, lambda: uniform(child_seed, position))

    # -- branching ----------------------------------------------------------------------------------------------

    def _branch(
        self, sequence: _Sequence, token: Token, split: tuple[int, int | None], threshold: float, actions: list[Action]
    ) -> None:
        sampled, entropy = token[0], token[1]
        kept, new = split
        child = self._add_sequence(sequence.index, list(sequence.tokens))
        self._branches.append(
            Branch(sequence.index, self._position, entropy, threshold, child.index, sampled, kept, new)
        )
        self._end_position = self._position + 1 + self._config.max_tokens_without_branch
        may_branch = len(self._sequences) < self._config.max_sequences
        self._begin_child(child, new, entropy, may_branch, actions)
        if kept != sampled:
            self._replace(sequence, kept, may_branch, actions)
        self._settle(sequence, kept, entropy, actions)
        if not may_branch:
            self._end_branching(actions)

    def _begin_child(
        self, child: _Sequence, new: int | None, entropy: float, monitor: bool, actions: list[Action]
    ) -> None:
        if new is not None:
            child.tokens.append(new)
            child.entropies.append(entropy)
            if new in self._stops.stop_ids:
                child.final = "stop"
                self._n_open -= 1
                return
            monitor = monitor and not self._has_left_thinking(child)
        actions.append(self._open(child, parent=child.parent, monitor=monitor))

    def _replace(self, sequence: _Sequence, kept: int, monitor: bool, actions: list[Action]) -> None:
        """Take back the sampled token and all that was decoded after it: the sequence goes on from `kept`."""
        self._discarded += 1 + len(sequence.pending)
        sequence.pending.clear()
        was_open = sequence.final is None
        sequence.final = None
        if kept in self._stops.stop_ids:
            sequence.final = "stop"
            if was_open:
                actions.append(Close(sequence.index))
        else:
            sequence.examined = monitor and not self._has_left_thinking(sequence, kept)
            tokens = self._job.prompt_ids + tuple(sequence.tokens) + (kept,)
            actions.append(Open(sequence.index, tokens, parent=sequence.index, monitor=sequence.examined))

    def _settle(self, sequence: _Sequence, token: int, entropy: float, actions: list[Action]) -> None:
        """The sequence has this token for good; it leaves the examined ones when it ends or stops thinking."""
        sequence.tokens.append(token)
        sequence.entropies.append(entropy)
        if sequence.final is not None and not sequence.pending:
            self._retire(sequence)
        elif sequence.examined and self._has_left_thinking(sequence):
            self._stop_examining(sequence, actions)

    def _end_branching(self, actions: list[Action]) -> None:
        for sequence in self._examined:
            if sequence.examined:
                self._stop_examining(sequence, actions)
        self._examined = []

    def _stop_examining(self, sequence: _Sequence, actions: list[Action]) -> None:
        sequence.settle_pending()
        if sequence.final is not None:
            self._retire(sequence)
        else:
            sequence.examined = False
            actions.append(Unmonitor(sequence.index))

    def _retire(self, sequence: _Sequence) -> None:
        sequence.examined = False
        self._n_open -= 1

    # -- sequences ----------------------------------------------------------------------------------------------

    def _add_sequence(self, parent: int | None, tokens: list[int]) -> _Sequence:
        sequence = _Sequence(len(self._sequences), parent, tokens)
        self._sequences.append(sequence)
        self._n_open += 1
        return sequence

    def _open(self, sequence: _Sequence, parent: int | None, monitor: bool) -> Open:
        if monitor:
            sequence.examined = True
            self._examined.append(sequence)
        return Open(sequence.index, self._job.prompt_ids + tuple(sequence.tokens), parent, monitor)

    def _has_left_thinking(self, sequence: _Sequence, next_token: int | None = None) -> bool:
        """Whether the newest token, or `next_token` put after it, completes the end-of-thinking marker."""
        marker = self._stops.thinking_end
        if not marker:
            return False
        newest = sequence.tokens[-1] if next_token is None else next_token
        if newest != marker[-1]:
            return False
        tail = sequence.tokens[-len(marker) - 1 :] + ([] if next_token is None else [next_token])
        return tuple(tail[-len(marker) :]) == marker


def _monitored_tokens(delta: Delta) -> Iterable[Token]:
    if delta.entropies is None or delta.best_ids is None or delta.best_logprobs is None:
        if delta.token_ids:
            raise ValueError(f"sequence {delta.seq_id} is monitored, yet the engine reported no entropies for it")
        return ()
    return zip(delta.token_ids, delta.entropies, delta.best_ids, delta.best_logprobs, strict=True)


def _with_new_id(branch: Branch, child: _Sequence) -> Branch:
    """Under `sample` the child's first token is known only once the child has drawn it."""
    own_tokens = child.tokens[branch.position :]
    return replace(branch, new_id=own_tokens[0] if own_tokens else None)


def _sequence_result(sequence: _Sequence) -> SequenceResult:
    unmonitored = len(sequence.tokens) - len(sequence.entropies)
    return SequenceResult(
        token_ids=tuple(sequence.tokens),
        entropies=tuple(sequence.entropies) + (None,) * unmonitored,
        finish_reason=sequence.final or "error",
        parent=sequence.parent,
        fork=sequence.fork,
        error=sequence.error,
    )
