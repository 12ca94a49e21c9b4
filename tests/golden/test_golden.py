"""Traces recorded from the real embedded model, replayed without it: the same deltas give the same tree."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from eager.branching import Brancher
from eager.types import Branch, BranchConfig, Delta, SamplingParams, Stops, Token, TreeJob

TRACES = sorted(Path(__file__).parent.glob("*.json.gz"))


def replay(golden, brancher):
    """Deliver the trace, one recorded token at a time."""
    brancher.start()
    for line in golden["trace"]:
        monitored = (line["entropy"], line["best"], line["logprobs"]) if "best" in line else ()
        delta = Delta(line["seq"], [Token(line["token"], *monitored)], finish_reason=line["finish"])
        brancher.observe([(line["seq"], delta)])
    return brancher.result()


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.name.split(".")[0])
def test_the_trace_gives_the_recorded_tree(path):
    """Sequences, branches, thresholds and counts are those that were recorded."""
    golden = json.loads(gzip.decompress(path.read_bytes()))
    stops = Stops(frozenset(golden["stops"]["stop_ids"]), tuple(golden["stops"]["thinking_end"]))
    recorded, rules = golden["job"], dict(golden["job"]["config"])
    max_length = rules.pop("max_length")
    prompt_ids = tuple(recorded["prompt_ids"])
    job = TreeJob(0, prompt_ids, BranchConfig(**rules), SamplingParams(), max_length, recorded["seed"])
    tree = replay(golden, Brancher(job, stops))
    assert tree.branches == tuple(Branch(**branch) for branch in golden["tree"]["branches"])
    not_replayed = {"recomputed": 0, "branches": []}
    made, recorded_tree = json.loads(json.dumps(asdict(tree))), golden["tree"]
    for sequence in made["sequences"] + recorded_tree["sequences"]:
        sequence.pop("logprobs", None)  # traces older than they are have none
    assert made | not_replayed == recorded_tree | not_replayed
    assert len(tree.sequences) > 1, "a trace without a branch shows nothing"


def test_there_are_traces_of_every_rule():
    """top2, distinct, sample, and a percentile threshold; the two rules of Decoding Tree Sketching."""
    names = {"top2", "distinct", "sample", "percentile", "varentropy", "stop_after"}
    assert {path.name.split(".")[0] for path in TRACES} == names
