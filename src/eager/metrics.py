"""Scores over graded sequences, where every prompt may have another number of them.

Every score is the mean over prompts of one number a prompt (0 to 1), with a 95 % bootstrap interval over those prompts.
A prompt none of whose sequences is graded says nothing and is left out; `n_prompts` is what remains.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
# One fixed seed: the same grades give the same interval, and scores over the same prompts share their resamples.
BOOTSTRAP_SEED = 20251013
# Resamples times prompts held at once: 16 MB of counts, twice. A thousand prompts and fewer are one piece.
_PIECE = 2**21
# Pieces of whole blocks of rows give the same sums as one product does, to the last bit (BLAS works in such blocks).
_ROWS = 8


@dataclass(frozen=True)
class GradedPrompt:
    """The sequences of one prompt, in order.

    `correct[i]` is None where sequence i is ungraded. `groups[i]` numbers the class of equivalent answers that its
    answer belongs to (equal number, equivalent answers); None where it gave no answer. `weights[i]` is what its vote
    weighs, None where nobody can say.
    """

    correct: tuple[bool | None, ...]
    groups: tuple[int | None, ...]
    weights: tuple[float | None, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.correct) != len(self.groups):
            raise ValueError(f"{len(self.correct)} grades but {len(self.groups)} groups for one prompt")
        if self.weights is not None and len(self.weights) != len(self.groups):
            raise ValueError(f"{len(self.weights)} weights but {len(self.groups)} groups for one prompt")

    @property
    def graded(self) -> tuple[bool, ...]:
        """The grades that are there."""
        return tuple(grade for grade in self.correct if grade is not None)


@dataclass(frozen=True)
class Score:
    """A mean over `n_prompts` prompts and its 95 % interval (None where none was asked for); all None over no prompt.

    `ties` counts the prompts whose majority vote was a draw (Cons@k only).
    """

    value: float | None
    low: float | None
    high: float | None
    n_prompts: int
    ties: int = 0


@dataclass(frozen=True)
class Summary:
    """Every score of one experiment. `pass_at_curve[j - 1]` is the unbiased pass@j."""

    n_prompts: int
    n_sequences: int
    n_ungraded: int
    n_without_answer: int
    pass_at_k: Score
    cons_at_k: Score
    pass_rate: Score
    pass_at_curve: tuple[Score, ...]


PromptScore: TypeAlias = Callable[[GradedPrompt], float | None]
Matrix: TypeAlias = NDArray[np.float64]


# One number a prompt; None where the prompt is to be left out.


def prompt_passed(prompt: GradedPrompt) -> float | None:
    """1 if at least one sequence is correct, else 0."""
    return float(any(prompt.graded)) if prompt.graded else None


def prompt_pass_rate(prompt: GradedPrompt) -> float | None:
    """The share of the graded sequences that are correct."""
    return sum(prompt.graded) / len(prompt.graded) if prompt.graded else None


def prompt_consensus(prompt: GradedPrompt) -> float | None:
    """1 if the answer that most sequences gave is correct, else 0; 0 where no sequence gave an answer."""
    return _grade_of_first(leading_groups(prompt), prompt) if prompt.graded else None


def prompt_weighted_consensus(prompt: GradedPrompt) -> float | None:
    """The same with votes that weigh what `weights` say; None where one of them has no weight."""
    if not prompt.graded or prompt.weights is None:
        return None
    sums: dict[int, float] = {}
    for group, weight in zip(prompt.groups, prompt.weights, strict=True):
        if group is not None:
            if weight is None:
                return None
            sums[group] = sums.get(group, 0.0) + weight
    return _grade_of_first(sorted(sums, key=lambda group: -sums[group]), prompt)  # stable: draws to the first


def _grade_of_first(groups: Sequence[int], prompt: GradedPrompt) -> float | None:
    """The grade of the first of these groups; 0 where there is none."""
    if not groups:
        return 0.0
    votes = zip(prompt.groups, prompt.correct, strict=True)
    grades = [grade for group, grade in votes if group == groups[0] and grade is not None]
    # Equivalent answers are graded alike; should the grader have disagreed with itself, the first one speaks.
    return float(grades[0]) if grades else None


def unbiased_pass(n: int, c: int, j: int) -> float:
    """The chance that j of n sequences, drawn without replacement, hold one of the c correct ones; 1 <= j <= n.

    1 - C(n-c, j) / C(n, j) as a product, which neither overflows nor cancels (Chen et al. 2021, arXiv 2107.03374).
    """
    if n - c < j:
        return 1.0
    return float(1.0 - np.prod(1.0 - j / np.arange(n - c + 1, n + 1)))


def leading_groups(prompt: GradedPrompt) -> tuple[int, ...]:
    """The groups with the most votes, by first appearance: more than one is a draw, none is no vote at all."""
    votes: dict[int, int] = {}
    for group in prompt.groups:
        if group is not None:
            votes[group] = votes.get(group, 0) + 1
    most = max(votes.values(), default=0)
    return tuple(group for group, count in votes.items() if count == most)


def per_prompt(prompts: Mapping[int, GradedPrompt], score: PromptScore) -> dict[int, float]:
    """`score` of every prompt that has one: what `paired_differences` takes."""
    scores = {index: score(prompt) for index, prompt in prompts.items()}
    return {index: value for index, value in scores.items() if value is not None}


# Means over prompts.


def pass_at_k(prompts: Sequence[GradedPrompt]) -> Score:
    """Pass@k as the paper uses it: the share of prompts with at least one correct sequence."""
    return mean_score(map(prompt_passed, prompts))


def pass_rate(prompts: Sequence[GradedPrompt]) -> Score:
    """The mean over prompts of the share of correct sequences."""
    return mean_score(map(prompt_pass_rate, prompts))


def cons_at_k(prompts: Sequence[GradedPrompt]) -> Score:
    """The share of prompts whose majority answer is correct; draws go to the first to appear, and are counted."""
    return replace(mean_score(map(prompt_consensus, prompts)), ties=_ties(prompts))


def weighted_cons_at_k(prompts: Sequence[GradedPrompt]) -> Score:
    """Cons@k where votes have weights, over the prompts whose votes all have one."""
    return mean_score(map(prompt_weighted_consensus, prompts))


def pass_at_curve(prompts: Sequence[GradedPrompt]) -> tuple[Score, ...]:
    """Unbiased pass@1, pass@2, ... up to the smallest number of graded sequences that a prompt has."""
    return _means([_curves(prompts)])[0]


def paired_differences(pairs: Iterable[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[Score]:
    """For each (a, b) the mean of a - b over the prompts that both have, with its interval. Keys are prompt indices."""
    columns = [_column(a[index] - b[index] for index in sorted(a.keys() & b.keys())) for a, b in pairs]
    return [score for (score,) in _means(columns)]


def saved_share(pairs: Sequence[tuple[float, float]]) -> Score:
    """1 - Σ used / Σ reference over (used, reference) pairs, one a prompt, with its bootstrap interval over prompts."""
    totals = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    n = len(totals)
    if n == 0 or totals[:, 1].sum() == 0:
        return Score(None, None, None, n)
    used, reference = resampled_sums([totals])[0].T
    low, high = interval(1.0 - used[reference > 0] / reference[reference > 0])
    return Score(float(1.0 - totals[:, 0].sum() / totals[:, 1].sum()), float(low), float(high), n)


def summarise(prompts: Sequence[GradedPrompt], with_intervals: bool = True) -> Summary:
    """Every score of one experiment, one entry of `prompts` a prompt.

    Intervals take RESAMPLES draws a prompt, the scores alone next to nothing: `with_intervals` says which is wanted.
    """
    scores = (prompt_passed, prompt_consensus, prompt_pass_rate)
    columns = [_column(map(score, prompts)) for score in scores]
    (passed,), (consensus,), (rate,), curve = _means([*columns, _curves(prompts)], with_intervals)
    return Summary(
        n_prompts=len(prompts),
        n_sequences=sum(len(prompt.correct) for prompt in prompts),
        n_ungraded=sum(prompt.correct.count(None) for prompt in prompts),
        n_without_answer=sum(prompt.groups.count(None) for prompt in prompts),
        pass_at_k=passed,
        cons_at_k=replace(consensus, ties=_ties(prompts)),
        pass_rate=rate,
        pass_at_curve=curve,
    )


def _ties(prompts: Sequence[GradedPrompt]) -> int:
    return sum(len(leading_groups(prompt)) > 1 and prompt_consensus(prompt) is not None for prompt in prompts)


def _curves(prompts: Sequence[GradedPrompt]) -> Matrix:
    """Unbiased pass@1 and on, shape (graded prompts, fewest graded sequences of one)."""
    counts = [(len(prompt.graded), sum(prompt.graded)) for prompt in prompts if prompt.graded]
    smallest = min((n for n, _ in counts), default=0)
    # Few different pairs, however many prompts.
    curves = {(n, c): [unbiased_pass(n, c, j) for j in range(1, smallest + 1)] for n, c in set(counts)}
    return np.array([curves[pair] for pair in counts], dtype=np.float64).reshape(len(counts), smallest)


def _column(scores: Iterable[float | None]) -> Matrix:
    """Shape (prompts that have a score, 1)."""
    return np.fromiter((score for score in scores if score is not None), dtype=np.float64).reshape(-1, 1)


def mean_score(scores: Iterable[float | None]) -> Score:
    """The mean of one number a prompt, those that have one, with its interval."""
    return _means([_column(scores)])[0][0]


def _means(tables: Sequence[Matrix], with_intervals: bool = True) -> list[tuple[Score, ...]]:
    """One Score a column of each table, shape (prompts, columns)."""
    sums = resampled_sums(tables) if with_intervals else [None] * len(tables)
    return [_column_means(table, drawn) for table, drawn in zip(tables, sums, strict=True)]


def _column_means(table: Matrix, sums: Matrix | None) -> tuple[Score, ...]:
    n, columns = table.shape
    if n == 0:
        return tuple(Score(None, None, None, 0) for _ in range(columns))
    values = table.mean(axis=0)
    if sums is None:
        return tuple(Score(float(value), None, None, n) for value in values)
    low, high = interval(sums / n)
    return tuple(
        Score(float(v), float(lower), float(upper), n) for v, lower, upper in zip(values, low, high, strict=True)
    )


# The bootstrap.


def interval(estimates: Matrix) -> tuple[Matrix, Matrix]:
    """The bounds between which 95 % of the resamples' estimates lie, along their first axis."""
    low, high = np.percentile(estimates, [2.5, 97.5], axis=0)
    return low, high


def resampled_sums(tables: Sequence[Matrix]) -> list[Matrix]:
    """For each table, shape (prompts, columns), the sums over each resample of its prompts: (RESAMPLES, columns).

    Tables over as many prompts share one drawing of them. Memory is bounded: resamples are drawn in pieces.
    """
    sums = [np.zeros((RESAMPLES, table.shape[1])) for table in tables]
    for n in {len(table) for table in tables} - {0}:
        first = 0
        for drawn in _drawn(n):
            for table, total in zip(tables, sums, strict=True):
                if len(table) == n:
                    total[first : first + len(drawn)] = drawn @ table
            first += len(drawn)
    return sums


def _drawn(n: int) -> Iterable[Matrix]:
    """How often each of n prompts was drawn in each resample, (resamples, n) a piece, RESAMPLES in all."""
    return (_only_piece(n),) if n * RESAMPLES <= _PIECE else _pieces(n, max(_ROWS, _PIECE // n // _ROWS * _ROWS))


@lru_cache(maxsize=1)
def _only_piece(n: int) -> Matrix:
    """Kept, as a comparison asks for the same prompts again and again."""
    return next(_pieces(n, RESAMPLES))


def _pieces(n: int, rows: int) -> Iterator[Matrix]:
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    for first in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - first)
        yield generator.multinomial(n, np.full(n, 1.0 / n), size=size).astype(np.float64)
