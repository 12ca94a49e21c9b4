"""Properties of the tree, whatever the model says and however the engine delivers it."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eager.branch_rules import BRANCH_RULES
from eager.branching import Brancher
from eager.engines.scripted import ScriptedEngine, draw_scripted
from eager.entropy import RunningPercentile
from eager.generator import Generator
from eager.randomness import sequence_seed, uniform
from eager.types import (
    MAX_ENTROPY,
    BranchConfig,
    Close,
    Delta,
    Open,
    Request,
    SamplingParams,
    Stops,
    Token,
    TreeJob,
    Unmonitor,
)

PROMPT = (100, 101)
END, THINK_END = 0, 7
STOPS = Stops(frozenset({END}), (6, THINK_END))


def noisy(seed, p_end=0.05, vocabulary=30):
    """A script whose distribution at every prefix is random but fixed: sharp in places, flat in others."""

    def script(token_ids):
        rng = random.Random(hash((seed, *token_ids)))
        sharpness = rng.choice([0.2, 1, 5])
        weights = {token: math.exp(sharpness * rng.gauss(0, 1)) for token in range(1, vocabulary)}
        total = sum(weights.values()) / (1 - p_end)
        return {END: p_end, **{token: w / total for token, w in weights.items()}}

    return script


SAMPLING = SamplingParams()


def job_of(*, max_length=30, sampling=SAMPLING, seed=1, n_roots=1, record_entropies=False, **rules):
    """A tree of a few sequences, unless the rules say otherwise."""
    config = BranchConfig(**{"max_sequences": 6, "entropy_threshold": 2.0, **rules})
    return TreeJob(0, PROMPT, config, sampling, max_length, seed, n_roots, record_entropies=record_entropies)


def grow(script, *, stops=STOPS, engine_options=None, **options):
    generator = Generator(ScriptedEngine(script=script, stops=stops, **(engine_options or {})))
    generator.add(job_of(**options))
    ((_, generation),) = generator.run()
    return generation


rules = st.sampled_from(list(BRANCH_RULES))
trees = st.fixed_dictionaries(
    {
        "max_sequences": st.integers(1, 9),
        "entropy_threshold": st.floats(0.05, MAX_ENTROPY),
        "max_length": st.integers(3, 40),
        "branch_rule": rules,
        "max_tokens_without_branch": st.integers(1, 20),
        "threshold_percentile": st.none() | st.floats(0, 100),
        "varentropy_threshold": st.none() | st.floats(0, 3),
        "varentropy_max_entropy": st.floats(0.05, MAX_ENTROPY),
        "stop_after": st.none() | st.integers(1, 9),
    }
)


@given(st.integers(0, 10**6), trees)
@settings(max_examples=150, deadline=None)
def test_tree_invariants(seed, config):
    """At most M sequences; siblings share their prefix and differ at the fork; own tokens sum to the tokens kept."""
    tree = grow(noisy(seed), **config)
    assert 1 <= len(tree.sequences) <= config["max_sequences"]
    assert len(tree.branches) == len(tree.sequences) - 1
    for branch in tree.branches:
        parent, child = tree.sequences[branch.seq], tree.sequences[branch.new_seq]
        assert child.parent == branch.seq
        assert child.fork == branch.position
        assert parent.token_ids[: child.fork] == child.token_ids[: child.fork]
        assert parent.token_ids[branch.position] == branch.kept_id
        assert child.token_ids[branch.position] == branch.new_id
        if config["branch_rule"] != "sample":
            assert branch.kept_id != branch.new_id
        assert branch.threshold >= config["entropy_threshold"]
        if config["varentropy_threshold"] is None or branch.entropy > config["varentropy_max_entropy"]:
            assert branch.entropy > branch.threshold
    kept = {sequence.token_ids[:end] for sequence in tree.sequences for end in range(1, len(sequence.token_ids) + 1)}
    if config["branch_rule"] != "sample":  # independent draws may coincide
        assert tree.n_tokens == len(kept)
    assert tree.n_tokens_naive == sum(len(sequence.token_ids) for sequence in tree.sequences)


@given(st.integers(0, 10**6), trees)
@settings(max_examples=100, deadline=None)
def test_sequences_end_where_they_must(seed, config):
    """A sequence ends with a stop token, at max_length or with its tree; the last allowed token does not branch."""
    tree = grow(noisy(seed), **config)
    for sequence in tree.sequences:
        length = len(PROMPT) + len(sequence.token_ids)
        assert END not in sequence.token_ids[:-1]
        assert (sequence.finish_reason == "stop") == (sequence.token_ids[-1] == END)
        assert length == config["max_length"] if sequence.finish_reason == "length" else length <= config["max_length"]
        assert sequence.finish_reason != "cut" or config["stop_after"] is not None
    assert all(len(PROMPT) + branch.position + 1 < config["max_length"] for branch in tree.branches)


@given(st.integers(0, 10**6), trees, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_tree_does_not_depend_on_the_order_of_delivery(seed, config, rng):
    """An engine that delivers in any order, any number of tokens at a time, gives the very same tree."""
    script = noisy(seed)
    expected = grow(script, **config)
    brancher = Brancher(job_of(**config), STOPS)
    open_sequences = {}
    actions = brancher.start()
    while True:
        for action in actions:
            if isinstance(action, Open):
                open_sequences[action.seq] = (list(action.token_ids), action.monitor)
            elif isinstance(action, Close):
                del open_sequences[action.seq]
            elif isinstance(action, Unmonitor) and action.seq in open_sequences:
                open_sequences[action.seq] = (open_sequences[action.seq][0], False)
        if brancher.is_done:
            break
        chosen = rng.sample(sorted(open_sequences), rng.randint(1, len(open_sequences)))
        actions = brancher.observe(
            [(i, decode(script, open_sequences, i, rng.randint(1, 5), config["max_length"])) for i in chosen]
        )
    result = brancher.result()
    assert result.sequences == expected.sequences
    assert result.branches == expected.branches


def decode(script, open_sequences, index, n_tokens, max_length):
    """Some tokens of one sequence, as the scripted engine would decode them; takes it off when it ends."""
    tokens, monitor = open_sequences[index]
    engine = ScriptedEngine(script=script, stops=STOPS, tokens_per_step=n_tokens)
    engine.open(Request(index, tokens, SamplingParams(), max_length, sequence_seed(1, 0, index), monitor=monitor))
    (delta,) = engine.step()
    tokens.extend(token.id for token in delta.tokens)
    if delta.finish_reason:
        del open_sequences[index]
    return delta


@given(st.integers(0, 10**6), st.integers(1, 6), rules)
@settings(max_examples=60, deadline=None)
def test_a_threshold_of_ln_k_is_plain_sampling(seed, max_sequences, rule):
    """No entropy exceeds ln K: one sequence, token for token what sampling with its seed gives."""
    script = noisy(seed)
    tree = grow(script, max_sequences=max_sequences, entropy_threshold=MAX_ENTROPY, branch_rule=rule)
    tokens = list(PROMPT)
    while len(tokens) < 30 and tokens[-1] != END:
        tokens.append(draw_scripted(script(tokens), SamplingParams(), uniform(sequence_seed(1, 0, 0), len(tokens))))
    assert len(tree.sequences) == 1
    assert tree.sequences[0].token_ids == tuple(tokens[2:])


@given(st.integers(0, 10**6), st.integers(1, 12), rules)
@settings(max_examples=60, deadline=None)
def test_threshold_near_zero_saturates_every_long_tree(seed, max_sequences, rule):
    """Where no sequence ends early, a threshold near 0 gives exactly M sequences."""
    tree = grow(noisy(seed, p_end=0.0), max_sequences=max_sequences, entropy_threshold=1e-9, branch_rule=rule)
    assert len(tree.sequences) == max_sequences


def test_under_sample_sequences_are_exact_samples():
    """Under `sample` each of a tree's sequences has the distribution of an independent sample.

    A chain of two tokens with known probabilities; every one of 8 sequences is compared by chi-square at 0.1 %.
    """
    first, second = {1: 0.5, 2: 0.3, 3: 0.2}, {1: {4: 0.7, 5: 0.3}, 2: {4: 0.2, 5: 0.8}, 3: {4: 0.5, 5: 0.5}}
    n_trees, n_sequences = 3000, 6

    def script(token_ids):
        return first if len(token_ids) == 2 else second[token_ids[2]] if len(token_ids) == 3 else {1: 0.5, 2: 0.5}

    counts = [dict.fromkeys([(a, b) for a in first for b in (4, 5)], 0) for _ in range(n_sequences)]
    for seed in range(n_trees):
        tree = grow(
            script, seed=seed, max_sequences=n_sequences, entropy_threshold=0.3, max_length=6, branch_rule="sample",
            sampling=SamplingParams(temperature=1.0),
        )  # fmt: skip
        assert len(tree.sequences) == n_sequences
        for index, sequence in enumerate(tree.sequences):
            counts[index][sequence.token_ids[:2]] += 1
    for count in counts:
        expected = {(a, b): n_trees * first[a] * second[a][b] for a, b in count}
        chi_square = sum((count[k] - expected[k]) ** 2 / expected[k] for k in count)
        assert chi_square < 20.5  # 5 degrees of freedom


def test_top2_takes_the_two_most_likely_whatever_was_sampled():
    """The parent goes on with the most likely token, the child with the second; the sampled one is thrown away."""

    def script(token_ids):
        return {1: 0.4, 2: 0.3, 3: 0.3} if len(token_ids) == 2 else {END: 1.0}

    trees = [grow(script, seed=seed, max_sequences=2, entropy_threshold=1.0) for seed in range(20)]
    assert {t.branches[0].sampled_id for t in trees} == {1, 2, 3}
    assert all([s.token_ids for s in t.sequences] == [(1, END), (2, END)] for t in trees)
    assert all(t.discarded == (t.branches[0].sampled_id != 1) for t in trees)


def test_distinct_keeps_the_sampled_token_and_draws_another():
    """The parent keeps its draw; the child's differs from it and covers the rest of the top K."""

    def script(token_ids):
        return {1: 0.4, 2: 0.3, 3: 0.3} if len(token_ids) == 2 else {END: 1.0}

    trees = [grow(script, seed=s, max_sequences=2, entropy_threshold=1.0, branch_rule="distinct") for s in range(40)]
    assert all(t.branches[0].kept_id == t.branches[0].sampled_id and t.discarded == 0 for t in trees)
    assert {(t.branches[0].kept_id, t.branches[0].new_id) for t in trees} == {
        (a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b
    }


def test_a_stop_token_as_second_best_ends_the_child_at_birth():
    """The child counts as a sequence and is never opened."""

    def script(token_ids):
        return {1: 0.5, END: 0.4, 2: 0.1} if len(token_ids) == 2 else {1: 1.0}

    tree = grow(script, max_sequences=3, entropy_threshold=0.5, max_length=8)
    assert tree.sequences[1].token_ids == (END,)
    assert tree.sequences[1].finish_reason == "stop"
    assert len(tree.sequences) == 2


def test_a_stop_token_as_most_likely_closes_the_parent():
    """Whatever the parent sampled, it ends where the most likely token is a stop token; the child goes on."""

    def script(token_ids):
        return {END: 0.5, 1: 0.4, 2: 0.1} if len(token_ids) == 2 else {1: 1.0}

    for seed in range(10):
        tree = grow(script, seed=seed, max_sequences=2, entropy_threshold=0.5, max_length=8)
        assert tree.sequences[0].token_ids == (END,)
        assert tree.sequences[1].token_ids == (1,) * 6


def test_a_sequence_that_ends_at_the_token_that_branches_goes_on_with_the_kept_one():
    """A sampled stop token is taken back when another one is more likely."""

    def script(token_ids):
        return {1: 0.4, 2: 0.35, END: 0.25} if len(token_ids) == 2 else {1: 1.0}

    ended = [grow(script, seed=s, max_sequences=2, entropy_threshold=0.5, max_length=8) for s in range(30)]
    ended = [tree for tree in ended if tree.branches[0].sampled_id == END]
    assert ended
    assert all([s.token_ids for s in t.sequences] == [(1,) * 6, (2, 1, 1, 1, 1, 1)] for t in ended)


def test_no_branch_after_thinking():
    """Once the end-of-thinking run of ids is complete the sequence is unmonitored: no entropies, no branches."""

    def script(token_ids):
        at = len(token_ids) - 2
        return {6: 1.0} if at == 2 else {THINK_END: 1.0} if at == 3 else dict.fromkeys(range(10, 30), 1 / 20)

    tree = grow(script, max_sequences=50, entropy_threshold=1.0, max_length=12)
    assert {branch.position for branch in tree.branches} == {0, 1}
    for sequence in tree.sequences:
        assert all(e is not None for e in sequence.entropies[sequence.fork : 4])
        assert all(e is None for e in sequence.entropies[4:])


def test_half_an_end_marker_does_not_end_thinking():
    """Only the whole run of ids counts; its last id after another token is an ordinary token."""

    def script(token_ids):
        at = len(token_ids) - 2
        return {THINK_END: 1.0} if at == 2 else dict.fromkeys(range(10, 30), 1 / 20)

    tree = grow(script, max_sequences=50, entropy_threshold=1.0, max_length=8)
    assert {branch.position for branch in tree.branches} == {0, 1, 3, 4}


def test_what_ran_ahead_of_a_replaced_token_is_counted_as_discarded():
    """A sequence decoded three tokens beyond a branch that replaces its token threw four away."""
    brancher = Brancher(job_of(max_sequences=3, entropy_threshold=1.0), STOPS)
    brancher.start()

    def delta(ids, entropies):
        best = ([1, 2, 3], [-1.0, -1.1, -1.2])
        return Delta(0, [Token(i, entropy, *best) for i, entropy in zip(ids, entropies, strict=True)])

    brancher.observe([(0, delta([3], [2.0]))])  # branches at position 0: the sampled 3 is thrown away
    assert not brancher.observe([(0, delta([5, 3, 9, 9, 9], [0.1, 2.0, 0.1, 0.1, 0.1]))])  # waits for sequence 1
    actions = brancher.observe([(1, delta([5], [0.1]))])  # now position 2 of sequence 0 branches: 3 9 9 9 are gone
    assert actions[1] == Open(0, (*PROMPT, 1, 5, 1), parent=0, monitor=False)
    brancher.observe([(index, Delta(index, [Token(END)], finish_reason="stop")) for index in range(3)])
    assert brancher.result().discarded == 1 + 4
    assert [s.token_ids for s in brancher.result().sequences] == [(1, 5, 1, END), (2, 5, END), (1, 5, 2, END)]


def test_branching_ends_after_max_tokens_without_branch():
    """The phase ends when so many positions have passed since the last branch, or the start."""

    def script(token_ids):
        at = len(token_ids) - 2
        return dict.fromkeys(range(10, 30), 1 / 20) if at in (2, 6, 12) else {1: 1.0}

    tree = grow(script, max_sequences=50, max_length=30, max_tokens_without_branch=4)
    assert {branch.position for branch in tree.branches} == {2, 6}
    tree = grow(script, max_sequences=50, max_length=30, max_tokens_without_branch=2)
    assert not tree.branches
    assert tree.sequences[0].entropies[:2] == (0.0, 0.0)
    assert tree.sequences[0].entropies[2] is None


@given(st.integers(0, 10**6), rules, st.floats(0, 100) | st.sampled_from([50, 90, 99]), st.floats(0.05, 2))
@settings(max_examples=100, deadline=None)
def test_a_percentile_is_of_all_entropies_at_earlier_positions(seed, rule, percentile, threshold):
    """Every recorded threshold is numpy's percentile of the tree's own entropies before that position, or the floor.

    The entropy of a branch counts for both of its tokens, that of a stop token not at all. A token branches only above
    the threshold, and one above it does not branch only where it may not.
    """
    tree = grow(
        noisy(seed), branch_rule=rule, threshold_percentile=percentile, entropy_threshold=threshold, max_sequences=4
    )

    def threshold_at(position):
        seen = [
            entropy
            for sequence in tree.sequences
            for at in range(sequence.fork, min(position, len(sequence.token_ids)))
            if (entropy := sequence.entropies[at]) is not None and sequence.token_ids[at] != END
        ]
        return max(threshold, np.percentile(seen, percentile)) if seen else threshold

    assert [branch.threshold for branch in tree.branches] == [threshold_at(b.position) for b in tree.branches]
    branched = {(branch.seq, branch.position) for branch in tree.branches}
    for index, sequence in enumerate(tree.sequences):
        for at in range(sequence.fork + 1, len(sequence.token_ids)):
            entropy, is_last_allowed = sequence.entropies[at], len(PROMPT) + at + 1 == 30
            if entropy is not None and (index, at) not in branched and not is_last_allowed:
                assert entropy <= threshold_at(at) or len(tree.sequences) == 4


def test_all_sequences_of_a_position_see_the_same_past():
    """With a percentile of 100 only a record branches, and two sequences may set the same record at one position."""

    def script(token_ids):
        width = {0: 5, 1: 1, 2: 4, 3: 6, 4: 6}.get(len(token_ids) - 2, 1)
        return dict.fromkeys(range(1, 1 + width), 1 / width)

    tree = grow(script, max_sequences=9, threshold_percentile=100, entropy_threshold=0.1, max_length=12)
    assert [(branch.seq, branch.position) for branch in tree.branches] == [(0, 0), (0, 3), (1, 3)]
    assert [branch.threshold for branch in tree.branches] == [0.1, *[pytest.approx(math.log(5))] * 2]


streams = st.lists(st.floats(0, 3) | st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=120)


@given(streams, st.floats(0, 100) | st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_running_percentile_is_numpys_to_the_last_digit(values, percentile):
    """After every value it equals numpy's linear percentile of all so far, ties and both ends included."""
    running = RunningPercentile(percentile)
    for n, value in enumerate(values, start=1):
        running.add(value)
        assert running.value == np.percentile(values[:n], percentile)


def test_a_failed_sequence_is_an_error_not_an_answer():
    """A sequence the engine gave up carries its sentence; its siblings end as they would."""
    tree = grow(noisy(5, p_end=0.0), engine_options={"failing_positions": frozenset({12})}, max_sequences=3)
    assert {sequence.finish_reason for sequence in tree.sequences} == {"error"}
    assert all(sequence.error and len(sequence.token_ids) == 10 for sequence in tree.sequences)


def test_monitored_sequences_need_entropies():
    """An engine that forgets them is found out at once."""
    brancher = Brancher(job_of(), STOPS)
    brancher.start()
    with pytest.raises(ValueError, match="reported no entropies"):
        brancher.observe([(0, Delta(0, [Token(1)]))])


def test_parallel_roots_are_independent_plain_samples():
    """With M roots nothing is monitored, and each root draws with its own seed."""
    script = noisy(8)
    tree = grow(script, max_sequences=5, n_roots=5)
    assert len({sequence.token_ids for sequence in tree.sequences}) > 1
    assert all(e is None for sequence in tree.sequences for e in sequence.entropies)
    assert tree.sequences[0].token_ids == grow(script, max_sequences=1).sequences[0].token_ids


def test_parallel_roots_record_entropies_where_asked():
    """Every token has its entropy, and none is another for it."""
    script = noisy(8)
    plain, recorded = (grow(script, max_sequences=3, n_roots=3, record_entropies=asked) for asked in (False, True))
    assert [s.token_ids for s in recorded.sequences] == [s.token_ids for s in plain.sequences]
    assert all(e is not None for sequence in recorded.sequences for e in sequence.entropies)


@given(st.integers(0, 10**6), trees, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_a_tree_that_is_recorded_to_its_end_is_the_same_tree(seed, config, tokens_per_step):
    """Tokens, branches and what is recorded of the branching phase; beyond it nothing of its own is missing."""
    script, engine_options = noisy(seed), {"tokens_per_step": tokens_per_step}
    plain = grow(script, **config)
    recorded = grow(script, engine_options=engine_options, record_entropies=True, **config)
    assert recorded.branches == plain.branches
    for one, all_of_it in zip(plain.sequences, recorded.sequences, strict=True):
        assert one.token_ids == all_of_it.token_ids
        for few, many in ((one.entropies, all_of_it.entropies), (one.logprobs, all_of_it.logprobs)):
            assert all(a in (b, None) for a, b in zip(few, many, strict=True))
            assert all((value is None) == (i < one.fork) for i, value in enumerate(many))


@given(st.integers(0, 10**6), trees)
@settings(max_examples=80, deadline=None)
def test_log_probabilities_are_the_raw_ones_of_what_was_kept(seed, config):
    """Whether sampled, chosen by the rule, or outside the K best; known exactly where the entropy is."""
    script = noisy(seed)
    tree = grow(script, sampling=SamplingParams(temperature=3.0), **config)
    for sequence in tree.sequences:
        assert [e is None for e in sequence.entropies] == [p is None for p in sequence.logprobs]
        for position, logprob in enumerate(sequence.logprobs):
            if logprob is not None:
                probabilities = script(PROMPT + sequence.token_ids[:position])
                assert logprob == pytest.approx(math.log(probabilities[sequence.token_ids[position]]))
