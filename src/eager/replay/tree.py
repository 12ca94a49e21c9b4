"""What other rules would have made of a recorded tree, found without a model.

A tree that may hold fewer sequences, or that branches at a higher threshold, is part of the recorded one as long as
every branch that does not come leaves its sequence as it was: the sampled token was the kept one. Elsewhere the record
says how the tree begins, and bounds say the rest: see docs/replay.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eager.entropy import RunningPercentile
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import Branch, BranchConfig

# A journal's entropies have 4 places: how far apart two numbers made of them must be to be told apart.
_ROUNDING = 1e-4

KNOWN_RULES = frozenset({"branch_rule", "threshold_percentile", "max_tokens_without_branch"})
"""What is replayed beside M and the threshold; a tree grown under any other rule is not."""

_Point = tuple[int, int]  # (position, sequence): tokens are examined in this order


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is known of the tree that the rules asked for would have grown.

    `sequences` are there for certain, in the order of their birth, and `branches` made them; of those in `cut` only the
    beginning is known, of which `n_own_tokens` counts the tokens that they have at least. Up to `n_more` sequences may
    have come on top, each born at `more_fork` or later.
    """

    sequences: tuple[SequenceRecord, ...]
    branches: tuple[Branch, ...] = ()
    cut: frozenset[int] = frozenset()
    n_more: int = 0
    more_fork: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether the record holds the whole tree."""
        return not self.cut and not self.n_more


def replay_parallel(record: PromptRecord, max_sequences: int) -> Replayed:
    """The first `max_sequences` of independent sequences: the very same that a smaller run draws."""
    return Replayed(record.sequences[:max_sequences])


def replay_tree(record: PromptRecord, recorded: BranchConfig, asked: BranchConfig) -> Replayed:
    """One tree of `eager_init` as the rules in `asked` would have grown it; `recorded` are those it was grown under.

    Raises ValueError where `asked` wants more sequences, a lower threshold, or other rules.
    """
    same = replace(asked, max_sequences=recorded.max_sequences, entropy_threshold=recorded.entropy_threshold)
    is_part = asked.max_sequences <= recorded.max_sequences and asked.entropy_threshold >= recorded.entropy_threshold
    if same != recorded or not is_part:
        raise ValueError(
            f"a tree of at most {recorded.max_sequences} sequences at threshold {recorded.entropy_threshold:g} can be"
            " replayed with fewer sequences and at a higher threshold only"
        )
    walk = _Walk(record, recorded, asked)
    is_threshold_same = asked.entropy_threshold == recorded.entropy_threshold
    return walk.first_branches() if is_threshold_same else walk.token_by_token()


class _Walk:
    """Goes through a recorded tree in the order in which the Brancher examined it, deciding anew.

    `_alive` are the sequences born so far in the new tree, by their recorded numbers, and `_monitored` those of them
    that may branch. Until a recorded branch does not come, all the tree is as recorded, its percentiles included.
    """

    def __init__(self, record: PromptRecord, recorded: BranchConfig, asked: BranchConfig) -> None:
        self._sequences = record.sequences
        self._asked = asked
        self._branches = record.branches
        self._branch_at = {(branch.position, branch.seq): branch for branch in record.branches}
        self._recorded_end = _end_of_phase(record, recorded)
        self._alive = [seq for seq, sequence in enumerate(record.sequences) if sequence.parent is None]
        self._monitored = list(self._alive)
        self._taken: list[Branch] = []
        self._end = asked.max_tokens_without_branch
        self._is_as_recorded = True
        percentile = asked.threshold_percentile
        self._percentile = None if percentile is None else RunningPercentile(percentile)
        self._threshold = asked.entropy_threshold

    def first_branches(self) -> Replayed:
        """At the recorded threshold: the same branches, until the tree is full."""
        after = (0, -1)
        for branch in self._branches:
            if self._is_full:
                break
            self._branch(branch)
            after = (branch.position, (branch.seq or 0) + 1)
        return self._known(after, n_more=0)

    def token_by_token(self) -> Replayed:
        """At a higher threshold."""
        position = 0
        while self._monitored and position < self._end and not self._is_full:
            for seq in list(self._monitored):
                if not self._examine(seq, position):
                    return self._known(after=(position, seq), n_more=self._asked.max_sequences - len(self._alive))
                if self._is_full:
                    return self._known(after=(position, seq + 1), n_more=0)
            self._pass(position)
            position += 1
        return self._known(after=(position, -1), n_more=0)

    @property
    def _is_full(self) -> bool:
        return len(self._alive) >= self._asked.max_sequences

    # -- while all is certain -----------------------------------------------------------------------------------

    def _examine(self, seq: int, position: int) -> bool:
        """Whether the record says what the sequence does here, and goes on saying it."""
        own = position - self._sequences[seq].fork
        entropies = self._sequences[seq].entropies
        has_left = own < len(entropies) and entropies[own] is None and (position, seq) <= self._recorded_end
        if own >= len(entropies) or has_left:
            self._monitored.remove(seq)
            return True
        branch = self._branch_at.get((position, seq))
        branches = self._decides(seq, position, branch)
        if branches is None:
            return False
        if branches and branch is not None:
            self._branch(branch)
            return True
        self._is_as_recorded = self._is_as_recorded and branch is None
        return branch is None or _keeps_sampled(branch)

    def _decides(self, seq: int, position: int, branch: Branch | None) -> bool | None:
        """Whether it branches here; None where that cannot be told, or the record lacks the branch."""
        sequence = self._sequences[seq]
        entropy = sequence.entropies[position - sequence.fork] if branch is None else branch.entropy
        if self._is_as_recorded or self._percentile is None:
            if entropy is None:
                return False if _is_last_allowed(sequence, position) else None
            return branch is not None and branch.entropy > self._asked.entropy_threshold
        if _is_last_allowed(sequence, position) or self._is_own_birth(sequence, position):
            return False
        if entropy is None or abs(entropy - self._threshold) <= _ROUNDING:
            return None
        if entropy > self._threshold:
            return True if branch is not None else None
        return False

    def _is_own_birth(self, sequence: SequenceRecord, position: int) -> bool:
        return self._asked.branch_rule == "sample" and sequence.parent is not None and sequence.fork == position

    def _branch(self, branch: Branch) -> None:
        child = branch.new_seq
        assert child is not None  # as every branch that a run has recorded
        self._alive.append(child)
        self._monitored.append(child)
        self._taken.append(replace(branch, threshold=self._threshold_at(branch)))
        self._end = branch.position + 1 + self._asked.max_tokens_without_branch

    def _threshold_at(self, branch: Branch) -> float:
        if self._is_as_recorded or self._percentile is None:
            return max(branch.threshold, self._asked.entropy_threshold)
        return self._threshold

    def _pass(self, position: int) -> None:
        """The next position sees the entropies of this one; a stop token's does not count."""
        if self._percentile is None:
            return
        entropies = [_entropy_that_counts(self._sequences[seq], position) for seq in self._monitored]
        for entropy in entropies:
            if entropy is not None:
                self._percentile.add(entropy)
                self._threshold = max(self._asked.entropy_threshold, self._percentile.value)

    # -- what is known in the end -------------------------------------------------------------------------------

    def _known(self, after: _Point, n_more: int) -> Replayed:
        """From the point `after` on nothing branches; or anything might, where there may be `n_more` sequences."""
        number = {seq: new for new, seq in enumerate(self._alive)}
        sequences, cut = [], set()
        for seq, new in number.items():
            sequence = self._sequences[seq]
            end = min(self._turns(seq, after, is_open=n_more > 0), default=None)
            if end is not None:
                sequence = _beginning(sequence, end - sequence.fork + 1)
                cut.add(new)
            parent = None if sequence.parent is None else number[sequence.parent]
            sequences.append(replace(sequence, parent=parent))
        branches = tuple(_renumbered(branch, number) for branch in self._taken)
        return Replayed(tuple(sequences), branches, frozenset(cut), n_more, after[0])

    def _turns(self, seq: int, after: _Point, is_open: bool) -> Iterator[int]:
        """Positions from `after` on where the sequence leaves its recorded way, or may where the tree `is_open`."""
        for branch in self._branches:
            if branch.seq == seq and (branch.position, seq) >= after and not _keeps_sampled(branch):
                yield branch.position
        if is_open and self._asked.branch_rule == "top2":
            yield from self._new_branches(seq, after)

    def _new_branches(self, seq: int, after: _Point) -> Iterator[int]:
        """Positions from `after` on where the sequence did not branch, and may now."""
        sequence = self._sequences[seq]
        for position in range(max(after[0], sequence.fork), sequence.n_tokens):
            point = (position, seq)
            if point < after or point in self._branch_at or self._is_first_token(sequence, position):
                continue
            entropy = sequence.entropies[position - sequence.fork]
            if entropy is None and point <= self._recorded_end:
                return  # it has left its thinking section
            if self._might_branch(entropy) and not _is_last_allowed(sequence, position):
                yield position

    def _is_first_token(self, sequence: SequenceRecord, position: int) -> bool:
        """Whether its branch gave it this token."""
        return sequence.parent is not None and sequence.fork == position and self._asked.branch_rule != "sample"

    def _might_branch(self, entropy: float | None) -> bool:
        """At a token where the recorded tree did not."""
        if entropy is None:
            return True
        return self._percentile is not None and entropy > self._asked.entropy_threshold - _ROUNDING


def _end_of_phase(record: PromptRecord, rules: BranchConfig) -> _Point:
    """The last point at which the recorded tree might branch."""
    last = record.branches[-1] if record.branches else None
    if len(record.sequences) >= rules.max_sequences:
        return (-1, -1) if last is None or last.seq is None else (last.position, last.seq)
    return (0 if last is None else last.position + 1) + rules.max_tokens_without_branch, -1


def _keeps_sampled(branch: Branch) -> bool:
    """Whether the sequence would have gone on the same without the branch; by text where a file says no ids."""
    if branch.sampled_id is not None and branch.kept_id is not None:
        return branch.sampled_id == branch.kept_id
    # Tokens that are part of a character have the same text.
    return branch.sampled_token == branch.kept_token and "\ufffd" not in (branch.kept_token or "\ufffd")


def _entropy_that_counts(sequence: SequenceRecord, position: int) -> float | None:
    is_stop = sequence.finish_reason == "stop" and position == sequence.n_tokens - 1
    return None if is_stop or position >= sequence.n_tokens else sequence.entropies[position - sequence.fork]


def _is_last_allowed(sequence: SequenceRecord, position: int) -> bool:
    return sequence.finish_reason == "length" and position == sequence.n_tokens - 1


def _beginning(sequence: SequenceRecord, n_own: int) -> SequenceRecord:
    """Its first tokens, the last of which is not known; without text and grade."""
    entropies = (*sequence.entropies[: n_own - 1], None)
    return SequenceRecord(None, entropies, "", None, sequence.parent, sequence.fork)


def _renumbered(branch: Branch, number: dict[int, int]) -> Branch:
    assert branch.seq is not None
    assert branch.new_seq is not None
    return replace(branch, seq=number[branch.seq], new_seq=number[branch.new_seq])
