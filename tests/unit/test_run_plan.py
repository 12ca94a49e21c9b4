"""From the options of `eager run` to the plan, and to the settings that a folder is bound to."""

import pytest

from eager.cli.run import command, plan_of
from eager.experiments import RunPlan, settings_of
from eager.tasks import load
from eager.types import BranchConfig, SamplingParams


def plan(*arguments):
    context = command.make_context("run", ["--model_name", "m", "--data_name", "demo", *arguments])
    return plan_of(context.params)


@pytest.mark.parametrize(("given", "expected"), [([], 99.0), (["none"], None), (["99"], 99.0), (["97.5"], 97.5)])
def test_the_percentile_is_a_number_or_none(given, expected):
    """`none` is a fixed threshold; the default is the published code's."""
    (rules,) = plan(*(["--threshold_percentile", *given] if given else [])).rules
    assert rules.threshold_percentile == expected


def test_every_threshold_has_its_rules():
    """They differ in the threshold alone; the same one twice counts once."""
    fixed = ("--threshold_percentile", "none", "--max_sequences", "7")
    made = plan("--entropy_threshold", "1.5,2,1.5", "--top_p", "0.9", *fixed)
    assert made.rules == (BranchConfig(7, 1.5), BranchConfig(7, 2.0))
    assert made.sampling == SamplingParams(top_p=0.9)
    with pytest.raises(ValueError, match="differ in nothing but their thresholds"):
        RunPlan(("parallel",), (BranchConfig(7, 1.5), BranchConfig(8, 2.0)), SamplingParams(), seed=1)


def test_a_folder_is_bound_to_all_rules_but_the_thresholds():
    """Name by name; a folder begun by an earlier version is continued, so none is renamed."""
    settings = settings_of(plan("--entropy_threshold", "1.5,2"), load("demo", limit=2), {"model_name": "m"})
    assert list(settings) == [
        *("model_name", "data_name", "data_digest", "n_prompts", "instruction"),
        *("temperature", "top_p", "top_k", "min_p"),
        *("max_sequences", "branch_rule", "threshold_percentile", "max_tokens_without_branch", "max_tokens", "seed"),
    ]


def test_all_are_the_papers_and_votes_are_asked_for():
    """`all` is the four published ones; whatever the order in the command, eager_vote comes after its eager_init."""
    published = ("parallel", "eager_init", "eager_adapt", "eager")
    assert plan().experiments == published
    assert plan("--experiments", "eager_vote,all").experiments == (*published, "eager_vote")


def test_rules_beside_the_paper_are_off_unless_given():
    """A rule that is not asked for is not there; one that is, is in the plan as given."""
    made = plan()
    assert (made.settle, made.rules) == (None, (BranchConfig(32, 2.2, threshold_percentile=99.0),))
    made = plan(
        "--settle", "0.9", "--stop_after", "3", "--varentropy_threshold", "1.5", "--varentropy_max_entropy", "2"
    )
    (rules,) = made.rules
    assert (made.settle, rules.stop_after) == (0.9, 3)
    assert (rules.varentropy_threshold, rules.varentropy_max_entropy) == (1.5, 2.0)
