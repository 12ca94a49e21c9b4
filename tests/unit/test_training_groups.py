"""Groups for training: their number, their order, what they cost, and what of them was drawn."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eager
from eager.engines.scripted import ScriptedEngine
from eager.errors import EagerError
from eager.integrations.groups import Draw, chosen, draw_groups, draw_parallel, not_drawn, shares, shortages
from eager.types import Branch, BranchConfig, SamplingParams

HARD = ["How many are left?", "Why?", "How many were there?", "Which sum is larger?", "What comes next?"]


def draw(n: int = 6, *, rule="sample", threshold: float = 1.5, seed: int = 0, max_tokens: int = 40) -> Draw:
    return Draw(BranchConfig(n, threshold, rule), SamplingParams(temperature=1.0), max_tokens, seed)


def encoded(engine: eager.Engine, texts) -> list[list[int]]:
    return [engine.encode_chat([{"role": "user", "content": text}]) for text in texts]


def says(answer: str):
    return lambda tree, sequence: answer in sequence.text


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    texts=st.lists(st.sampled_from(HARD), min_size=1, max_size=6),
    threshold=st.floats(0.3, 2.5),
    rule=st.sampled_from(["sample", "top2", "distinct"]),
    right=st.sampled_from([None, "boxed{1}", "boxed{3}", "never"]),
    fill=st.sampled_from(["fresh", "repeat"]),
)
def test_every_group_has_n_and_all_cost_at_most_n_each(n, texts, threshold, rule, right, fill):
    """In the order of the prompts; what was drawn for all of them is never more than n times their number."""
    engine = ScriptedEngine()
    prompts = encoded(engine, texts)
    grader = None if right is None else says(right)
    groups = draw_groups(prompts, draw(n, rule=rule, threshold=threshold), engine, grader, fill)
    assert [list(group.tree.prompt_ids) for group in groups] == prompts
    assert [len(group.sequences) for group in groups] == [n] * len(prompts)
    assert sum(len(group.tree.sequences) for group in groups) <= n * len(prompts)


def test_without_a_grader_short_groups_get_fresh_samples():
    """No completion stands twice, and those that were added have no parent and draws of their own."""
    engine = ScriptedEngine()
    groups = draw_groups(encoded(engine, HARD), draw(threshold=2.4), engine)
    assert any(group.tree.n_init < 6 for group in groups)
    for group in groups:
        assert group.chosen == tuple(range(6))
        assert all(sequence.parent is None for sequence in group.tree.sequences[group.tree.n_init :])
    texts = {sequence.text for group in groups for sequence in group.sequences if group.tree.n_init < 6}
    assert len(texts) > 6


def test_with_a_grader_the_saved_budget_goes_to_the_unsolved():
    """A prompt without a right completion is given more than n, and keeps its youngest."""
    engine = ScriptedEngine()
    rights = {0: "never", 1: "", 2: "", 3: "", 4: ""}
    grade = lambda tree, sequence: rights[tree.prompt_index] in sequence.text  # noqa: E731
    groups = draw_groups(encoded(engine, HARD), draw(threshold=2.2), engine, grade)
    hard, *others = groups
    assert len(hard.tree.sequences) > 6
    assert hard.chosen == tuple(range(len(hard.tree.sequences)))[-6:]
    assert all(len(group.tree.sequences) <= 6 for group in others)


def test_a_sequence_that_failed_ends_the_rollout():
    """One sentence; nothing is trained on in its place."""
    engine = ScriptedEngine(failing_positions=frozenset({9}))
    with pytest.raises(EagerError, match="a completion cannot be trained on: the sequence failed, as it was told to"):
        draw_groups(encoded(engine, HARD), draw(), engine)


def test_a_tree_that_ends_early_is_refused():
    """What is cut has no end to be rewarded for."""
    with pytest.raises(EagerError, match="leave it out"):
        Draw(BranchConfig(4, 1.0, stop_after=2), SamplingParams(), 10, 0)


@given(used=st.lists(st.integers(1, 12), min_size=1, max_size=8), n=st.integers(1, 8))
def test_fresh_samples_go_to_the_shortest_while_the_budget_lasts(used, n):
    """All of it is spent, or no group is short; none gets more than it lacks; equals differ by one at most."""
    given_ = shortages(used, n)
    after = [have + given_.get(place, 0) for place, have in enumerate(used)]
    assert sum(given_.values()) <= max(0, n * len(used) - sum(used))
    assert all(after[place] <= n for place in given_)
    assert min(after) >= n or sum(after) >= n * len(used)
    lifted = [after[place] for place in given_]
    assert not lifted or max(lifted) - min(lifted) <= 1


@given(n_sequences=st.integers(1, 30), n=st.integers(1, 10))
def test_what_is_chosen_is_n_of_the_youngest_as_evenly_as_can_be(n_sequences, n):
    """In the order of birth; of too few, none stands twice more often than another."""
    found = chosen(n_sequences, n)
    assert len(found) == n
    assert list(found) == sorted(found)
    assert set(found) == set(range(max(0, n_sequences - n), n_sequences))
    assert max(Counter(found).values()) - min(Counter(found).values()) <= 1


def test_the_shares_of_a_tree_are_one_a_root():
    """Halved at every branch, for the parent and the child."""
    engine = ScriptedEngine()
    for group in draw_groups(encoded(engine, HARD), draw(threshold=1.0), engine):
        roots = sum(sequence.parent is None for sequence in group.tree.sequences)
        assert math.isclose(sum(shares(group.tree)), roots)


def test_the_weighted_mean_of_a_tree_is_the_models():
    """Of answers and lengths, over many trees of `sample`, within four standard errors of independent samples.

    Counted alike, their lengths are more than five away.
    """
    engine = ScriptedEngine()
    prompt = encoded(engine, HARD[:1])

    def frequencies(seed: int, grow) -> list[float]:
        (group,) = grow(prompt, draw(4, threshold=1.0, seed=seed, max_tokens=30), engine)
        tree, weights = group.tree, np.array(shares(group.tree))
        said = [
            [f"boxed{{{i}}}" in sequence.text for i in (1, 2)] + [len(sequence.token_ids)]
            for sequence in tree.sequences
        ]
        return list(weights @ np.array(said, float) / weights.sum())

    trees = np.array([frequencies(seed, lambda *a: draw_groups(*a, fill="repeat")) for seed in range(300)])
    samples = np.array([frequencies(1000 + seed, draw_parallel) for seed in range(300)])
    error = np.sqrt(trees.var(axis=0) / len(trees) + samples.var(axis=0) / len(samples))
    assert (error > 0).all()
    assert (abs(trees.mean(axis=0) - samples.mean(axis=0)) < 4 * error).all()


def tree_with(rule: str, *branches: Branch) -> eager.Tree:
    ids = (1, 2, 3, 4, 5, 6)
    sequence = lambda index: eager.Sequence(index, ids, (None,) * 6, (None,) * 6, (False,) * 6, "", "stop")  # noqa: E731
    rules = BranchConfig(4, 1.0, rule)
    return eager.Tree(0, (9,), "", tuple(map(sequence, range(3))), branches, rules, SamplingParams(), 0, 20, 3)


def test_every_token_of_sample_is_a_free_draw():
    """Nothing is kept out of the loss."""
    assert not_drawn(tree_with("sample", Branch(0, 2, 2.0, 1.0, 1))) == [set(), set(), set()]


def test_what_the_rules_force_is_inherited():
    """`top2`: the parent's token and the child's; `distinct`: the child's; a grandchild has those before its own."""
    branches = Branch(0, 1, 2.0, 1.0, 1), Branch(1, 4, 2.0, 1.0, 2)
    assert not_drawn(tree_with("top2", *branches)) == [{1}, {1, 4}, {1, 4}]
    assert not_drawn(tree_with("distinct", *branches)) == [set(), {1}, {1, 4}]
