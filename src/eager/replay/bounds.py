"""What a replayed tree cost and scored: exactly where the record holds it, between two bounds elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from eager.metrics import GradedPrompt, Score, leading_groups, mean_score, prompt_consensus, prompt_pass_rate
from eager.replay.tree import Replayed


class Bounds(NamedTuple):
    """The least and the most that a number can be; equal where it is known."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PromptBounds:
    """One prompt's replay. Scores are None where nothing is graded; `n_tokens.high` is infinite without a bound."""

    is_exact: bool
    n_sequences: Bounds
    n_tokens: Bounds
    pass_at_k: Bounds | None
    cons_at_k: Bounds | None
    pass_rate: Bounds | None


class ScoreBounds(NamedTuple):
    """The means over prompts of the lower and of the upper bounds."""

    low: Score
    high: Score


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replayed experiment cost and scored over its prompts, `n_exact` of which the records hold whole."""

    n_prompts: int
    n_exact: int
    n_sequences: Bounds
    n_tokens: Bounds
    pass_at_k: ScoreBounds
    cons_at_k: ScoreBounds
    pass_rate: ScoreBounds


def prompt_bounds(replayed: Replayed, longest: float, *, is_graded: bool = True) -> PromptBounds:
    """Bounds of one prompt; no sequence has more than `longest` tokens. Unless it `is_graded` nothing has a grade."""
    n_certain, n_unknown = len(replayed.sequences), len(replayed.cut) + replayed.n_more
    least = sum(sequence.n_own_tokens for sequence in replayed.sequences)
    most = least + sum(longest - replayed.sequences[seq].n_tokens for seq in replayed.cut)
    if replayed.n_more:
        most += replayed.n_more * (longest - replayed.more_fork)
    whole = _whole(replayed)
    return PromptBounds(
        is_exact=replayed.is_exact,
        n_sequences=Bounds(n_certain, n_certain + replayed.n_more),
        n_tokens=Bounds(least, most),
        pass_at_k=_passed(whole, n_unknown) if is_graded else None,
        cons_at_k=_consensus(whole, n_unknown) if is_graded else None,
        pass_rate=_pass_rate(whole, n_unknown) if is_graded else None,
    )


def replay_result(prompts: Iterable[PromptBounds]) -> ReplayResult:
    """The prompts together."""
    prompts = list(prompts)
    scores = {
        name: _means([getattr(prompt, name) for prompt in prompts]) for name in ("pass_at_k", "cons_at_k", "pass_rate")
    }
    return ReplayResult(
        n_prompts=len(prompts),
        n_exact=sum(prompt.is_exact for prompt in prompts),
        n_sequences=_sum(prompt.n_sequences for prompt in prompts),
        n_tokens=_sum(prompt.n_tokens for prompt in prompts),
        **scores,
    )


def _sum(bounds: Iterable[Bounds]) -> Bounds:
    lows, highs = zip(*bounds, strict=True)
    return Bounds(math.fsum(lows), math.fsum(highs))


def _means(bounds: Iterable[Bounds | None]) -> ScoreBounds:
    known = [bound for bound in bounds if bound is not None]
    return ScoreBounds(mean_score(bound.low for bound in known), mean_score(bound.high for bound in known))


def _whole(replayed: Replayed) -> GradedPrompt:
    """The sequences that are known to their end."""
    whole = [sequence for seq, sequence in enumerate(replayed.sequences) if seq not in replayed.cut]
    return GradedPrompt(tuple(s.correct for s in whole), tuple(s.group for s in whole))


# Each over the sequences that are known, where `n_unknown` more may be there, right or wrong.


def _passed(prompt: GradedPrompt, n_unknown: int) -> Bounds | None:
    if not prompt.graded and not n_unknown:
        return None
    return Bounds(float(any(prompt.graded)), float(any(prompt.graded) or n_unknown > 0))


def _pass_rate(prompt: GradedPrompt, n_unknown: int) -> Bounds | None:
    rate = prompt_pass_rate(prompt)
    if not n_unknown:
        return None if rate is None else Bounds(rate, rate)
    n_correct, n_most = sum(prompt.graded), len(prompt.graded) + n_unknown
    return Bounds(n_correct / n_most, (n_correct + n_unknown) / n_most)


def _consensus(prompt: GradedPrompt, n_unknown: int) -> Bounds | None:
    known = prompt_consensus(prompt)
    leaders = leading_groups(prompt)
    votes = sorted((prompt.groups.count(group) for group in set(prompt.groups) - {None}), reverse=True)
    is_settled = len(leaders) == 1 and votes[0] > (votes[1] if len(votes) > 1 else 0) + n_unknown
    if n_unknown and not is_settled:
        return Bounds(0.0, 1.0)
    return None if known is None else Bounds(known, known)
