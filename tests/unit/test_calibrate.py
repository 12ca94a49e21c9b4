"""The exposure model against trees that were really grown, the choice of a threshold, and the file of a calibration."""

import math
import random
from dataclasses import replace

import pytest

from eager.calibrate.exposure import Exposure, Stream
from eager.calibrate.target import Target, recommended
from eager.engines.scripted import ScriptedEngine
from eager.generator import Generator
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, Stops, TreeJob

END = 0
LENGTH = 120
RULES = BranchConfig(max_sequences=8, entropy_threshold=1.0)


def forgetful(token_ids):
    """Certain as a rule, torn now and then, whatever was said before; ends after some 40 tokens."""
    spread = 3 * random.Random(hash((3, *token_ids))).random() ** 4 + 1e-3
    weights = {token: math.exp((1 - token) / spread) for token in range(1, 13)}
    total = sum(weights.values())
    end = 0.1 if len(token_ids) > 30 else 0.0
    return {**{token: (1 - end) * weight / total for token, weight in weights.items()}, END: end}


def trees(n, rules, first=0, **job):
    """Really grown, of prompts `first` and on."""
    generator = Generator(ScriptedEngine(script=forgetful, stops=Stops(frozenset({END})), capacity=64))
    for index in range(first, first + n):
        generator.add(TreeJob(index, (100 + index,), rules, SamplingParams(temperature=1.0), LENGTH + 1, seed=7, **job))
    return [tree for _, tree in generator.run()]


@pytest.fixture(scope="module")
def streams():
    grown = trees(150, BranchConfig(1, MAX_ENTROPY), record_entropies=True)
    return [Stream(t.sequences[0].entropies, t.sequences[0].finish_reason == "stop") for t in grown]


def of(*entropies, **options):
    return Stream(tuple(entropies), has_stopped=True, **options)


@pytest.mark.parametrize(
    ("rule", "percentile", "threshold"),
    [("top2", None, 1.5), ("distinct", None, 1.0), ("top2", 99.0, 0.5), ("distinct", 99.0, 1.5), ("sample", 99.0, 1.5)],
)
def test_of_a_model_without_memory_the_estimate_is_right(streams, rule, percentile, threshold):
    """Where what comes does not depend on what was, trees of other prompts cost what was foreseen, within 10 %."""
    rules = BranchConfig(8, threshold, rule, percentile)
    estimate = Exposure(streams, rules, LENGTH).at(threshold)
    actual = trees(250, rules, first=1000)
    assert estimate.n_sequences.value == pytest.approx(sum(len(t.sequences) for t in actual) / 250, rel=0.1)
    assert estimate.n_tokens.value == pytest.approx(sum(t.n_tokens for t in actual) / 250, rel=0.1)


def test_a_threshold_that_nothing_exceeds_takes_the_streams_alone(streams):
    """One sequence a prompt, its own tokens, and all of the other M - 1 saved."""
    estimate = Exposure(streams, RULES).at(MAX_ENTROPY)
    assert estimate.n_sequences.value == 1
    assert estimate.n_tokens.value == pytest.approx(sum(len(s.entropies) for s in streams) / len(streams))
    assert estimate.saved.value == pytest.approx(7 / 8)


def test_the_higher_the_threshold_the_less_it_takes(streams):
    """Under a fixed threshold sequences fall from almost M to 1, and never leave these bounds."""
    exposure = Exposure(streams[:16], RULES)
    found = [exposure.at(threshold).n_sequences for threshold in (0.01, 0.3, 1.2, 2.5)]
    assert [score.value for score in found] == sorted((score.value for score in found), reverse=True)
    assert all(1 <= score.low <= score.value <= score.high <= 8 for score in found)
    assert found[0].value > 6
    assert found[-1].value == 1


def test_what_the_rules_leave_unexamined_does_not_branch():
    """After the thinking section, after as many tokens without a branch as the rules say, and at the last allowed."""
    calm, torn = [0.0] * 4, [2.0] * 3
    thought = Exposure([of(*calm, *torn, 0.0, n_thinking=4)], RULES)
    late = Exposure([of(*calm, *torn, 0.0)], replace(RULES, max_tokens_without_branch=4))
    last = Exposure([Stream((*calm, 2.0), has_stopped=False)], RULES)
    assert [exposure.at(1.0).n_sequences.value for exposure in (thought, late, last)] == [1, 1, 1]
    assert Exposure([of(*calm, *torn, 0.0)], RULES).at(1.0).n_sequences.value == 8


def test_children_are_exposed_too():
    """Three uncertain places make more than four sequences: those born at the first may branch at the next."""
    stream = of(0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0)
    assert Exposure([stream], replace(RULES, max_sequences=20)).at(1.0).n_sequences.value == 8


def test_the_threshold_is_the_lowest_that_keeps_to_the_target(streams):
    """A hundredth of a nat less, and the target is missed."""
    exposure = Exposure(streams[:16], RULES)
    threshold = recommended(exposure, Target("sequences", 3))
    assert exposure.at(threshold).n_sequences.value <= 3 < exposure.at(threshold - 0.01).n_sequences.value
    threshold = recommended(exposure, Target("saving", 0.4))
    assert exposure.at(threshold).saved.value >= 0.4 > exposure.at(threshold - 0.01).saved.value
    assert recommended(Exposure([of(*(i / 100 for i in range(101)))], RULES), Target("quantile", 0.9)) == 0.9


def test_a_target_out_of_reach_is_a_sentence(streams):
    """One whole sequence of M is the least that a tree takes."""
    with pytest.raises(ValueError, match=r"no threshold keeps to saving=0\.95"):
        recommended(Exposure(streams[:16], RULES), Target("saving", 0.95))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", Target("saving", 0.4)),
        ("0.25", Target("saving", 0.25)),
        ("sequences=3", Target("sequences", 3)),
        ("quantile=0.99", Target("quantile", 0.99)),
    ],
)
def test_targets_as_they_are_written(text, target):
    """A number alone is a saving."""
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["1.5", "0", "sequences=0.5", "speed=3", "saving=much", "quantile=nan", "sequences=nan"]
)
def test_no_target(text):
    """A sentence says what may be written."""
    with pytest.raises(ValueError, match="auto:sequences=3"):
        Target.parse(text)
