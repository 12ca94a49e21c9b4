"""Who branched from whom, in files that do not say: the published code lists sequences in the order they ended."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eager.prefix import common_prefix
from eager.recap.prompt import ReadBranch

_INHERITED = -1.0


def inherited_tokens(entropies: NDArray[np.float32]) -> int:
    """How many tokens, from the first, a sequence took over from its parent."""
    own = np.flatnonzero(entropies != _INHERITED)
    return int(own[0]) if own.size else int(entropies.size)


def find_parents(texts: Seq[str], forks: Seq[int]) -> list[int | None]:
    """For each sequence that took tokens over, the one with the longest common text among those forked earlier."""
    parents: list[int | None] = []
    for seq, fork in enumerate(forks):
        earlier = [other for other in range(len(texts)) if other != seq and forks[other] < fork]
        shared = {other: common_prefix(texts[seq], texts[other]) for other in earlier}
        parents.append(max(earlier, key=lambda other: shared[other], default=None) if fork else None)
    return parents


def place_branches(
    branches: Seq[ReadBranch], texts: Seq[str], forks: Seq[int], parents: Seq[int | None]
) -> tuple[ReadBranch, ...]:
    """The branches with the sequences they made, found by position and text; None where none fits."""
    free = set(range(len(texts)))
    placed = []
    for branch in branches:
        start = branch.before + (branch.new_token or "")
        fits = (seq for seq in sorted(free) if forks[seq] == branch.position and start in texts[seq])
        child = next(fits, None)
        free.discard(-1 if child is None else child)
        placed.append(replace(branch, seq=None if child is None else parents[child], new_seq=child))
    return tuple(placed)
