"""Scores over graded sequences, where every prompt may have another number of them.

Every score is the mean over prompts of one number a prompt (0 to 1), with a 95 % bootstrap interval over those prompts.
A prompt none of whose sequences is graded says nothing and is left out; `n_prompts` is what remains.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
# One fixed seed: the same grades give the same interval, and scores over the same prompts share their resamples.
BOOTSTRAP_SEED = 20251013


@dataclass(frozen=True)
class GradedPrompt:
    """The sequences of one prompt, in order.

    `correct[i]` is None where sequence i is ungraded. `groups[i]` numbers the class of equivalent answers that its
    answer belongs to (equal number, equivalent answers); None where it gave no answer.
    """

    correct: tuple[bool | None, ...]
    groups: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if len(self.correct) != len(self.groups):
            raise ValueError(f"{len(self.correct)} grades but {len(self.groups)} groups for one prompt")

    @property
    def graded(self) -> tuple[bool, ...]:
        """The grades that are there."""
        return tuple(grade for grade in self.correct if grade is not None)


@dataclass(frozen=True)
class Score:
    """A mean over `n_prompts` prompts and its 95 % interval; all None over no prompt.

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


# One number a prompt; None where the prompt is to be left out.


def prompt_passed(prompt: GradedPrompt) -> float | None:
    """1 if at least one sequence is correct, else 0."""
    return float(any(prompt.graded)) if prompt.graded else None


def prompt_pass_rate(prompt: GradedPrompt) -> float | None:
    """The share of the graded sequences that are correct."""
    return sum(prompt.graded) / len(prompt.graded) if prompt.graded else None


def prompt_consensus(prompt: GradedPrompt) -> float | None:
    """1 if the answer that most sequences gave is correct, else 0; 0 where no sequence gave an answer."""
    if not prompt.graded:
        return None
    leaders = leading_groups(prompt)
    if not leaders:
        return 0.0
    votes = zip(prompt.groups, prompt.correct, strict=True)
    grades = [grade for group, grade in votes if group == leaders[0] and grade is not None]
    # Equivalent answers are graded alike; should the grader have disagreed with itself, the first one speaks.
    return float(grades[0]) if grades else None


def prompt_unbiased_pass(prompt: GradedPrompt, j: int) -> float | None:
    """The chance that j of the prompt's graded sequences, drawn without replacement, hold a correct one.

    1 - C(n-c, j) / C(n, j) as a product, which neither overflows nor cancels (Chen et al. 2021, arXiv 2107.03374).
    ValueError where fewer than j sequences are graded.
    """
    n, c = len(prompt.graded), sum(prompt.graded)
    if j < 1 or (n and j > n):
        raise ValueError(f"pass@{j} needs at least {max(j, 1)} graded sequences a prompt; one prompt has {n}")
    if not n:
        return None
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
    """`score` of every prompt that has one: what `paired_difference` takes."""
    scores = {index: score(prompt) for index, prompt in prompts.items()}
    return {index: value for index, value in scores.items() if value is not None}


# Means over prompts.


def pass_at_k(prompts: Sequence[GradedPrompt]) -> Score:
    """Pass@k as the paper uses it: the share of prompts with at least one correct sequence."""
    return _mean(map(prompt_passed, prompts))


def pass_rate(prompts: Sequence[GradedPrompt]) -> Score:
    """The mean over prompts of the share of correct sequences."""
    return _mean(map(prompt_pass_rate, prompts))


def cons_at_k(prompts: Sequence[GradedPrompt]) -> Score:
    """The share of prompts whose majority answer is correct; draws go to the first to appear, and are counted."""
    voted = [(prompt, prompt_consensus(prompt)) for prompt in prompts]
    ties = sum(len(leading_groups(prompt)) > 1 for prompt, score in voted if score is not None)
    return _mean((score for _, score in voted), ties)


def pass_at_curve(prompts: Sequence[GradedPrompt]) -> tuple[Score, ...]:
    """Unbiased pass@1, pass@2, ... up to the smallest number of graded sequences that a prompt has."""
    graded = [prompt for prompt in prompts if prompt.graded]
    smallest = min((len(prompt.graded) for prompt in graded), default=0)
    curve = [[prompt_unbiased_pass(prompt, j) for j in range(1, smallest + 1)] for prompt in graded]
    return _means(np.array(curve, dtype=np.float64).reshape(len(graded), smallest))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Score:
    """The mean of a - b over the prompts that both have, with its interval. Keys are prompt indices."""
    return _mean(a[index] - b[index] for index in sorted(a.keys() & b.keys()))


def summarise(prompts: Sequence[GradedPrompt]) -> Summary:
    """Every score of one experiment, one entry of `prompts` a prompt."""
    return Summary(
        n_prompts=len(prompts),
        n_sequences=sum(len(prompt.correct) for prompt in prompts),
        n_ungraded=sum(prompt.correct.count(None) for prompt in prompts),
        n_without_answer=sum(prompt.groups.count(None) for prompt in prompts),
        pass_at_k=pass_at_k(prompts),
        cons_at_k=cons_at_k(prompts),
        pass_rate=pass_rate(prompts),
        pass_at_curve=pass_at_curve(prompts),
    )


def _mean(scores: Iterable[float | None], ties: int = 0) -> Score:
    kept = np.array([score for score in scores if score is not None], dtype=np.float64)
    return replace(_means(kept.reshape(-1, 1))[0], ties=ties)


def _means(scores: NDArray[np.float64]) -> tuple[Score, ...]:
    """One Score a column of `scores`, shape (prompts, columns)."""
    n, columns = scores.shape
    if n == 0:
        return tuple(Score(None, None, None, 0) for _ in range(columns))
    # How often each prompt was drawn in each resample, (RESAMPLES, prompts): one product resamples every column.
    drawn = np.random.default_rng(BOOTSTRAP_SEED).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    low, high = np.percentile(drawn @ scores / n, [2.5, 97.5], axis=0)
    triples = zip(scores.mean(axis=0), low, high, strict=True)
    return tuple(Score(float(value), float(lower), float(upper), n) for value, lower, upper in triples)
