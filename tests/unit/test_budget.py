import random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from eager.budget import (
    SETTLED,
    ExtraRounds,
    adapt_shares,
    label_shares,
    majority_certainty,
    round_threshold,
    saved_budget,
    vote_shares,
)


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


# -- EAGer-vote: not the paper's --------------------------------------------------------------------------------------

answers = st.none() | st.integers(0, 4)


@st.composite
def votes(draw):
    """(M, the classes of EAGer-init's answers a prompt, how each answers when asked for more, a seed)."""
    m = draw(st.integers(1, 16))
    groups = draw(st.lists(st.lists(answers, min_size=1, max_size=m), max_size=12))
    habits = [draw(st.lists(answers, min_size=1, max_size=4)) for _ in groups]
    return m, groups, habits, draw(st.integers(0, 1000))


def spend(m, groups, habits, seed, settled=SETTLED):
    """Rounds to the end, each tree with as many sequences as it is allowed, or fewer; yields every round."""
    rng = random.Random(seed)
    used = [len(answers) for answers in groups]
    groups = [list(answers) for answers in groups]
    while shares := vote_shares(groups, used, m, settled):
        yield [list(answers) for answers in groups], used, shares
        for index, share in shares.items():
            groups[index] += rng.choices(habits[index], k=rng.randint(1, share))
    yield groups, used, {}


@given(votes())
def test_votes_never_exceed_the_budget(run):
    """Whatever trees bring and answer, all rounds together stay within M * N, and no prompt gets more than 3 M."""
    m, *_ = run
    for groups, used, shares in spend(*run):
        assert sum(map(len, groups)) + sum(shares.values()) <= m * len(groups)
        assert all(0 < n <= max(1, m // 4) for n in shares.values())
        assert all(len(groups[i]) - used[i] + n <= 3 * m for i, n in shares.items())


@given(votes(), st.sampled_from([0.6, 0.8, 0.95, 0.999]))
def test_votes_go_where_answers_disagree(run, settled):
    """A prompt of one mind gets nothing, nor one whose majority is settled; the least certain come first."""
    for groups, _, shares in spend(*run, settled):
        certainties = [majority_certainty(groups[i]) for i in shares]
        assert all(certainty < settled for certainty in certainties)
        assert certainties == sorted(certainties)
        assert all(len(set(groups[i]) - {None}) != 1 for i in shares)


@given(votes())
def test_votes_end_only_when_all_is_settled_or_spent(run):
    """At the end either the budget is spent, or every prompt is of one mind, settled, or has its 3 M extra."""
    m, *_ = run
    *_, (groups, used, _) = spend(*run)
    if sum(map(len, groups)) < m * len(groups):
        for answers, n in zip(groups, used, strict=True):
            is_of_one_mind = len(set(answers) - {None}) == 1
            assert is_of_one_mind or majority_certainty(answers) >= SETTLED or len(answers) - n == 3 * m


@given(st.integers(0, 40), st.integers(0, 40))
def test_certainty_is_the_beta_posterior(first, second):
    """It is the integral of p^v1 (1-p)^v2 from 1/2 to 1 over that from 0 to 1."""
    p = (np.arange(200_000) + 0.5) / 200_000
    density = p ** max(first, second) * (1 - p) ** min(first, second)
    expected = density[p > 0.5].sum() / density.sum()
    assert majority_certainty([0] * first + [None] + [1] * second) == pytest.approx(expected, abs=1e-6)


def test_certainty_worked_by_hand():
    """Nobody in the lead: 1/2. One vote 3/4, two 7/8, four 31/32, the first to be settled; 3 to 1: 13/16."""
    cases = {"": 1 / 2, "ab": 1 / 2, "a": 3 / 4, "aa": 7 / 8, "aaaa": 31 / 32, "aaab": 13 / 16, "aaabcc": 21 / 32}
    for letters, certainty in cases.items():
        assert majority_certainty([ord(letter) for letter in letters]) == pytest.approx(certainty)
    assert majority_certainty([0] * 3) < SETTLED < majority_certainty([0] * 4)


def test_vote_round_worked_by_hand():
    """M = 8: two sequences each to the torn prompts, the most torn first, as far as the 5 that are left go."""
    groups = [[0] * 8, [0, 0, 1], [0], [0, 1], [0] * 6 + [1], [None, None], [0] * 8, [0] * 8, [0] * 8, [0] * 8]
    used = [len(answers) for answers in groups]
    groups[6] += [0] * (80 - sum(used) - 5)
    assert vote_shares(groups, used, 8) == {3: 2, 5: 2, 1: 1}
