"""Full Parallel at the same number of tokens: random subsets of recorded samples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eager.metrics import GradedPrompt, prompt_consensus, prompt_pass_rate, prompt_passed, unbiased_pass
from eager.recap.same_tokens import Samples, fitting_sizes, random_subsets

SCORES = {"passed": prompt_passed, "consensus": prompt_consensus, "rate": prompt_pass_rate}


def samples(correct, length=10):
    """Right answers are of one class, wrong ones of another."""
    return Samples(GradedPrompt(tuple(correct), tuple(int(c) for c in correct)), (length,) * len(correct))


@given(st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 1000))
@settings(max_examples=200, deadline=None)
def test_sizes_are_even_and_fit(lengths, n_tokens):
    """Nobody gets a second sample before all have one, and so on; the budget is met within a sample."""
    rows = [np.array(row) for row in lengths]
    sizes = fitting_sizes(rows, n_tokens, np.random.default_rng(0))
    assert all(1 <= size <= len(row) for size, row in zip(sizes, rows, strict=True))
    assert all(size >= min(len(row), max(sizes) - 1) for size, row in zip(sizes, rows, strict=True))
    off = abs(sum(row[:size].sum() for row, size in zip(rows, sizes, strict=True)) - n_tokens)
    assert off <= max(map(max, lengths)) or sizes.tolist() == [1] * len(rows) or n_tokens > sum(map(sum, lengths))


def test_scores_are_those_of_a_subset_of_that_size():
    """With budget for two of four samples a prompt: pass@2 in closed form, and the pass rate of all."""
    prompts = {i: samples([True] * c + [False] * (4 - c)) for i, c in enumerate((0, 1, 2, 4))}
    subsets = random_subsets(prompts, n_tokens=80, scores=SCORES, n_draws=2000)
    assert (subsets.n_tokens, subsets.n_samples) == (80, 2)
    for i, c in enumerate((0, 1, 2, 4)):
        assert subsets.scores["passed"][i] == pytest.approx(unbiased_pass(4, c, 2), abs=0.04)
        assert subsets.scores["rate"][i] == pytest.approx(c / 4, abs=0.04)


def test_all_samples_give_the_recorded_scores():
    """With as many tokens as were recorded the subset is everything."""
    prompts = {0: samples([True, False, True]), 1: samples([False, False, True])}
    subsets = random_subsets(prompts, n_tokens=60, scores=SCORES, n_draws=3)
    assert subsets.scores == {
        name: {i: pytest.approx(score(p.graded)) for i, p in prompts.items()} for name, score in SCORES.items()
    }


def test_a_budget_between_two_sizes_mixes_them():
    """Five samples for two prompts: each gets three half of the time, else two."""
    prompts = {i: samples([True, True, False, False]) for i in range(2)}
    subsets = random_subsets(prompts, n_tokens=50, scores=SCORES)
    assert subsets.n_samples == 2.5
    expected = (unbiased_pass(4, 2, 2) + unbiased_pass(4, 2, 3)) / 2
    assert np.mean(list(subsets.scores["passed"].values())) == pytest.approx(expected, abs=0.03)


def test_more_tokens_than_were_recorded_cannot_be_matched():
    """There is no subset that large."""
    assert random_subsets({0: samples([True])}, n_tokens=11, scores=SCORES) is None
    assert random_subsets({}, n_tokens=0, scores=SCORES) is None


def test_ungraded_prompts_have_no_score():
    """They are in the tokens, and in no mean."""
    ungraded = Samples(GradedPrompt((None, None), (0, 1)), (10, 10))
    subsets = random_subsets({0: samples([True, True]), 1: ungraded}, n_tokens=20, scores=SCORES)
    assert set(subsets.scores["passed"]) == {0}
    assert math.isclose(subsets.n_tokens, 20)
