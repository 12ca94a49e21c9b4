"""Experiments and their names."""

import pytest
from hypothesis import given, strategies as st

from eager.results.experiment import KINDS, Experiment
from eager.results.published import experiment_of, is_candidate

THRESHOLDS = st.floats(min_value=0, max_value=3, exclude_min=True)


@given(st.sampled_from(list(KINDS)[1:]), THRESHOLDS)
def test_a_name_is_read_back_exactly(kind: str, threshold: float) -> None:
    """Whatever the threshold, the name tells it to the last bit."""
    assert Experiment.parse(Experiment(kind, threshold).name) == Experiment(kind, threshold)


def test_names_are_those_that_earlier_versions_wrote() -> None:
    """A folder of an earlier version is continued under its names: no needless zero after the point."""
    names = [Experiment("parallel").name, Experiment("eager_init", 2.0).name, Experiment("eager", 2.2).name]
    assert names == ["parallel", "eager_init_th2", "eager_th2.2"]


def test_thresholds_that_differ_late_are_two_experiments() -> None:
    """Names were cut to six digits once, and two experiments became one."""
    assert Experiment("eager", 2.1234561).name != Experiment("eager", 2.1234562).name


@pytest.mark.parametrize("name", ["", "eager_th", "eager_thx", "parallel_th2", "eager_inits_th2", "eager_th1e999"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """A name that is not one of ours raises ValueError and is never guessed at."""
    with pytest.raises(ValueError, match=r"parallel|no experiment's name|cannot have"):
        Experiment.parse(name)


def test_experiments_sort_in_the_order_of_a_run() -> None:
    """By kind, then by threshold as a number: 2.4 comes before 10."""
    names = ["eager_th2", "parallel", "eager_init_th10", "eager_adapt_th1", "eager_init_th2.4"]
    ordered = [experiment.name for experiment in sorted(map(Experiment.parse, names))]
    assert ordered == ["parallel", "eager_init_th2.4", "eager_init_th10", "eager_adapt_th1", "eager_th2"]


def test_only_the_two_policies_build_on_an_init() -> None:
    """`eager_adapt` and `eager` add to the `eager_init` of their own threshold, the others to nothing."""
    assert Experiment("eager", 2.4).base == Experiment("eager_adapt", 2.4).base == Experiment("eager_init", 2.4)
    assert Experiment("parallel").base is Experiment("eager_init", 2.4).base is None


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("t_default_results", "parallel"),
        ("t_aware_results__th2.5", "eager_init_th2.5"),
        # The published code's "easy" policy looks at no labels, which is the paper's EAGer-adapt.
        ("t_aware_easy_more_budget_results__th2.5", "eager_adapt_th2.5"),
        ("t_aware_more_budget_results__th2.5", "eager_th2.5"),
        ("t_aware_ADDON7_more_budget_results__th2.5", "eager_th2.5"),
        ("eager_th2.0", "eager_th2"),
    ],
)
def test_a_files_name_says_the_experiment(stem: str, name: str) -> None:
    """Ours and the published code's names; what the head says comes second, as it may be another threshold's."""
    assert experiment_of(stem, {"entropy_threshold": 1.0}, "entropy-aware-generations").name == name


@pytest.mark.parametrize(
    ("head", "key", "name"),
    [
        ({"extra": {"experiment": "eager"}, "entropy_threshold": 2.0}, "entropy-aware-generations", "eager_th2"),
        ({"params": {"entropy_threshold": 2.4}}, "entropy-aware-generations", "eager_init_th2.4"),
        ({"extra": {"experiment": ["odd"]}}, "default-generations", "parallel"),
        ({}, "entropy-aware-generations", "eager_init"),
    ],
)
def test_a_renamed_file_is_known_by_its_head(head: dict, key: str, name: str) -> None:
    """Then by the key of its list; a threshold that nothing tells is not made up."""
    assert experiment_of("mine", head, key).name == name


def test_copies_and_working_files_are_no_results() -> None:
    """What evaluations leave beside the results is passed over."""
    names = ("backup_default.json", "x_aware_results__th2.5_backup.json", "_tmp_x.json", ".x.json", "x_samples.json")
    assert not any(map(is_candidate, names))
    assert is_candidate("eager_th2.2.json")
