"""How a branch splits: what becomes of an uncertain token in the sequence that goes on and in the new one."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from eager.types import BranchRule, Token

Split = tuple[int, int | None] | None
"""What a branch makes of a token: the parent's and the child's; a child of None draws its own; None: no branch."""

SplitRule = Callable[[Token, float, Callable[[], float]], Split]
"""(token, temperature, a uniform draw of the child's) -> split."""


def top2(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The paper's rule: the parent goes on with the most likely token, the child with the second."""
    return (token.best_ids[0], token.best_ids[1]) if len(token.best_ids) > 1 else None


def distinct(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The parent keeps what it sampled, the child draws from the rest of the top K."""
    best = zip(token.best_ids, token.best_logprobs, strict=True)
    rest = [(i, logprob) for i, logprob in best if i != token.id and logprob > -math.inf]
    if not rest:
        return None
    top = max(logprob for _, logprob in rest)
    cumulative = list(accumulate(math.exp((logprob - top) / temperature) for _, logprob in rest))
    chosen = bisect_left(cumulative, draw() * cumulative[-1])
    return token.id, rest[min(chosen, len(rest) - 1)][0]


def sample(token: Token, temperature: float, draw: Callable[[], float]) -> Split:
    """The sequence forks before the token: the parent keeps its draw, the child makes its own."""
    return token.id, None


BRANCH_RULES: dict[BranchRule, SplitRule] = {"top2": top2, "distinct": distinct, "sample": sample}
