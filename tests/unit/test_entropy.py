import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from eager.entropy import top_k_entropy, top_k_varentropy
from eager.types import ENTROPY_TOP_K, MAX_ENTROPY, MAX_VARENTROPY

logprob_rows = st.lists(st.floats(-30, 0), min_size=1, max_size=40)


def test_uniform_tokens_have_entropy_ln_k():
    """K equally likely tokens have the largest entropy there is, ln K."""
    assert top_k_entropy([-5.0] * ENTROPY_TOP_K) == pytest.approx(MAX_ENTROPY)
    assert pytest.approx(2.995732) == MAX_ENTROPY


def test_one_certain_token_has_no_entropy():
    """A token of probability 1 leaves no uncertainty, and -inf beside it does no harm."""
    assert top_k_entropy([0.0, -math.inf, -math.inf]) == 0


def test_worked_by_hand():
    """Probabilities 1/2, 1/4, 1/4 give 1.5 ln 2."""
    assert top_k_entropy(np.log([0.5, 0.25, 0.25])) == pytest.approx(1.5 * math.log(2))


def test_the_k_plus_first_entry_does_not_count():
    """vLLM returns K+1 entries when the sampled token is outside the top K; the smallest is cut."""
    row = np.linspace(-1, -5, ENTROPY_TOP_K)
    assert top_k_entropy([-9.0, *row]) == pytest.approx(float(top_k_entropy(row)))


@given(logprob_rows, st.floats(-50, 50))
def test_bounds_and_invariance(row, shift):
    """0 <= H <= ln K, whatever the order and whatever constant is added."""
    entropy = float(top_k_entropy(row))
    assert 0 <= entropy <= MAX_ENTROPY + 1e-12
    assert float(top_k_entropy(np.array(row[::-1]) + shift)) == pytest.approx(entropy, abs=1e-9)


def test_rows_are_independent():
    """A batch gives what its rows give alone."""
    rows = np.random.default_rng(0).normal(size=(5, 20)) * 3
    assert top_k_entropy(rows) == pytest.approx([float(top_k_entropy(row)) for row in rows])


@given(logprob_rows, st.floats(-50, 50))
def test_varentropy_is_the_variance_of_the_surprisal(row, shift):
    """Σ p̃ (-ln p̃ - H)² of the K largest, whatever the order and whatever constant is added; within its bound."""
    best = np.sort(row)[-ENTROPY_TOP_K:]
    p = np.exp(best - best.max())
    p /= p.sum()
    expected = float((p * (-np.log(p) - top_k_entropy(row)) ** 2).sum())
    varentropy = top_k_varentropy([logprob + shift for logprob in row[::-1]])
    assert varentropy == pytest.approx(expected, abs=1e-9)
    assert 0 <= varentropy < MAX_VARENTROPY


def test_varentropy_is_high_between_certain_and_uniform():
    """None where a token is certain or all are alike; one token against many others has nearly the most there is."""
    assert top_k_varentropy([0.0, -math.inf]) == 0
    assert top_k_varentropy([-3.0] * ENTROPY_TOP_K) == 0
    torn = [math.log(0.75), *[math.log(0.25 / 19)] * 19]
    assert top_k_varentropy(torn) > 0.95 * MAX_VARENTROPY
    assert top_k_entropy(torn) < 1.5
