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
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence as Seq
from dataclasses import replace

from eager.branch_rules import BRANCH_RULES, Split
from eager.entropy import RunningPercentile, top_k_varentropy
from eager.randomness import sequence_seed, uniform
from eager.types import (
    Action,
    Branch,
    BranchConfig,
    Close,
    Delta,
    FinishReason,
    Generation,
    Open,
    SequenceResult,
    Stops,
    Token,
    TreeJob,
    Unmonitor,
)

IsSettled = Callable[[Seq[SequenceResult]], bool]
"""Whether the sequences that have ended, the shortest first, are enough for their tree to end."""


class _Sequence:
    """One growing sequence. `tokens` are settled; `pending` were decoded but not yet examined.

    While it `is_monitored` it may still branch: the engine reports its entropies, and its tokens are examined.
    """

    __slots__ = (
        *("entropies", "error", "final", "fork", "index"),
        *("is_monitored", "logprobs", "parent", "pending", "tokens"),
    )

    def __init__(self, index: int, parent: int | None, tokens: list[int]) -> None:
        self.index = index
        self.parent = parent
        self.fork = len(tokens)
        self.tokens = tokens
        self.entropies: list[float | None] = [None] * len(tokens)
        self.logprobs: list[float | None] = [None] * len(tokens)
        self.pending: deque[Token] = deque()
        self.is_monitored = False
        self.final: FinishReason | None = None  # why the engine stopped decoding it
        self.error: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.final is not None and not self.is_monitored

    def record(self, tokens: Collection[Token]) -> None:
        """Keep what is known of tokens that nobody examines."""
        self.entropies.extend(token.entropy for token in tokens)
        self.logprobs.extend(token.logprob_of(token.id) for token in tokens)


class Brancher:
    """Grows the tree of one job: at most `max_sequences` sequences, forked where the entropy exceeds the threshold.

    `branches` and `ended` (the numbers of sequences that have ended) grow as it happens. Under `sample` a branch there
    lacks its child's first token, which is yet to be drawn. Where the tree may end early, by `stop_after` or because
    it `is_settled`, they hold what ran ahead of that end, too; `result()` does not.
    """

    def __init__(self, job: TreeJob, stops: Stops, is_settled: IsSettled | None = None) -> None:
        self._job = job
        self._config: BranchConfig = job.config
        self._stops = stops
        self._rule = BRANCH_RULES[job.config.branch_rule]
        percentile = job.config.threshold_percentile
        self._percentile = None if percentile is None else RunningPercentile(percentile)
        self._threshold = job.config.entropy_threshold  # at the present position
        self._entropies: list[float] = []  # of the present position
        self._sequences: list[_Sequence] = []
        self.branches: list[Branch] = []
        self.ended: list[int] = []
        self._actions: list[Action] = []  # of the call in progress
        # The branching phase: sequences that may still branch, whose turn it is, and where the phase ends.
        self._monitored: list[_Sequence] = []
        self._turn = 0
        self._position = 0
        self._end_position = job.config.max_tokens_without_branch
        # Ending early: up to which length it has been asked, and the length at which the tree was cut.
        self._is_settled = is_settled
        self._asked_length = 0
        self._cut_length: int | None = None
        self._recomputed = 0
        self._discarded = 0

    @property
    def is_done(self) -> bool:
        """Whether every sequence of the tree has ended."""
        return len(self.ended) == len(self._sequences)

    @property
    def n_sequences(self) -> int:
        return len(self._sequences)

    def sequence(self, index: int) -> SequenceResult | None:
        """One of the ended sequences; None where it was born only after the tree's early end."""
        sequence = self._sequences[index]
        return _sequence_result(sequence, self._cut_length) if self._is_kept(sequence) else None

    def start(self) -> list[Action]:
        """Open the tree's roots on the prompt."""
        may_branch = self._job.n_roots < self._config.max_sequences
        for _ in range(self._job.n_roots):
            self._open(self._add_sequence(None, []), monitor=may_branch)
        return self._take_actions()

    def observe(self, deltas: Iterable[tuple[int, Delta]]) -> list[Action]:
        """Take what one engine step decoded for this tree, as (sequence number, delta) pairs."""
        sequences, records = self._sequences, self._job.record_entropies
        for index, delta in deltas:
            sequence = sequences[index]
            if delta.recomputed or delta.discarded:
                self._recomputed += delta.recomputed
                self._discarded += delta.discarded
            if sequence.is_monitored:
                sequence.pending.extend(delta.tokens)
            else:
                if records:
                    sequence.record(delta.tokens)
                for token in delta.tokens:
                    sequence.tokens.append(token.id)
            if delta.finish_reason is not None:
                sequence.final, sequence.error = delta.finish_reason, delta.error
                if not sequence.is_monitored:
                    self.ended.append(index)
        while self._monitored and self._examine_next():
            pass
        if (self._is_settled is not None or self._config.stop_after is not None) and self._cut_length is None:
            self._end_early()
        return self._take_actions()

    def result(self) -> Generation:
        """The finished tree; its sequences in the order of their birth."""
        if not self.is_done:
            raise RuntimeError("the tree has open sequences")
        kept = [sequence for sequence in self._sequences if self._is_kept(sequence)]
        return Generation(
            sequences=tuple(_sequence_result(sequence, self._cut_length) for sequence in kept),
            branches=tuple(map(_with_new_id, self.branches, kept[self._job.n_roots :])),
            recomputed=self._recomputed,
            discarded=self._discarded,
        )

    def _take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # -- examining, in the order of (position, sequence) --------------------------------------------------------

    def _examine_next(self) -> bool:
        """Examine the token whose turn it is; False when the engine has not decoded it yet."""
        if self._turn == len(self._monitored):
            self._next_position()
            return True
        sequence = self._monitored[self._turn]
        is_newborn = len(sequence.tokens) > self._position  # born at this position: its turn comes at the next
        if sequence.is_monitored and not is_newborn:
            if sequence.pending:
                self._examine(sequence, sequence.pending.popleft())
            elif sequence.final is None:
                return False
            else:
                self._retire(sequence)  # it ended without another token
        self._turn += 1
        return True

    def _next_position(self) -> None:
        self._position += 1
        self._turn = 0
        self._monitored = [sequence for sequence in self._monitored if sequence.is_monitored]
        if self._percentile is not None:
            self._follow_percentile(self._percentile)
        if self._position >= self._end_position:
            self._end_branching()

    def _examine(self, sequence: _Sequence, token: Token) -> None:
        if token.entropy is None:
            raise ValueError(f"sequence {sequence.index} is monitored, yet the engine reported no entropies for it")
        split = self._split(sequence, token) if self._is_uncertain(token, token.entropy) else None
        if split is None:
            self._settle(sequence, token.id, token, token.entropy)
        else:
            self._branch(sequence, token, token.entropy, split)

    def _is_uncertain(self, token: Token, entropy: float) -> bool:
        if entropy > self._threshold:
            return True
        config = self._config
        if config.varentropy_threshold is None or entropy > config.varentropy_max_entropy:
            return False
        return top_k_varentropy(token.best_logprobs) > config.varentropy_threshold

    def _follow_percentile(self, percentile: RunningPercentile) -> None:
        """The next position sees the entropies of the last one, and all its sequences see the same."""
        for entropy in self._entropies:
            percentile.add(entropy)
        if self._entropies:
            self._threshold = max(self._config.entropy_threshold, percentile.value)
        self._entropies = []

    def _split(self, sequence: _Sequence, token: Token) -> Split:
        """What the branch rule makes of an uncertain token, where the sequence may branch at it."""
        position = len(self._job.prompt_ids) + self._position
        is_last_allowed = position + 1 >= self._job.max_length
        is_own_birth = (
            self._config.branch_rule == "sample" and sequence.parent is not None and sequence.fork == self._position
        )
        if is_last_allowed or is_own_birth:
            return None
        child_number = self._job.first_sequence + len(self._sequences)
        child_seed = sequence_seed(self._job.seed, self._job.prompt_index, child_number)
        return self._rule(token, self._job.sampling.temperature, lambda: uniform(child_seed, position))

    # -- branching ----------------------------------------------------------------------------------------------

    def _branch(self, sequence: _Sequence, token: Token, entropy: float, split: tuple[int, int | None]) -> None:
        kept, new = split
        child = self._add_sequence(sequence.index, list(sequence.tokens))
        self.branches.append(
            Branch(sequence.index, self._position, entropy, self._threshold, child.index, token.id, kept, new)
        )
        self._end_position = self._position + 1 + self._config.max_tokens_without_branch
        may_branch = len(self._sequences) < self._config.max_sequences
        self._begin_child(child, new, token, entropy, may_branch)
        if kept != token.id:
            self._replace(sequence, kept, may_branch)
        self._settle(sequence, kept, token, entropy)
        if not may_branch:
            self._end_branching()

    def _begin_child(self, child: _Sequence, new: int | None, drawn: Token, entropy: float, monitor: bool) -> None:
        if new is not None:
            self._keep(child, new, drawn, entropy)
            if new in self._stops.stop_ids:
                child.final = "stop"
                self.ended.append(child.index)
                return
            monitor = monitor and not self._has_left_thinking(child)
        self._open(child, monitor)

    def _replace(self, sequence: _Sequence, kept: int, monitor: bool) -> None:
        """Take back the sampled token and all that was decoded after it: the sequence goes on from `kept`."""
        self._discarded += 1 + len(sequence.pending)
        sequence.pending.clear()
        was_open = sequence.final is None
        sequence.final = None
        if kept in self._stops.stop_ids:
            sequence.final = "stop"
            if was_open:
                self._actions.append(Close(sequence.index))
        else:
            sequence.is_monitored = monitor and not self._has_left_thinking(sequence, kept)
            tokens = self._job.prompt_ids + tuple(sequence.tokens) + (kept,)
            monitor = sequence.is_monitored or self._job.record_entropies
            self._actions.append(Open(sequence.index, tokens, parent=sequence.index, monitor=monitor))

    def _settle(self, sequence: _Sequence, kept: int, drawn: Token, entropy: float) -> None:
        """The sequence has `kept` for good; it is monitored no more when it ends or stops thinking."""
        self._keep(sequence, kept, drawn, entropy)
        if sequence.final is not None and not sequence.pending:
            self._retire(sequence)
        elif sequence.is_monitored and self._has_left_thinking(sequence):
            self._stop_monitoring(sequence)

    def _keep(self, sequence: _Sequence, kept: int, drawn: Token, entropy: float) -> None:
        sequence.tokens.append(kept)
        sequence.entropies.append(entropy)
        sequence.logprobs.append(drawn.logprob_of(kept))
        if self._percentile is not None and kept not in self._stops.stop_ids:
            self._entropies.append(entropy)

    def _end_branching(self) -> None:
        for sequence in self._monitored:
            if sequence.is_monitored:
                self._stop_monitoring(sequence)
        self._monitored = []

    def _stop_monitoring(self, sequence: _Sequence) -> None:
        if self._job.record_entropies:
            sequence.record(sequence.pending)
        sequence.tokens.extend(token.id for token in sequence.pending)
        sequence.pending.clear()
        if sequence.final is not None:
            self._retire(sequence)
            return
        sequence.is_monitored = False
        if not self._job.record_entropies:
            self._actions.append(Unmonitor(sequence.index))

    def _retire(self, sequence: _Sequence) -> None:
        sequence.is_monitored = False
        self.ended.append(sequence.index)

    # -- ending early -------------------------------------------------------------------------------------------

    def _end_early(self) -> None:
        """Cut the tree at the length at which enough of its sequences have ended, as if all grew in step.

        A length can be judged once every open sequence has that many tokens: none can then end before it.
        """
        least = min((len(s.tokens) for s in self._sequences if not s.has_ended), default=math.inf)
        whole = [s for s in self._sequences if s.has_ended and s.final != "error" and len(s.tokens) <= least]
        for length in sorted({len(s.tokens) for s in whole if len(s.tokens) > self._asked_length}):
            self._asked_length = length
            if self._is_enough([s for s in whole if len(s.tokens) <= length]):
                self._cut(length)
                return

    def _is_enough(self, whole: list[_Sequence]) -> bool:
        stop_after = self._config.stop_after
        if stop_after is not None and len(whole) >= stop_after:
            return True
        whole = sorted(whole, key=lambda sequence: len(sequence.tokens))  # stable: then by number
        return self._is_settled is not None and self._is_settled([_sequence_result(s, None) for s in whole])

    def _cut(self, length: int) -> None:
        """Every sequence that is longer ends here with so many tokens; what it ran ahead was for nothing."""
        self._cut_length = length
        for sequence in self._sequences:
            self._discarded += len(sequence.pending) + max(0, len(sequence.tokens) - max(length, sequence.fork))
            sequence.pending.clear()
            if sequence.final is None:
                self._actions.append(Close(sequence.index))
            if not sequence.has_ended:
                sequence.final = "cut"
                self._retire(sequence)
        self._monitored = []

    def _is_kept(self, sequence: _Sequence) -> bool:
        return self._cut_length is None or sequence.fork < self._cut_length

    # -- sequences ----------------------------------------------------------------------------------------------

    def _add_sequence(self, parent: int | None, tokens: list[int]) -> _Sequence:
        sequence = _Sequence(len(self._sequences), parent, tokens)
        self._sequences.append(sequence)
        return sequence

    def _open(self, sequence: _Sequence, monitor: bool) -> None:
        if monitor:
            sequence.is_monitored = True
            self._monitored.append(sequence)
        tokens = self._job.prompt_ids + tuple(sequence.tokens)
        self._actions.append(Open(sequence.index, tokens, sequence.parent, monitor or self._job.record_entropies))

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


def _with_new_id(branch: Branch, child: _Sequence) -> Branch:
    """Under `sample` the child's first token is known only once the child has drawn it."""
    own_tokens = child.tokens[branch.position :]
    return replace(branch, new_id=own_tokens[0] if own_tokens else None)


def _sequence_result(sequence: _Sequence, cut_length: int | None) -> SequenceResult:
    tokens, final = sequence.tokens, sequence.final
    if cut_length is not None and len(tokens) > cut_length:
        tokens, final = tokens[:cut_length], "cut"
    entropies, logprobs = sequence.entropies[: len(tokens)], sequence.logprobs[: len(tokens)]
    unmonitored = (None,) * (len(tokens) - len(entropies))
    return SequenceResult(
        token_ids=tuple(tokens),
        entropies=(*entropies, *unmonitored),
        finish_reason=final or "error",
        parent=sequence.parent,
        fork=sequence.fork,
        error=None if final == "cut" else sequence.error,
        logprobs=(*logprobs, *unmonitored),
    )
