"""The gate's arguments and what it keeps of trees: plain Python, no vLLM needed."""

import math
from types import SimpleNamespace

import pytest

from eager.engines._gate_rule import Rule, check_rule, read_rule
from eager.engines._gate_trees import Tree, Trees

RULE = Rule("a", 0, prompt_length=5, max_branches=3, threshold=1.0, pause_id=9)


def rule(**changes):
    return Rule(**{**{name: getattr(RULE, name) for name in RULE.__slots__}, **changes})


def params(**changes):
    plain = {"n": 1, "min_tokens": 0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
    none = dict.fromkeys(
        ("logit_bias", "allowed_token_ids", "bad_words", "structured_outputs", "thinking_token_budget")
    )
    return SimpleNamespace(**{**plain, **none, "stop_token_ids": [9], **changes})


def test_a_rule_travels_as_flat_values():
    """What is written into a request's arguments is read from them; all are texts, numbers or lists of numbers."""
    given = rule(percentile=99.0, thinking_end=(6, 7), first="second")
    assert read_rule(given.args) == given
    assert all(isinstance(value, str | int | float | list) for value in given.args.values())
    assert read_rule(RULE.args) == RULE


def test_arguments_of_others_are_no_rule():
    """Only names that begin as ours do are looked at."""
    assert read_rule({"session_id": "x", "top": 3}) is None
    check_rule(params(n=5, stop_token_ids=None), {"session_id": "x"})


@pytest.mark.parametrize("name", ["tree", "sequence", "prompt_length", "max_branches", "threshold", "pause_id"])
def test_what_is_missing_is_named(name):
    """A rule without one of these is refused with its name."""
    args = RULE.args
    del args[f"eager_{name}"]
    with pytest.raises(ValueError, match=f"eager_{name} is missing"):
        read_rule(args)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("sequence", True), ("threshold", 0), ("threshold", math.nan), ("tree", "x" * 201), ("prompt_length", 0)),
        *(("pause_id", 1.5), ("percentile", -1), ("thinking_end", "67"), ("thinking_end", [1] * 65), ("first", "")),
        *(("max_tokens_without_branch", 0), ("threshold", math.inf)),
    ],
)
def test_what_is_wrong_is_named(name, value):
    """The sentence says the argument, what it must be and what was given."""
    with pytest.raises(ValueError, match=f"eager_{name} must be"):
        read_rule({**RULE.args, f"eager_{name}": value})


@pytest.mark.parametrize(
    "changes",
    [
        *({"n": 2}, {"min_tokens": 1}, {"repetition_penalty": 1.1}, {"logit_bias": {1: 2.0}}, {"bad_words": ["x"]}),
        *({"stop_token_ids": [8]}, {"stop_token_ids": None}),
    ],
)
def test_sampling_that_does_not_fit_a_tree_is_refused(changes):
    """Nothing may put another token where the gate leaves one, and the reserved token must end the request."""
    check_rule(params(), RULE.args)
    with pytest.raises(ValueError, match=next(iter(changes))):
        check_rule(params(**changes), RULE.args)


def test_the_limit_is_of_earlier_positions_alone():
    """A sequence that is behind sees nothing of its own position yet, whoever is ahead."""
    tree = Tree(rule(percentile=100.0))
    for sequence, entropies in ((0, [1.5, 2.5, 2.9]), (1, [1.2])):
        for position, entropy in enumerate(entropies):
            tree.arrive(sequence, position, may_pause=True)
            tree.note(sequence, position, entropy)
    assert tree.limit(0) == 1.0
    assert tree.limit(1) == pytest.approx(1.5)  # what stands at position 1 is 2.5
    assert tree.limit(2) == pytest.approx(2.5)


def test_an_entropy_counts_once_a_token_followed():
    """What a stop token was drawn under is no part of the threshold's past: no token comes after it."""
    tree = Tree(rule(percentile=100.0))
    tree.note(0, 0, 2.0)
    assert tree.limit(9) == 1.0
    for _ in range(2):  # asked again, for a preemption, it counts once
        tree.arrive(0, 1, may_pause=True)
    tree.note(1, 1, 1.6)
    tree.arrive(1, 2, may_pause=True)
    assert tree.limit(9) == pytest.approx(2.0)


def test_a_record_says_what_is_missing():
    """Entropies come by sequence from its first position on, with None where none was taken."""
    tree = Tree(RULE)
    tree.note(4, 3, 0.5)
    tree.note(4, 5, 0.25)
    tree.pause(4, 5, 0.25, 0.125)
    assert tree.record() == {"entropies": {"4": [3, [0.5, None, 0.25]]}, "branches": [[4, 5, 0.25, 0.125]]}


def test_trees_that_nobody_takes_are_forgotten():
    """Beyond the bound on trees the one that was quiet longest goes; those with a request in the batch stay."""
    trees = Trees(max_trees=3)
    for name in "abcde":
        trees.of(rule(tree=name))
    trees.of(rule(tree="b"))
    assert trees.forget_quiet(["a"]) == ["c", "d"]
    assert [trees.find(name) is None for name in "abcde"] == [False, False, True, True, False]


def test_entropies_that_nobody_takes_are_bounded():
    """However long the trees: beyond the bound on entropies the quiet ones go."""
    trees = Trees(max_entropies=100)
    for name in "abc":
        for position in range(50):
            trees.of(rule(tree=name)).note(0, position, 1.0)
            trees.of(rule(tree=name)).note(0, position, 1.5)  # taken again: one entropy
    assert trees.forget_quiet([]) == ["a"]
    assert len(trees) == 2


def test_a_tree_is_taken_once():
    """With that it is forgotten; an unknown one is None."""
    trees = Trees()
    trees.of(RULE).note(0, 0, 1.0)
    assert trees.take("a") == {"entropies": {"0": [0, [1.0]]}, "branches": []}
    assert trees.take("a") is None
