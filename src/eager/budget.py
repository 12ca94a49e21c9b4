"""Where the saved budget goes: EAGer-adapt without labels, EAGer with them (paper, sections 3.3 and 3.4).

N prompts have M * N sequences in all; what EAGer-init left of them is shared out here. No policy ever exceeds M * N in
total. The last one, `vote_shares`, is not the paper's: it goes by how much the answers disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb

from eager.types import BranchConfig

SETTLED = 0.95
"""How certain a majority has to be, unless told otherwise: as in Adaptive-Consistency."""

_ADAPT_CAP = 3  # times M, extra sequences a prompt
_VOTE_CAP = 3
_VOTE_ROUND = 4  # a round is a quarter of M
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


def is_solved(grades: Seq[bool | None]) -> bool:
    """Whether EAGer leaves a prompt alone. One that nobody could grade is not unsolved: nothing says it needs any."""
    return True in grades or False not in grades


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

    @classmethod
    def of(cls, share: int, n_used: int, rules: BranchConfig) -> ExtraRounds:
        """The rounds of a prompt of which EAGer-init made `n_used` sequences by `rules`."""
        return cls(share, rules.entropy_threshold, lower_every_round=n_used < rules.max_sequences)

    @property
    def is_done(self) -> bool:
        return self.n_missing == 0

    def next_rules(self, rules: BranchConfig) -> BranchConfig:
        """The rules of the round's tree, where EAGer-init went by `rules`."""
        return replace(rules, max_sequences=self.n_missing, entropy_threshold=self.round_threshold)

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


# -- not the paper's --------------------------------------------------------------------------------------------------


def majority_certainty(groups: Seq[int | None]) -> float:
    """How certain it is that the answer in the lead is the model's most likely one; 0.5 where nobody leads.

    `groups`: a prompt's classes of equivalent answers, None for no answer. The Beta posterior of Adaptive-Consistency
    (Aggarwal et al. 2023, arXiv 2305.11860) over its two most frequent answers with their v1 >= v2 votes: the integral
    of p^v1 (1-p)^v2 from 1/2 to 1 over that from 0 to 1, which for whole numbers is P(Binomial(v1+v2+1, 1/2) <= v1).
    """
    counts = Counter(group for group in groups if group is not None)
    first, second = ([count for _, count in counts.most_common(2)] + [0, 0])[:2]
    return _lead_certainty(first, second)


@lru_cache
def _lead_certainty(first: int, second: int) -> float:
    n = first + second + 1
    return sum(comb(n, i) for i in range(first + 1)) / (1 << n)


def is_open(groups: Seq[int | None], n_used: int, max_sequences: int, settled: float = SETTLED) -> bool:
    """Whether EAGer-vote would give to this prompt: its answers disagree, or it has none yet, and nothing is settled.

    `groups` are the classes of answers of all its sequences so far, of which EAGer-init made `n_used`; of others it
    has at most 3 * M.
    """
    is_torn = len({*groups} - {None}) != 1
    return is_torn and len(groups) - n_used < _VOTE_CAP * max_sequences and majority_certainty(groups) < settled


def vote_shares(
    groups: Seq[Seq[int | None]],
    used: Seq[int],
    max_sequences: int,
    settled: float = SETTLED,
    most: int | None = None,
) -> dict[int, int]:
    """The next round of EAGer-vote: extra sequences by prompt index, the least certain prompt first; {} ends it.

    Each prompt whose vote `is_open` gets max(1, M // 4) while the budget lasts: there may be `most` sequences in all,
    M * N unless told. `groups` and `used`: as there, one a prompt.
    """
    indices = range(len(groups))
    wanting = [i for i in indices if is_open(groups[i], used[i], max_sequences, settled)]
    wanting.sort(key=lambda i: majority_certainty(groups[i]))  # stable: then by index
    left = (max_sequences * len(groups) if most is None else most) - sum(map(len, groups))
    shares: dict[int, int] = {}
    for i in wanting:
        n_extra = len(groups[i]) - used[i]
        share = min(max(1, max_sequences // _VOTE_ROUND), _VOTE_CAP * max_sequences - n_extra, left)
        if share > 0:
            shares[i] = share
            left -= share
    return shares


def vote_allowances(groups: Seq[Seq[int | None]], max_sequences: int, settled: float = SETTLED) -> dict[int, int]:
    """What EAGer-init saved, by prompt index, before the first round: evenly to the prompts whose vote is open.

    For several drivers of one task, each of which votes among its own prompts with the sum of what these are given.
    `groups` are those of EAGer-init's sequences.
    """
    used = [len(prompt) for prompt in groups]
    wanting = [i for i, prompt in enumerate(groups) if is_open(prompt, used[i], max_sequences, settled)]
    return _even_split(wanting, saved_budget(used, max_sequences), _VOTE_CAP * max_sequences)
