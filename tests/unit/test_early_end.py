"""Trees that end before all of their sequences have: `stop_after`, and who is asked whether they are settled."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from test_branching import END, PROMPT, STOPS, grow, job_of, noisy, trees

from eager.branching import Brancher
from eager.engines.scripted import ScriptedEngine
from eager.entropy import top_k_varentropy
from eager.generator import Generator
from eager.types import BranchConfig, Delta, Generation, SequenceResult, Token

seeds = st.integers(0, 10**6)


def cut_at(tree: Generation, length: int) -> Generation:
    """The tree as it was when its sequences had grown so long, in step."""
    kept = [sequence for sequence in tree.sequences if sequence.fork < length]
    n_roots = len(tree.sequences) - len(tree.branches)
    return Generation(tuple(shortened(s, length) for s in kept), tree.branches[: len(kept) - n_roots])


def shortened(sequence: SequenceResult, length: int) -> SequenceResult:
    if len(sequence.token_ids) <= length:
        return sequence
    parallel = {name: getattr(sequence, name)[:length] for name in ("token_ids", "entropies", "logprobs")}
    return replace(sequence, **parallel, finish_reason="cut")


def lengths(tree: Generation) -> list[int]:
    return sorted(len(sequence.token_ids) for sequence in tree.sequences)


@given(seeds, trees, st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_a_tree_stops_after_its_shortest_sequences(seed, config, stop_after):
    """It is the whole tree, cut at the length of its B-th shortest sequence; what ends at that length counts, too."""
    whole = grow(noisy(seed), **{**config, "stop_after": None})
    tree = grow(noisy(seed), **{**config, "stop_after": stop_after})
    if stop_after > len(whole.sequences):
        assert tree == whole
    else:
        expected = cut_at(whole, lengths(whole)[stop_after - 1])
        assert (tree.sequences, tree.branches) == (expected.sequences, expected.branches)


@given(seeds, st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_parallel_stops_after_its_shortest_samples(seed, stop_after, tokens_per_step):
    """Independent samples the same, however many tokens the engine delivers at a time."""
    script, engine_options = noisy(seed), {"tokens_per_step": tokens_per_step, "capacity": 2}
    whole = grow(script, max_sequences=5, n_roots=5)
    tree = grow(script, max_sequences=5, n_roots=5, stop_after=stop_after, engine_options=engine_options)
    assert tree.sequences == cut_at(whole, lengths(whole)[stop_after - 1]).sequences


@given(seeds, trees, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_who_is_asked_may_end_a_tree(seed, config, n_enough):
    """Asked with the ended sequences, the shortest first, at every length once; a yes cuts the tree there."""
    asked = []

    def is_settled(ended):
        asked.append([len(sequence.token_ids) for sequence in ended])
        return len(ended) >= n_enough

    config = {**config, "stop_after": None}
    engine = ScriptedEngine(script=noisy(seed), stops=STOPS, tokens_per_step=3)
    generator = Generator(engine)
    generator.add(job_of(**config), is_settled)
    ((_, tree),) = generator.run()
    assert tree.sequences == grow(noisy(seed), **{**config, "stop_after": n_enough}).sequences
    assert all(seen == sorted(seen) for seen in asked)
    assert [seen[-1] for seen in asked] == sorted({seen[-1] for seen in asked})
    assert engine.step() == []


def test_a_failed_sequence_is_not_one_that_has_ended():
    """An error is no answer: the tree waits for one that ends."""
    brancher = Brancher(job_of(max_sequences=3, n_roots=3, stop_after=1), STOPS)
    brancher.start()
    brancher.observe([(0, Delta(0, [Token(1)], finish_reason="error", error="broken"))])
    brancher.observe([(i, Delta(i, [Token(5), Token(5)])) for i in (1, 2)])
    assert not brancher.is_done
    brancher.observe([(1, Delta(1, [Token(END)], finish_reason="stop")), (2, Delta(2, [Token(5), Token(5)]))])
    reasons = [sequence.finish_reason for sequence in brancher.result().sequences]
    assert reasons == ["error", "stop", "cut"]


def test_what_ran_ahead_of_the_end_was_for_nothing():
    """A sequence decoded two tokens beyond the tree's end has thrown them away; up to it they are its own."""
    brancher = Brancher(job_of(max_sequences=2, n_roots=2, stop_after=1), STOPS)
    brancher.start()
    brancher.observe([(0, Delta(0, [Token(5)] * 4))])
    brancher.observe([(1, Delta(1, [Token(6), Token(END)], finish_reason="stop"))])
    tree = brancher.result()
    assert tree.sequences[0].token_ids == (5, 5)
    assert (tree.discarded, tree.n_tokens) == (2, 4)


@given(seeds, trees)
@settings(max_examples=60, deadline=None)
def test_progress_is_even_after_an_early_end(seed, config):
    """Whatever a tree's end takes back, no sequence remains open, neither in the count nor in the engine."""
    engine = ScriptedEngine(script=noisy(seed), stops=STOPS, tokens_per_step=4)
    generator = Generator(engine)
    generator.add(job_of(**{**config, "stop_after": 1}))
    list(generator.run())
    assert (generator.progress.sequences_open, generator.progress.trees_open) == (0, 0)
    assert engine.step() == []


@given(seeds, trees, st.floats(0, 3), st.floats(0.05, 2.9))
@settings(max_examples=100, deadline=None)
def test_every_uncertain_token_branches_while_there_is_room(seed, config, varentropy, bound):
    """Above the threshold, or low entropy with high varentropy; what is neither does not branch."""
    rules = {"varentropy_threshold": varentropy, "varentropy_max_entropy": bound, "threshold_percentile": None}
    config = {**config, **rules, "stop_after": None}
    script = noisy(seed)
    tree = grow(script, **config)
    branched = {(branch.seq, branch.position) for branch in tree.branches}
    for index, sequence in enumerate(tree.sequences):
        for position in range(sequence.fork + 1, len(sequence.token_ids)):
            entropy = sequence.entropies[position]
            if entropy is None or len(PROMPT) + position + 1 >= config["max_length"]:
                continue
            probabilities = script((*PROMPT, *sequence.token_ids[:position])).values()
            is_second = entropy <= bound and top_k_varentropy([math.log(p) for p in probabilities]) > varentropy
            is_uncertain = entropy > config["entropy_threshold"] or is_second
            if (index, position) in branched:
                assert is_uncertain
            else:
                assert not is_uncertain or len(tree.sequences) == config["max_sequences"]


def test_bounds_of_the_rules():
    """Values that no distribution has are refused in a sentence."""
    for rule, message in (
        ({"varentropy_threshold": 3.2}, "varentropy_threshold must be in"),
        ({"varentropy_threshold": float("nan")}, "varentropy_threshold must be in"),
        ({"varentropy_max_entropy": 3.0}, "varentropy_max_entropy must be in"),
        ({"stop_after": 0}, "stop_after must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            BranchConfig(4, 2.0, **rule)
