"""The scores, against values worked by hand."""

import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, strategies as st

from eager import metrics
from eager.metrics import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    GradedPrompt,
    Score,
    cons_at_k,
    leading_groups,
    paired_differences,
    pass_at_curve,
    pass_at_k,
    pass_rate,
    per_prompt,
    prompt_consensus,
    prompt_pass_rate,
    prompt_passed,
    prompt_weighted_consensus,
    resampled_sums,
    summarise,
    unbiased_pass,
    weighted_cons_at_k,
)

# Ragged: four prompts with 1, 4, 3 and 2 sequences.
SOLVED_ALONE = GradedPrompt((True,), (0,))
MAJORITY_WRONG = GradedPrompt((True, False, False, False), (0, 1, 1, 2))
MAJORITY_RIGHT = GradedPrompt((False, True, True), (0, 1, 1))
UNSOLVED = GradedPrompt((False, False), (0, None))
RAGGED = [SOLVED_ALONE, MAJORITY_WRONG, MAJORITY_RIGHT, UNSOLVED]
UNGRADED = GradedPrompt((None, None), (0, None))

graded_prompts = st.lists(
    st.tuples(st.sampled_from([True, False, None]), st.sampled_from([None, 0, 1, 2])), min_size=0, max_size=7
).map(lambda pairs: GradedPrompt(tuple(c for c, _ in pairs), tuple(g for _, g in pairs)))


def test_pass_at_k_is_the_share_of_prompts_with_a_correct_sequence() -> None:
    """Three of four prompts hold a correct sequence, however many others they hold."""
    assert pass_at_k(RAGGED).value == 3 / 4


def test_pass_rate_is_a_mean_of_shares() -> None:
    """A prompt with four sequences weighs as much as one with a single one: (1 + 1/4 + 2/3 + 0) / 4."""
    assert pass_rate(RAGGED).value == pytest.approx((1 + 1 / 4 + 2 / 3 + 0) / 4)


def test_consensus_is_the_majority_answer() -> None:
    """The majority is right for two of the four, wrong where two wrong answers agree and where none is right."""
    score = cons_at_k(RAGGED)
    assert (score.value, score.ties) == (2 / 4, 0)


def test_a_sequence_without_an_answer_casts_no_vote() -> None:
    """Three sequences without an answer do not outvote one with the right one."""
    assert prompt_consensus(GradedPrompt((False, False, False, True), (None, None, None, 0))) == 1.0


def test_no_answer_at_all_is_a_wrong_consensus() -> None:
    """Sequences that were graded but gave no answer agree on nothing: 0, and no draw."""
    score = cons_at_k([GradedPrompt((False, False), (None, None))])
    assert (score.value, score.ties, score.n_prompts) == (0.0, 0, 1)


@pytest.mark.parametrize(
    ("first_correct", "value"), [(True, 1.0), (False, 0.0)], ids=["right answer first", "wrong answer first"]
)
def test_a_draw_goes_to_the_answer_that_appeared_first_and_is_counted(first_correct: bool, value: float) -> None:
    """Two votes each: the first to appear wins, even where the other got its second vote earlier."""
    drawn = GradedPrompt((first_correct, not first_correct, not first_correct, first_correct), (5, 2, 2, 5))
    score = cons_at_k([drawn])
    assert (score.value, score.ties) == (value, 1)


def test_a_draw_below_the_top_is_no_draw() -> None:
    """Only the leaders count: 2 votes against 1 and 1."""
    assert leading_groups(GradedPrompt((True,) * 4, (0, 1, 2, 1))) == (1,)


def test_prompts_with_nothing_graded_are_left_out() -> None:
    """An ungraded prompt changes no score, and n_prompts does not count it."""
    for score in (pass_at_k, pass_rate, cons_at_k):
        assert score([*RAGGED, UNGRADED]) == score(RAGGED)
        assert score([*RAGGED, UNGRADED]).n_prompts == 4
    assert pass_at_curve([*RAGGED, UNGRADED]) == pass_at_curve(RAGGED)


def test_ungraded_sequences_of_a_graded_prompt_do_not_count() -> None:
    """Of two graded and one ungraded sequence, one correct is a half."""
    assert prompt_pass_rate(GradedPrompt((True, None, False), (0, 1, 1))) == 1 / 2


def test_a_majority_nobody_graded_is_left_out() -> None:
    """If the winning answer has no grade, the prompt has no consensus score: it is not called wrong."""
    assert prompt_consensus(GradedPrompt((None, None, True), (0, 0, 1))) is None


@pytest.mark.parametrize("score", [pass_at_k, pass_rate, cons_at_k])
def test_no_prompts_give_no_value(score: Callable[[list[GradedPrompt]], Score]) -> None:
    """Over nothing (or nothing graded) there is None, not 0 and not NaN."""
    assert score([]) == Score(None, None, None, 0)
    assert score([UNGRADED]) == Score(None, None, None, 0)


def test_unbiased_pass_by_hand() -> None:
    """4 sequences, 1 correct: pass@1 = 1/4, pass@2 = 1 - C(3,2)/C(4,2) = 1/2, pass@3 = 3/4, pass@4 = 1."""
    assert [unbiased_pass(4, 1, j) for j in (1, 2, 3, 4)] == pytest.approx([1 / 4, 1 / 2, 3 / 4, 1])


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_unbiased_pass_is_the_share_of_draws_with_a_correct_one(grades: list[bool], data: st.DataObject) -> None:
    """It equals counting every way of drawing j of the sequences."""
    j = data.draw(st.integers(1, len(grades)))
    draws = list(combinations(grades, j))
    counted = sum(any(draw) for draw in draws) / len(draws)
    assert unbiased_pass(len(grades), sum(grades), j) == pytest.approx(counted)


def test_unbiased_pass_is_stable_for_many_sequences() -> None:
    """At n = 10,000 the binomials have thousands of digits; the product still agrees with their logarithms."""
    n, c, j = 10_000, 3, 5_000
    log_miss = sum(math.log(n - c - i) - math.log(n - i) for i in range(j))
    assert unbiased_pass(n, c, j) == pytest.approx(1 - math.exp(log_miss), rel=1e-9)


def test_pass_at_1_of_the_curve_is_the_pass_rate() -> None:
    """The curve's first point is the mean share correct."""
    equal = [GradedPrompt((True, False), (0, 1)), GradedPrompt((False, False), (0, 0))]
    assert pass_at_curve(equal)[0].value == pytest.approx(pass_rate(equal).value)


def test_the_curve_ends_at_the_smallest_prompt() -> None:
    """One prompt with a single sequence allows pass@1 only; without it pass@2 and no more."""
    assert len(pass_at_curve(RAGGED)) == 1
    assert len(pass_at_curve(RAGGED[1:])) == 2
    assert pass_at_curve([]) == ()


def own_unbiased_pass(prompt: GradedPrompt, j: int) -> float:
    """Of this prompt alone."""
    return unbiased_pass(len(prompt.graded), sum(prompt.graded), j)


def test_the_curve_holds_the_single_points() -> None:
    """Every point of the curve is the mean of the prompts' own chances, with that mean's interval."""
    prompts = dict(enumerate(RAGGED[1:3]))
    chances = [per_prompt(prompts, partial(own_unbiased_pass, j=j)) for j in (1, 2, 3)]
    none = dict.fromkeys(prompts, 0.0)
    assert pass_at_curve(list(prompts.values())) == tuple(paired_differences((chance, none) for chance in chances))


@given(st.lists(graded_prompts, max_size=8))
def test_scores_lie_inside_their_intervals_and_between_0_and_1(prompts: list[GradedPrompt]) -> None:
    """0 <= low <= high <= 1, whatever is graded, and the value lies between 0 and 1."""
    for score in (pass_at_k(prompts), pass_rate(prompts), cons_at_k(prompts), *pass_at_curve(prompts)):
        if score.value is not None and score.low is not None and score.high is not None:
            assert 0 <= score.low <= score.high <= 1 + 1e-12
            assert 0 <= score.value <= 1 + 1e-12


@given(st.lists(graded_prompts, max_size=8))
def test_the_pass_rate_never_exceeds_pass_at_k(prompts: list[GradedPrompt]) -> None:
    """A share of correct sequences above 0 means at least one is correct."""
    rate, passed = pass_rate(prompts).value, pass_at_k(prompts).value
    assert (rate is None and passed is None) or (rate is not None and passed is not None and rate <= passed + 1e-12)


def test_the_interval_is_the_bootstrap_of_a_share() -> None:
    """For 100 prompts, half of them solved, it is the normal approximation's: 0.5 +- 1.96 * 0.05, within 0.015."""
    score = pass_at_k([GradedPrompt((i % 2 == 0,), (0,)) for i in range(100)])
    assert score.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert score.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)


def test_the_interval_is_the_same_every_time() -> None:
    """Two computations of one score agree to the last bit."""
    assert summarise(RAGGED) == summarise(list(RAGGED))


def random_prompts(n: int, n_sequences: int = 6) -> list[GradedPrompt]:
    """`n` prompts of different difficulty, every sequence of which is graded."""
    random = Random(n)
    prompts = []
    for _ in range(n):
        skill = random.random()
        correct = tuple(random.random() < skill for _ in range(n_sequences))
        prompts.append(GradedPrompt(correct, tuple(0 if right else random.choice([None, 1, 2]) for right in correct)))
    return prompts


def plain_bootstrap(scores: list[float]) -> tuple[float, float]:
    """The interval as a text book has it: the whole matrix of draws at once."""
    n = len(scores)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES)
    low, high = np.percentile(drawn @ np.array(scores).reshape(-1, 1) / n, [2.5, 97.5], axis=0)
    return float(low[0]), float(high[0])


@pytest.mark.parametrize("n", [1, 2, 30, 198, 500])
def test_every_interval_is_the_plain_bootstrap_to_the_last_digit(n: int) -> None:
    """Sharing the draws between scores changes no figure: each is what it would be on its own."""
    prompts = random_prompts(n)
    summary = summarise(prompts)
    assert (summary.pass_at_k.low, summary.pass_at_k.high) == plain_bootstrap(list(map(prompt_passed, prompts)))
    assert (summary.pass_rate.low, summary.pass_rate.high) == plain_bootstrap(list(map(prompt_pass_rate, prompts)))
    assert (summary.cons_at_k.low, summary.cons_at_k.high) == plain_bootstrap(list(map(prompt_consensus, prompts)))
    for j, score in enumerate(summary.pass_at_curve, start=1):
        alone = plain_bootstrap([own_unbiased_pass(prompt, j) for prompt in prompts])
        assert (score.low, score.high) == pytest.approx(alone, abs=1e-12)


def test_draws_in_pieces_are_the_draws_at_once() -> None:
    """3,000 prompts do not fit one piece; the interval is still that of the whole matrix."""
    prompts = random_prompts(3000)
    assert 3000 * RESAMPLES > metrics._PIECE
    summary = summarise(prompts)
    # Sums of zeros and ones are exact, whatever their order.
    assert (summary.pass_at_k.low, summary.pass_at_k.high) == plain_bootstrap(list(map(prompt_passed, prompts)))
    rates = plain_bootstrap(list(map(prompt_pass_rate, prompts)))
    assert (summary.pass_rate.low, summary.pass_rate.high) == pytest.approx(rates, abs=1e-12)


def test_the_bootstrap_of_many_prompts_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 prompts take less than 64 MB, where all draws of even these 80 resamples would take 64 MB twice."""
    monkeypatch.setattr(metrics, "RESAMPLES", 80)
    table = np.random.default_rng(1).random((100_000, 4))
    tracemalloc.start()
    (sums,) = resampled_sums([table])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sums.mean(axis=0) == pytest.approx(table.sum(axis=0), rel=1e-2)
    assert peak < 64e6


@pytest.mark.parametrize("n", [7, 3000])
def test_scores_over_the_same_prompts_share_one_drawing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples are drawn once for all scores of an experiment, in one piece or in several."""
    drawings = []
    draw = metrics._drawn
    monkeypatch.setattr(metrics, "_drawn", lambda n: drawings.append(n) or draw(n))
    summarise(random_prompts(n))
    assert drawings == [n]


def test_without_intervals_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores alone are the same scores, and cost no resampling."""
    whole = summarise(RAGGED)
    monkeypatch.delattr(metrics, "_drawn")
    bare = summarise(RAGGED, with_intervals=False)
    assert [bare.pass_at_k.value, bare.cons_at_k.value, bare.pass_rate.value, bare.pass_at_curve[0].value] == [
        whole.pass_at_k.value,
        whole.cons_at_k.value,
        whole.pass_rate.value,
        whole.pass_at_curve[0].value,
    ]
    assert (bare.pass_rate.low, bare.pass_rate.high, bare.pass_rate.n_prompts) == (None, None, 4)


def test_equal_prompts_leave_no_doubt() -> None:
    """Where every prompt has the same score, the interval is that score."""
    score = pass_rate([GradedPrompt((True, False), (0, 1))] * 7)
    assert (score.low, score.value, score.high) == pytest.approx((0.5, 0.5, 0.5))


def one_difference(a: dict[int, float], b: dict[int, float]) -> Score:
    (score,) = paired_differences([(a, b)])
    return score


def test_the_paired_difference_is_over_shared_prompts() -> None:
    """Only prompts 1 and 2 are in both: ((1 - 0) + (0.5 - 0)) / 2."""
    difference = one_difference({0: 1.0, 1: 1.0, 2: 0.5}, {1: 0.0, 2: 0.0, 3: 1.0})
    assert (difference.value, difference.n_prompts) == (0.75, 2)


def test_pairing_is_sharper_than_two_intervals() -> None:
    """A constant gain over prompts of very different difficulty is certain, though each score alone is not."""
    a = {i: 0.1 + 0.8 * (i % 2) for i in range(20)}
    difference = one_difference(a, {i: value - 0.1 for i, value in a.items()})
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))


def test_differences_together_are_the_differences_apart() -> None:
    """Pairs over the same prompts, and one over others, each get the interval that they have alone."""
    a, b = {i: i / 20 for i in range(20)}, {i: (i % 3) / 2 for i in range(20)}
    pairs = [(a, b), (b, a), (a, {3: 0.5, 4: 1.0})]
    assert paired_differences(pairs) == [one_difference(*pair) for pair in pairs]


def test_no_shared_prompt_gives_no_difference() -> None:
    """Two experiments over different prompts cannot be compared."""
    assert one_difference({0: 1.0}, {1: 1.0}) == Score(None, None, None, 0)


def test_per_prompt_scores_leave_out_what_has_none() -> None:
    """Prompts keep their index; the ungraded one is not there."""
    prompts = {3: SOLVED_ALONE, 4: UNGRADED, 7: UNSOLVED}
    assert per_prompt(prompts, prompt_passed) == {3: 1.0, 7: 0.0}


def test_the_summary_counts_everything() -> None:
    """Prompts, sequences, ungraded ones and those without an answer, ungraded prompts included."""
    summary = summarise([*RAGGED, UNGRADED])
    counts = (summary.n_prompts, summary.n_sequences, summary.n_ungraded, summary.n_without_answer)
    assert counts == (5, 12, 2, 2)
    assert (summary.pass_at_k, summary.cons_at_k, summary.pass_rate) == (
        pass_at_k(RAGGED),
        cons_at_k(RAGGED),
        pass_rate(RAGGED),
    )


def test_grades_and_groups_must_match() -> None:
    """A prompt with two grades and one group is refused."""
    with pytest.raises(ValueError, match="2 grades but 1 groups"):
        GradedPrompt((True, False), (0,))


@given(graded_prompts, st.floats(0.5, 4))
def test_equal_weights_are_the_plain_vote(prompt: GradedPrompt, weight: float) -> None:
    """Where all votes weigh alike, the weighted consensus is the majority's, draws included."""
    weights = (float(round(weight * 8)) / 8,) * len(prompt.groups)  # sums of eighths are exact
    weighted = GradedPrompt(prompt.correct, prompt.groups, weights)
    assert prompt_weighted_consensus(weighted) == prompt_consensus(prompt)


def test_a_heavy_vote_outweighs_two_light_ones() -> None:
    """Weights decide: one vote of 3 against two of 1; no weight is asked of who does not vote."""
    prompt = GradedPrompt((False, True, False, None), (0, 1, 0, None), (1.0, 3.0, 1.0, None))
    assert (prompt_weighted_consensus(prompt), prompt_consensus(prompt)) == (1.0, 0.0)


def test_a_vote_without_weight_leaves_its_prompt_out() -> None:
    """Half a weighted vote is none: such prompts are not in the mean, and those without answers are wrong."""
    unknown = GradedPrompt((True, False), (0, 1), (2.0, None))
    silent = GradedPrompt((False,), (None,), (None,))
    score = weighted_cons_at_k([unknown, silent, SOLVED_ALONE, GradedPrompt((True,), (0,), (1.0,))])
    assert (score.value, score.n_prompts) == (1 / 2, 2)
    with pytest.raises(ValueError, match="1 weights but 2 groups"):
        GradedPrompt((True, False), (0, 1), (1.0,))
