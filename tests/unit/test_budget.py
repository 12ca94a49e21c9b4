import pytest
from hypothesis import given, strategies as st

from eager.budget import ExtraRounds, adapt_shares, label_shares, round_threshold, saved_budget


@st.composite
def runs(draw):
    """(M, sequences used a prompt, whether solved)."""
    m = draw(st.integers(1, 40))
    used = draw(st.lists(st.integers(1, m), max_size=60))
    solved = draw(st.lists(st.booleans(), min_size=len(used), max_size=len(used)))
    return m, used, solved


@given(runs())
def test_neither_policy_exceeds_the_budget(run):
    """Used and extra sequences together are at most M * N, for any mix of lengths and outcomes."""
    m, used, solved = run
    for shares in (adapt_shares(used, m), label_shares(used, solved, m)):
        assert sum(used) + sum(shares.values()) <= m * len(used)
        assert all(n > 0 for n in shares.values())


@given(runs())
def test_adapt_gives_to_the_saturated_only_and_at_most_3m(run):
    """EAGer-adapt knows no labels: extra goes to prompts that reached M, evenly, up to 3 M each."""
    m, used, _ = run
    shares = adapt_shares(used, m)
    assert all(used[i] == m and n <= 3 * m for i, n in shares.items())
    assert not shares or max(shares.values()) - min(shares.values()) <= 1


@given(runs())
def test_labels_give_to_the_unsolved_only_and_at_most_m(run):
    """EAGer gives to prompts without a correct sequence, up to M each."""
    m, used, solved = run
    assert all(not solved[i] and n <= m for i, n in label_shares(used, solved, m).items())


@given(runs())
def test_nothing_is_held_back_while_somebody_could_take_it(run):
    """Budget is left only where every entitled prompt has its cap."""
    m, used, solved = run
    saved = saved_budget(used, m)
    for shares, cap, entitled in (
        (adapt_shares(used, m), 3 * m, [n == m for n in used]),
        (label_shares(used, solved, m), m, [not s for s in solved]),
    ):
        assert sum(shares.values()) == saved or all(shares.get(i, 0) == cap for i, e in enumerate(entitled) if e)


def test_adapt_worked_by_hand():
    """M = 4, used 4 1 4 2: 5 saved, split 3 and 2 over the saturated."""
    assert adapt_shares([4, 1, 4, 2], 4) == {0: 3, 2: 2}


def test_labels_prefer_saturated_prompts():
    """With less budget than prompts, one each to the first, the saturated before the others."""
    assert label_shares([3, 4, 4, 4], [False, False, False, True], 4) == {1: 1}
    assert label_shares([2, 4, 1, 4], [False, False, True, True], 4) == {1: 3, 0: 2}


def test_thresholds_by_round():
    """Saturated: θ twice, then 0.9 θ for good. Unsaturated: a fifth less each round, from the third a tenth more."""
    saturated = [round_threshold(2.0, r, lower_every_round=False) for r in (1, 2, 3, 4, 50)]
    assert saturated == pytest.approx([2.0, 2.0, 1.8, 1.8, 1.8])
    unsaturated = [round_threshold(2.0, r, lower_every_round=True) for r in (1, 2, 3, 4)]
    assert unsaturated == pytest.approx([1.6, 1.28, 2 * 0.8**3 * 0.9, 2 * 0.8**4 * 0.9**2])


@given(st.floats(0.05, 2.99), st.booleans())
def test_thresholds_are_those_of_the_published_loop(theta, lower_every_round):
    """Round by round as the published code computes them: the same but for rounding."""
    current = theta
    for r in range(1, 12):
        current = current - current * 0.2 if lower_every_round else theta
        if r > 2:
            current = current - current * 0.1
        assert round_threshold(theta, r, lower_every_round=lower_every_round) == pytest.approx(current)


def test_rounds_go_on_until_the_share_is_had():
    """Every round asks for what is still missing, and no round may bring more."""
    rounds = ExtraRounds(5, 2.0, lower_every_round=False)
    rounds.finish_round(3)
    assert (rounds.n_missing, rounds.round_number, rounds.is_done) == (2, 2, False)
    with pytest.raises(ValueError, match="cannot have brought 3"):
        rounds.finish_round(3)
    rounds.finish_round(2)
    assert rounds.is_done
