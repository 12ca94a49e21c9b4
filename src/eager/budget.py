"""Where the saved budget goes: EAGer-adapt without labels, EAGer with them (paper, sections 3.3 and 3.4).

N prompts have M * N sequences in all; what EAGer-init left of them is shared out here. Neither policy ever exceeds
M * N in total.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

_ADAPT_CAP = 3  # times M, extra sequences a prompt
_UNSATURATED_FACTOR = 0.8
_LATE_FACTOR = 0.9
_FIRST_LATE_ROUND = 3


def saved_budget(used: Seq[int], max_sequences: int) -> int:
    """M * N less the sequences EAGer-init used; `used`: sequences a prompt."""
    return max_sequences * len(used) - sum(used)


def adapt_shares(used: Seq[int], max_sequences: int) -> dict[int, int]:
    """EAGer-adapt: extra sequences by prompt index, for the prompts that reached M: they wanted more."""
    wanting = [index for index, n in enumerate(used) if n >= max_sequences]
    return _even_split(wanting, saved_budget(used, max_sequences), _ADAPT_CAP * max_sequences)


def label_shares(used: Seq[int], solved: Seq[bool], max_sequences: int) -> dict[int, int]:
    """EAGer: extra sequences by prompt index, for the prompts without a correct sequence, saturated ones first."""
    unsolved = [index for index, is_solved in enumerate(solved) if not is_solved]
    unsolved.sort(key=lambda index: used[index] < max_sequences)  # stable: saturated first, else by index
    return _even_split(unsolved, saved_budget(used, max_sequences), max_sequences)


def _even_split(prompts: list[int], budget: int, cap: int) -> dict[int, int]:
    """Evenly, the remainder one each to the first; nobody more than `cap`, nobody listed with nothing."""
    if not prompts:
        return {}
    share, remainder = divmod(budget, len(prompts))
    shares = {prompt: min(cap, share + (rank < remainder)) for rank, prompt in enumerate(prompts)}
    return {prompt: n for prompt, n in shares.items() if n > 0}


def round_threshold(threshold: float, round_number: int, *, lower_every_round: bool) -> float:
    """The threshold of a prompt's extra trees in its round 1, 2, …

    A saturated prompt starts each round from `threshold`: 10 % less from the third round on. One that did not saturate
    (`lower_every_round`) starts from the round before: times 0.8 in every round, the first included, and 10 % less in
    every one from the third on.
    """
    n_late = max(0, round_number - _FIRST_LATE_ROUND + 1)
    if lower_every_round:
        return float(threshold * _UNSATURATED_FACTOR**round_number * _LATE_FACTOR**n_late)
    return threshold * _LATE_FACTOR if n_late else threshold


@dataclass(slots=True)
class ExtraRounds:
    """The rounds of one prompt: fresh EAGer-init trees until it has its share.

    `n_missing` sequences are still to come; each round's tree may have as many.
    """

    n_missing: int
    threshold: float
    lower_every_round: bool
    round_number: int = 1

    @property
    def is_done(self) -> bool:
        return self.n_missing == 0

    @property
    def round_threshold(self) -> float:
        """The threshold of the round's tree."""
        return round_threshold(self.threshold, self.round_number, lower_every_round=self.lower_every_round)

    def finish_round(self, n_sequences: int) -> None:
        """The round's tree came out with so many sequences: at least one, at most what was missing."""
        if not 1 <= n_sequences <= self.n_missing:
            raise ValueError(f"a round for {self.n_missing} sequences cannot have brought {n_sequences}")
        self.n_missing -= n_sequences
        self.round_number += 1
