"""Trees replayed under other rules, against trees that were really grown under them."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from test_branching import PROMPT, STOPS, noisy

from eager.branching import BRANCH_RULES
from eager.engines.scripted import ScriptedEngine, draw_scripted
from eager.generator import Generator
from eager.metrics import prompt_consensus, prompt_pass_rate, prompt_passed
from eager.randomness import uniform
from eager.replay.bounds import prompt_bounds, replay_result
from eager.replay.tree import KNOWN_RULES, Replayed, replay_parallel, replay_tree
from eager.results.scores import graded_prompt
from eager.store.records import PromptRecord, SequenceRecord, from_line, to_line
from eager.types import MAX_ENTROPY, Branch, BranchConfig, SamplingParams, Token, TreeJob, rules_set

MAX_LENGTH = 30
SCORES = {"pass_at_k": prompt_passed, "cons_at_k": prompt_consensus, "pass_rate": prompt_pass_rate}


class DrawsByText(ScriptedEngine):
    """Draws by what stands before and not by the sequence: one born as another number than recorded is the same."""

    def _next_token(self, sequence):
        first = super()._next_token(sequence)
        before = sequence.tokens[:-1]
        token_id = draw_scripted(self._script(before), sequence.request.sampling, uniform(hash(tuple(before)), 0))
        sequence.tokens[-1] = token_id
        return Token(token_id, *first[1:])


def grown(script, rules, engine_class=ScriptedEngine, n_roots=1, seed=1):
    """The record of a tree, as the journal gives it back; right or wrong by its tokens."""
    generator = Generator(engine_class(script=script, stops=STOPS))
    generator.add(TreeJob(0, PROMPT, rules, SamplingParams(), MAX_LENGTH, seed, n_roots=n_roots))
    ((_, tree),) = generator.run()
    sequences = []
    for item in tree.sequences:
        answer = sum(item.token_ids) % 3
        own, entropies = item.token_ids[item.fork :], item.entropies[item.fork :]
        sequences.append(
            SequenceRecord(
                own, entropies, str(item.token_ids), item.finish_reason, item.parent, item.fork, str(answer),
                correct=answer == 0, group=answer,
            )
        )  # fmt: skip
    record = PromptRecord("eager_init_th1", 0, "?", "?", "0", tuple(sequences), tree.branches)
    return from_line(json.loads(json.dumps(to_line(record))))


def contents(sequences):
    return [(s.token_ids, s.parent, s.fork, s.finish_reason, s.text) for s in sequences]


def places(branch):
    """A branch but for its threshold, which a percentile of rounded entropies may have made."""
    return replace(branch, threshold=0)


rules = st.builds(
    BranchConfig,
    max_sequences=st.integers(1, 8),
    entropy_threshold=st.floats(0.1, 2.3),
    branch_rule=st.sampled_from(sorted(BRANCH_RULES)),
    threshold_percentile=st.none() | st.sampled_from([50.0, 90.0, 99.0]),
    max_tokens_without_branch=st.integers(1, 20),
)
scripts = st.builds(noisy, st.integers(0, 10**6), vocabulary=st.sampled_from([9, 30]))


def other(rules, max_sequences, entropy_threshold):
    return replace(rules, max_sequences=max_sequences, entropy_threshold=entropy_threshold)


@given(scripts, rules)
@settings(max_examples=200, deadline=None)
def test_at_the_recorded_settings_it_is_the_recorded_tree(script, rules):
    """Sequence for sequence and branch for branch, through the journal's rounding."""
    record = grown(script, rules)
    replayed = replay_tree(record, rules, rules)
    assert replayed.is_exact
    assert (replayed.sequences, replayed.branches) == (record.sequences, record.branches)


def check(replayed, actual):
    """Where the replay is exact it is the actual tree; elsewhere its bounds contain it."""
    if replayed.is_exact:
        assert contents(replayed.sequences) == contents(actual.sequences)
        assert [places(branch) for branch in replayed.branches] == [places(branch) for branch in actual.branches]
        assert all(
            math.isclose(a.threshold, b.threshold, abs_tol=1e-4)
            for a, b in zip(replayed.branches, actual.branches, strict=True)
        )
    bounds = prompt_bounds(replayed, MAX_LENGTH - len(PROMPT))
    assert bounds.n_sequences.low <= len(actual.sequences) <= bounds.n_sequences.high
    assert bounds.n_tokens.low <= actual.n_tokens <= bounds.n_tokens.high
    for name, score in SCORES.items():
        found = getattr(bounds, name)
        assert found.low - 1e-12 <= score(graded_prompt(actual)) <= found.high + 1e-12
    if replayed.is_exact:
        assert bounds.n_tokens.low == bounds.n_tokens.high
    for seq, sequence in enumerate(replayed.sequences):
        if seq not in replayed.cut:
            assert contents([sequence]) == contents([actual.sequences[seq]])


@given(scripts, rules, st.data())
@settings(max_examples=300, deadline=None)
def test_with_fewer_sequences_it_is_what_a_run_would_be(script, rules, data):
    """At a smaller M the replay equals a real tree, number by number, or its bounds contain it."""
    asked = other(rules, data.draw(st.integers(1, rules.max_sequences)), rules.entropy_threshold)
    replayed = replay_tree(grown(script, rules), rules, asked)
    check(replayed, grown(script, asked))
    assert replayed.n_more == 0
    assert replayed.is_exact or rules.branch_rule == "top2"


@given(scripts, rules.filter(lambda r: r.branch_rule != "distinct"), st.data())
@settings(max_examples=400, deadline=None)
def test_at_a_higher_threshold_it_is_what_a_run_would_be(script, rules, data):
    """The same where the threshold is higher, of a model whose draws do not depend on a sequence's number."""
    threshold = data.draw(st.floats(rules.entropy_threshold, MAX_ENTROPY))
    asked = other(rules, data.draw(st.integers(1, rules.max_sequences)), threshold)
    check(replay_tree(grown(script, rules, DrawsByText), rules, asked), grown(script, asked, DrawsByText))


# -- one tree by hand: a root of six tokens that branched at 1 (kept what it had sampled) and at 3 (threw it away) ---

HAND = BranchConfig(max_sequences=3, entropy_threshold=1.0)


def hand_made():
    root = SequenceRecord((1, 2, 3, 9, 5, 0), (0.5, 1.2, 0.5, 1.4, None, None), "r", "stop", correct=True, group=0)
    first = SequenceRecord((7, 4, 0), (1.2, 0.1, None), "a", "stop", 0, 1, correct=False, group=1)
    second = SequenceRecord((8, 0), (1.4, None), "b", "stop", 0, 3, correct=True, group=0)
    branches = (
        Branch(0, 1, 1.2, 1.0, 1, sampled_id=2, kept_id=2, new_id=7),
        Branch(0, 3, 1.4, 1.0, 2, sampled_id=6, kept_id=9, new_id=8),
    )
    return PromptRecord("eager_init_th1", 0, "?", "?", "0", (root, first, second), branches)


def bounds_at(max_sequences, threshold):
    replayed = replay_tree(hand_made(), HAND, other(HAND, max_sequences, threshold))
    return replayed, prompt_bounds(replayed, longest=10)


def test_a_branch_that_does_not_come_and_threw_a_token_away_cuts_its_sequence():
    """With two sequences the root goes on at 3 as it sampled: that is not in the record."""
    replayed, bounds = bounds_at(2, 1.0)
    assert (len(replayed.sequences), replayed.cut, replayed.n_more) == (2, {0}, 0)
    assert bounds.n_tokens == (4 + 3, 10 + 3)
    assert bounds.pass_at_k == (0, 1)
    assert bounds.cons_at_k == (0, 1)
    assert bounds.pass_rate == (0, 0.5)


def test_a_branch_that_does_not_come_and_kept_its_token_changes_nothing():
    """Above 1.2 the first branch does not come; the tree then has room where the recorded one was full."""
    replayed, bounds = bounds_at(3, 1.3)
    assert [(s.parent, s.fork) for s in replayed.sequences] == [(None, 0), (0, 3)]
    assert (replayed.cut, replayed.n_more) == ({0, 1}, 1)  # unmonitored from 4 on: both may branch there
    assert bounds.n_sequences == (2, 3)
    replayed, bounds = bounds_at(2, 1.3)
    assert replayed.is_exact
    assert (bounds.n_tokens, bounds.pass_rate) == ((8, 8), (1, 1))


def test_votes_that_nobody_can_catch_up_with_are_settled():
    """Three equal votes stand against one unknown; two do not stand against two."""
    right, wrong = (SequenceRecord((1,), (None,), "", "stop", correct=c, group=g) for c, g in ((True, 0), (False, 1)))
    settled = prompt_bounds(Replayed((right, right, right, wrong), n_more=1), 5)
    open_ = prompt_bounds(Replayed((right, right, wrong), n_more=1), 5)
    assert settled.cons_at_k == (1, 1)
    assert open_.cons_at_k == (0, 1)


def test_a_parallel_run_is_replayed_by_its_first_sequences():
    """The sequences of a run of two are the first two of a run of four."""
    rules = BranchConfig(4, 1.0)
    four, two = (grown(noisy(3), replace(rules, max_sequences=n), n_roots=n) for n in (4, 2))
    assert replay_parallel(four, 2).sequences == two.sequences


def test_prompts_together():
    """Numbers add up, scores are means of both bounds, and what is not graded is not counted as wrong."""
    exact = prompt_bounds(replay_tree(hand_made(), HAND, HAND), 10)
    cut = bounds_at(2, 1.0)[1]
    ungraded = prompt_bounds(Replayed(hand_made().sequences, n_more=1), math.inf, is_graded=False)
    result = replay_result([exact, cut, ungraded])
    assert (result.n_prompts, result.n_exact) == (3, 1)
    assert result.n_sequences == (3 + 2 + 3, 3 + 2 + 4)
    assert result.n_tokens == (11 + 7 + 11, math.inf)
    assert (result.pass_at_k.low.value, result.pass_at_k.high.value, result.pass_at_k.low.n_prompts) == (0.5, 1, 2)


@pytest.mark.parametrize("asked", [{"max_sequences": 4}, {"entropy_threshold": 0.9}, {"branch_rule": "sample"}])
def test_what_the_record_does_not_hold_is_refused(asked):
    """More sequences, a lower threshold, another rule."""
    with pytest.raises(ValueError, match="with fewer sequences and at a higher threshold only"):
        replay_tree(hand_made(), HAND, replace(HAND, **asked))


def test_a_tree_that_more_rules_have_shaped_is_told_by_them():
    """Rules that a later version may add are found by their defaults, whatever they are called."""
    assert rules_set(HAND) <= KNOWN_RULES
    assert rules_set(BranchConfig(3, 1.0, "sample", 99.0, 7)) == KNOWN_RULES
