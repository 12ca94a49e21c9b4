"""What the gate knows of each tree: its branches, its entropies, and from them whether a token may branch.

The gate decides where the logits are, and at once. A tree whose sequences are all at one position branches exactly as
`eager.branching` says; docs/engines.md says what differs where some run ahead.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from eager.engines._gate_rule import Rule
from eager.entropy import RunningPercentile

MAX_TREES = 4096
MAX_ENTROPIES = 1 << 23
"""How many the gate keeps that nobody has taken, in trees and in entropies of all together."""


class _Kept:
    """The entropies of one sequence from position `start` on; NaN where none was taken."""

    __slots__ = ("n_settled", "start", "values")

    def __init__(self, start: int) -> None:
        self.start = start
        self.values = array("f")
        self.n_settled = 0  # of `values`, that the tree's percentile has or will have

    def put(self, position: int, entropy: float) -> int:
        """Returns by how many values it has grown."""
        n_new = max(0, position - self.start + 1 - len(self.values))
        self.values.extend([math.nan] * n_new)
        self.values[position - self.start] = entropy
        return n_new


class Tree:
    """One tree. A position counts generated tokens from 0; all requests of a tree give the same rule for it."""

    def __init__(self, rule: Rule) -> None:
        self.n_entropies = 0
        self._threshold = self._limit = float(rule.threshold)
        self._max_branches = rule.max_branches
        self._max_gap = rule.max_tokens_without_branch
        self._end = rule.max_tokens_without_branch
        self._percentile = None if rule.percentile is None else RunningPercentile(rule.percentile)
        self._unsettled: defaultdict[int, list[float]] = defaultdict(list)  # by position: not in the percentile yet
        self._kept: dict[int, _Kept] = {}
        self._pauses: dict[tuple[int, int], tuple[float, float]] = {}

    def arrive(self, sequence: int, position: int, may_pause: bool) -> None:
        """The token at `position` is about to be drawn; what stands before it is therefore no stop token.

        What was decided for that position before is undone: an unfinished prefill draws a token that is thrown away.
        """
        if may_pause:
            self._pauses.pop((sequence, position), None)
        kept = self._kept.get(sequence)
        if self._percentile is None or kept is None:
            return
        for i in range(kept.n_settled, min(position - kept.start, len(kept.values))):
            if not math.isnan(kept.values[i]):
                self._unsettled[kept.start + i].append(kept.values[i])
            kept.n_settled = i + 1

    def limit(self, position: int) -> float:
        """What the entropy at `position` must exceed for a branch; infinity where the tree branches no more."""
        if len(self._pauses) >= self._max_branches or position >= self._end:
            return math.inf
        if self._percentile is not None:
            self._follow(self._percentile, position)
        return self._limit

    def _follow(self, percentile: RunningPercentile, position: int) -> None:
        """Raise the limit to the percentile of what is known of earlier positions."""
        earlier = [known for known in self._unsettled if known < position]
        for known in earlier:
            for entropy in self._unsettled.pop(known):
                percentile.add(entropy)
        if earlier:
            self._limit = max(self._threshold, percentile.value)

    def note(self, sequence: int, position: int, entropy: float) -> None:
        """Keep an entropy; one taken again replaces the earlier."""
        kept = self._kept.get(sequence)
        if kept is None or position < kept.start:
            self.n_entropies -= 0 if kept is None else len(kept.values)
            kept = self._kept[sequence] = _Kept(position)
        self.n_entropies += kept.put(position, entropy)

    def pause(self, sequence: int, position: int, entropy: float, limit: float) -> None:
        """A branch: there the request ends with the reserved token."""
        self._pauses[sequence, position] = (entropy, limit)
        self._end = max(self._end, position + 1 + self._max_gap)

    def record(self) -> dict[str, Any]:
        """All that is kept, in plain values: `GateWorker.eager_take` says which."""
        entropies = {
            str(sequence): [kept.start, [None if math.isnan(value) else value for value in kept.values]]
            for sequence, kept in self._kept.items()
        }
        return {"entropies": entropies, "branches": [[*where, *how] for where, how in self._pauses.items()]}


class Trees:
    """The trees that the gate has seen and nobody has taken.

    Bounded: beyond `max_trees`, or `max_entropies` of all together, those that were quiet longest are forgotten.
    """

    def __init__(self, *, max_trees: int = MAX_TREES, max_entropies: int = MAX_ENTROPIES) -> None:
        self._max_trees = max_trees
        self._max_entropies = max_entropies
        self._trees: dict[str, Tree] = {}  # quiet longest first

    def __len__(self) -> int:
        return len(self._trees)

    def of(self, rule: Rule) -> Tree:
        """The request's tree, a new one where it is not known."""
        tree = self._trees.pop(rule.tree, None) or Tree(rule)
        self._trees[rule.tree] = tree
        return tree

    def find(self, name: str) -> Tree | None:
        return self._trees.get(name)

    def take(self, name: str) -> dict[str, Any] | None:
        """What is kept of a tree, which is forgotten with that; None where it is not known."""
        tree = self._trees.pop(name, None)
        return None if tree is None else tree.record()

    def forget_quiet(self, live: Iterable[str]) -> list[str]:
        """Back within the bounds, the trees named in `live` excepted. Returns the names of those forgotten."""
        n_entropies = sum(tree.n_entropies for tree in self._trees.values())
        forgotten: list[str] = []
        if len(self._trees) <= self._max_trees and n_entropies <= self._max_entropies:
            return forgotten
        kept = set(live)
        for name in [name for name in self._trees if name not in kept]:
            if len(self._trees) <= self._max_trees and n_entropies <= self._max_entropies:
                break
            n_entropies -= self._trees.pop(name).n_entropies
            forgotten.append(name)
        return forgotten
