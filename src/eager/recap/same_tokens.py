"""Full Parallel at the same number of tokens: what independent sampling would have reached for what a method cost.

The recorded samples of `parallel` are drawn without replacement, a round over all prompts at a time, until they have
taken as many tokens as the method did; every prompt gets one at least. That is done many times, and each prompt's
scores are averaged: the score of a random subset, the same for every order in which the samples happened to come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eager.metrics import BOOTSTRAP_SEED, GradedPrompt, PromptScore

# Draws times prompts: their mean is as sure with few draws of many prompts as with many draws of few.
_MOST_SUBSETS = 20_000
_DRAWS = (20, 200)


@dataclass(frozen=True, slots=True)
class Samples:
    """One prompt's independent samples: their grades, and how many tokens each took."""

    graded: GradedPrompt
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Subsets:
    """Means over the draws: tokens in all, samples a prompt, and each prompt's scores by the names asked for."""

    n_tokens: float
    n_samples: float
    scores: dict[str, dict[int, float]]


def random_subsets(
    prompts: Mapping[int, Samples], n_tokens: int, scores: Mapping[str, PromptScore], n_draws: int | None = None
) -> Subsets | None:
    """Subsets of the samples that take about `n_tokens` together; None where all of them take less."""
    if not prompts or sum(sum(samples.lengths) for samples in prompts.values()) < n_tokens:
        return None
    if n_draws is None:
        n_draws = min(max(_DRAWS[0], _MOST_SUBSETS // len(prompts)), _DRAWS[1])
    random = np.random.default_rng(BOOTSTRAP_SEED)
    found: dict[str, dict[int, list[float]]] = {name: {} for name in scores}
    tokens, samples = [], []
    for _ in range(n_draws):
        orders = [random.permutation(len(prompt.lengths)) for prompt in prompts.values()]
        lengths = [np.array(prompt.lengths)[order] for prompt, order in zip(prompts.values(), orders, strict=True)]
        sizes = fitting_sizes(lengths, n_tokens, random)
        tokens.append(sum(int(row[:size].sum()) for row, size in zip(lengths, sizes, strict=True)))
        samples.append(sizes.mean())
        for (key, prompt), order, size in zip(prompts.items(), orders, sizes, strict=True):
            subset = _subset(prompt.graded, np.sort(order[:size]).tolist())
            for name, score in scores.items():
                if (value := score(subset)) is not None:
                    found[name].setdefault(key, []).append(value)
    means = {name: {key: float(np.mean(values)) for key, values in by.items()} for name, by in found.items()}
    return Subsets(float(np.mean(tokens)), float(np.mean(samples)), means)


def fitting_sizes(lengths: Seq[NDArray[np.int64]], n_tokens: int, random: np.random.Generator) -> NDArray[np.int64]:
    """How many of its samples each prompt gets, in the order they lie in `lengths`: as near to `n_tokens` as can be.

    Round by round, in each round the prompts in another order: sizes differ by one at most, where there are as many.
    """
    rounds = np.concatenate([np.arange(len(row)) for row in lengths])
    owners = np.repeat(np.arange(len(lengths)), [len(row) for row in lengths])
    order = np.lexsort((random.random(len(rounds)), rounds))
    taken = np.cumsum(np.concatenate(lengths)[order])
    n_chosen = max(int(np.argmin(np.abs(taken - n_tokens))) + 1, int((rounds == 0).sum()))
    return np.bincount(owners[order[:n_chosen]], minlength=len(lengths))


def _subset(prompt: GradedPrompt, chosen: Seq[int]) -> GradedPrompt:
    return GradedPrompt(tuple(prompt.correct[i] for i in chosen), tuple(prompt.groups[i] for i in chosen))
