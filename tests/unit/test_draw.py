"""Sampling and the K best in numpy, against straightforward computation."""

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from eager.engines._draw import NoDistributionError, best_k, draw
from eager.types import TEMPERATURES, SamplingParams

rows = hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-20, 20, width=32))


@given(rows, st.integers(1, 25))
@settings(deadline=None)
def test_best_k_is_what_sorting_gives(row, k):
    """The k largest, most likely first, equal ones by id, with their log-probabilities over the whole vocabulary."""
    ids, logprobs = best_k(row[None], k)
    expected = np.argsort(-row, kind="stable")[:k]
    assert ids[0].tolist() == expected.tolist()
    exact = row.astype(np.float64)
    assert logprobs[0] == pytest.approx(exact[expected] - np.log(np.exp(exact).sum()), abs=1e-4)


@given(rows, st.floats(0, 1, exclude_max=True), st.floats(0.1, 3))
@settings(deadline=None)
def test_draw_inverts_the_cumulative_distribution(row, u, temperature):
    """u falls into the drawn token's share of [0, 1)."""
    token = draw(row, SamplingParams(temperature=temperature), u)
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    cumulative = np.cumsum(weights) / weights.sum()
    assert (cumulative[token - 1] if token else 0) - 1e-5 <= u <= cumulative[token] + 1e-5


def nucleus(row, sampling):
    """The tokens that may be drawn, by sorting: all of them at a `top_p` of 1, however little the last ones weigh."""
    p = np.exp((row.astype(np.float64) - row.max()) / sampling.temperature)
    order = [i for i in np.argsort(-p, kind="stable") if p[i] >= sampling.min_p]
    order = order[: sampling.top_k or None]
    total, kept, mass = sum(p[i] for i in order), [], 0.0
    for i in order:
        kept.append(int(i))
        mass += p[i]
        if sampling.top_p < 1 and mass >= sampling.top_p * total:
            break
    return kept


_STEPS = st.integers(-512, 512).map(lambda step: step / 64)  # so far apart that their weights differ, too


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=_STEPS, unique=True),
    st.builds(SamplingParams, st.floats(0.3, 2), st.floats(0.05, 1), st.integers(0, 50), st.floats(0, 0.5)),
)
@example(np.array([-3.203125, 8], dtype=np.float32), SamplingParams(0.3046875))  # u = 0 draws a weight of 1e-16
@settings(deadline=None, max_examples=200)
def test_truncation_keeps_the_nucleus(row, sampling):
    """min_p, top_k and top_p, in this order: draws cover what sorting keeps (rounding at its edge aside)."""
    allowed = nucleus(row, sampling)
    drawn = {draw(row, sampling, u) for u in np.linspace(0, 0.999999, 400)}
    looser = SamplingParams(
        sampling.temperature, min(1.0, sampling.top_p + 1e-4), sampling.top_k, max(0.0, sampling.min_p - 1e-4)
    )
    assert drawn <= set(nucleus(row, looser))
    p = np.exp((row.astype(np.float64) - row.max()) / sampling.temperature)
    likely = {i for i in allowed[:-1] if p[i] / p[allowed].sum() > 0.01}
    assert likely <= drawn


def test_a_token_of_no_weight_is_never_drawn():
    """-inf logits have probability 0, at both ends of [0, 1) and across block borders."""
    row = np.full(200, -np.inf, dtype=np.float32)
    row[[63, 64, 130]] = 0
    drawn = [draw(row, SamplingParams(), u) for u in np.linspace(0, 1 - 1e-12, 1000)]
    assert set(drawn) == {63, 64, 130}
    assert np.bincount(drawn)[63] == pytest.approx(333, abs=2)


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(top_p=0.9, top_k=5, min_p=0.1)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_distribution_are_refused(value, sampling):
    """One nan or inf is enough; -inf says that a token is impossible, so all of them must be."""
    row = np.zeros(300, dtype=np.float32)
    row[:] = value if value == -np.inf else row
    row[77] = value
    with pytest.raises(NoDistributionError, match="not numbers, or infinite"):
        draw(row, sampling, 0.5)


@pytest.mark.parametrize("sampling", [SamplingParams(t, p) for t in TEMPERATURES for p in (1.0, 0.9)])
def test_the_most_extreme_temperatures_draw(sampling):
    """The coldest takes the largest logit; the hottest takes any that is possible, whatever the logits' range."""
    row = np.array([-np.inf, -80, 0.5, 80, 81], dtype=np.float32)
    drawn = {draw(row, sampling, u) for u in np.linspace(0, 1 - 1e-12, 100)}
    assert drawn == ({4} if sampling.temperature < 1 else {1, 2, 3, 4})
