"""Whole trees from a real vLLM server with the plugin: over HTTP, as the driver asks, and as a whole run."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from children import run_eager
from vllm_server import GATE, MODEL, plugin_variables, shared, started

from eager.engines import load_engine
from eager.generator import Generator
from eager.store.journal import Journal
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob
from eager.whole_trees import TreeGenerator, grower
from eager.wire import (
    ABOUT_PATH,
    TREES_PATH,
    Alive,
    Branched,
    Ended,
    Finished,
    TreeRequest,
    read_about,
    read_answer,
    read_event,
    request_json,
)

STOPS = Stops(frozenset({2}))
SAMPLING = SamplingParams(temperature=0.8)
MAX_LENGTH = 90
QUESTION = "Name three rivers and say where they flow."


@pytest.fixture(scope="module")
def server():
    return shared()


@pytest.fixture(scope="module")
def engine(server):
    engine = load_engine("openai", MODEL, base_url=f"http://127.0.0.1:{server.port}")
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def prompt(engine):
    return tuple(engine.encode_chat([{"role": "user", "content": QUESTION}]))


def job_of(prompt, n_roots=1, seed=7, record_entropies=False, **rules):
    config = BranchConfig(**{"max_sequences": 4, "entropy_threshold": 1.8, **rules})
    return TreeJob(0, prompt, config, SAMPLING, MAX_LENGTH, seed, n_roots, record_entropies=record_entropies)


def ask(server, job):
    status, answer = server.post(TREES_PATH, request_json(TreeRequest(job, STOPS)))
    assert status == 200, answer
    return read_answer(answer, job)


def by_sequences(engine, job):
    generator = Generator(engine)
    generator.add(job)
    ((_, tree),) = generator.run()
    return tree


def test_the_server_says_what_it_has(server):
    """A whole one lacks nothing; the token that stands for a branch is one that its model never gives."""
    status, answer = server.get(ABOUT_PATH)
    about = read_about(answer)
    assert status == 200
    assert (about.missing, about.branch_rules, about.pause_id, about.runner) == ((), ("top2", "sample"), 3, 1)


@pytest.mark.parametrize("rule", ["top2", "sample"])
def test_a_tree_of_two_is_that_of_the_driver(server, engine, prompt, rule):
    """Up to the first branch nobody runs ahead: the same tokens, branch and entropies as sequence by sequence."""
    job = job_of(prompt, max_sequences=2, branch_rule=rule)
    whole, driven = ask(server, job), by_sequences(engine, job)
    assert whole.branches
    for one, other in zip(whole.sequences, driven.sequences, strict=True):
        assert replace(one, entropies=(), logprobs=()) == replace(other, entropies=(), logprobs=())
        known = [position for position, entropy in enumerate(other.entropies) if entropy is not None]
        assert [one.entropies[i] for i in known] == pytest.approx([other.entropies[i] for i in known], abs=2e-3)
    for one, other in zip(whole.branches, driven.branches, strict=True):
        assert (one.kept_id, one.new_id, one.position) == (other.kept_id, other.new_id, other.position)
        assert (one.entropy, one.threshold) == pytest.approx((other.entropy, other.threshold), abs=2e-3)


def test_independent_sequences_are_those_of_the_driver(server, engine, prompt):
    """All of `parallel`, which branches nowhere: draws depend on seed and position alone, wherever they are made."""
    job = job_of(prompt, n_roots=4, record_entropies=True)
    whole, driven = ask(server, job), by_sequences(engine, job)
    assert [s.token_ids for s in whole.sequences] == [s.token_ids for s in driven.sequences]
    for one, other in zip(whole.sequences, driven.sequences, strict=True):
        assert one.entropies == pytest.approx(other.entropies, abs=2e-3)


@pytest.mark.parametrize("percentile", [None, 95])
def test_what_a_tree_says_of_itself_is_so(server, prompt, percentile):
    """No more sequences than asked; each branch above its threshold; all other tokens looked at are not."""
    job = job_of(prompt, max_sequences=6, threshold_percentile=percentile)
    tree = ask(server, job)
    assert len(tree.sequences) <= 6
    assert tree.discarded == len(tree.branches)
    assert all(branch.entropy > branch.threshold >= 1.8 for branch in tree.branches)
    for branch in tree.branches:
        child = tree.sequences[branch.new_seq]
        parent = tree.sequences[branch.seq]
        assert (parent.token_ids[branch.position], child.token_ids[branch.position]) == (branch.kept_id, branch.new_id)
        assert branch.kept_id != branch.new_id
    assert all(s.finish_reason == ("stop" if s.token_ids[-1] == 2 else "length") for s in tree.sequences)


def test_events_come_as_they_happen(server, prompt):
    """Every branch and every end once, then the tree, which says the same."""
    job = job_of(prompt)
    _, response = server.stream(TREES_PATH, **request_json(TreeRequest(job, STOPS, stream=True)))
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.read().split(b"\n\n") if line]
    events = [read_event(json.loads(line.removeprefix(b"data: ")), job) for line in lines]
    tree = events[-1].tree
    assert isinstance(events[-1], Finished)
    assert {type(event) for event in events[:-1]} == {Branched, Ended, Alive}
    branched = [event for event in events if isinstance(event, Branched)]
    assert branched == [Branched(b.seq, b.position, b.new_seq) for b in tree.branches]
    ended = {event.seq: event.sequence.token_ids for event in events if isinstance(event, Ended)}
    assert ended == {index: sequence.token_ids for index, sequence in enumerate(tree.sequences)}


PLAIN = {"max_sequences": 4, "entropy_threshold": 1.8}


def n_running(server):
    return server.ask_worker("eager_gate")["trees"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_may_leave_in_mid_tree(server, prompt, is_stream):
    """Within a second nothing of its tree is decoded or kept any more, whether it was told events or not."""
    job = replace(job_of(prompt, max_sequences=8, entropy_threshold=1.0), max_length=500)
    before = n_running(server)
    connection = server.begin(TREES_PATH, request_json(TreeRequest(job, STOPS, stream=is_stream)))
    deadline = time.monotonic() + 20
    while n_running(server) == before:
        assert time.monotonic() < deadline
    connection.close()
    time.sleep(1.0)
    assert n_running(server) == before
    assert len(server.complete(prompt=list(prompt), max_tokens=3, temperature=0)["token_ids"]) == 3
    time.sleep(0.5)
    assert running_requests(server) == 0


def running_requests(server):
    _, text = server.get("/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"rules": {**PLAIN, "branch_rule": "distinct"}},
            "distinct cannot be had",
        ),
        ({"rules": {**PLAIN, "stop_after": 2}}, "stop_after cannot be had"),
        (
            {"rules": {**PLAIN, "varentropy_threshold": 1.0}},
            "varentropy_threshold",
        ),
        ({"max_length": 100_000}, "beyond the context of 512"),
        ({"prompt": [1, 10**7]}, "outside the vocabulary"),
        ({"stop_ids": [3]}, "stands for a branch"),
        ({"beams": 2}, "no field 'beams'"),
        ({"version": 2}, "version 1"),
        ({"prompt": [1] * 200_000}, "more than"),
    ],
)
def test_what_cannot_be_had_is_said(server, prompt, change, said):
    """With a 400 and the sentence."""
    status, answer = server.post(TREES_PATH, {**request_json(TreeRequest(job_of(prompt), STOPS)), **change})
    assert status == 400
    assert said in answer["error"]["message"]


def test_bodies_that_are_no_requests_are_refused(server):
    """Whatever they hold; the server goes on."""
    for body in ("", "{", "[" * 100_000, "null", '"x"'):
        status, answer = server.post_text(TREES_PATH, body)
        assert status == 400, body[:9]
        assert answer["error"]["message"]


def test_requests_of_others_are_not_touched(server, prompt):
    """The same tokens alone and beside a tree."""
    body = {"prompt": list(prompt), "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    alone = server.complete(**body)["token_ids"]
    with ThreadPoolExecutor(1) as threads:
        tree = threads.submit(ask, server, job_of(prompt))
        beside = server.complete(**body)["token_ids"]
        assert tree.result().sequences
    assert beside == alone


def test_the_driver_asks_for_whole_trees(server, engine, prompt):
    """Many at once, one request each; each is the tree that comes when it is asked for alone, in kind."""
    jobs = [replace(job_of(prompt, seed=seed), prompt_index=seed) for seed in range(4)]
    generator = grower(engine, jobs[0].config)
    assert isinstance(generator, TreeGenerator)
    for job in jobs:
        generator.add(job)
    found = {job.seed: tree for job, tree in generator.run()}
    assert sorted(found) == [0, 1, 2, 3]
    for job in jobs:
        alone = ask(server, job)
        firsts = [tree.branches[0] for tree in (found[job.seed], alone)]
        assert len({(branch.position, branch.kept_id, branch.new_id) for branch in firsts}) == 1
    assert n_running(server) == 0


def test_a_whole_run(server, tmp_path):
    """The command as a user types it: all experiments, every prompt exactly once, entropies and branches recorded."""
    problems = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {a} + {a + 3}?", "answer": str(2 * a + 3)} for a in range(3, 6)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "out"
    url = f"http://127.0.0.1:{server.port}"
    done = run_eager(
        *("run", "--engine", "openai", "--base_url", url, "--model_name", MODEL),
        *("--data_name", "mine", "--data_path", problems, "--prompt_field", "question", "--target_field", "answer"),
        *("--max_sequences", "4", "--entropy_threshold", "1.5", "--max_tokens", "40", "--experiments", "all"),
        *("--threshold_percentile", "none"),
        *("--output_dir", folder),
    )
    assert done.returncode == 0, done.stderr
    journal = Journal(folder)
    for kind in ("parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5"):
        assert journal.count(kind) == len(rows)
    (first, *_) = journal.records("eager_init_th1.5")
    assert first.branches
    assert all(s.error is None for name in journal.experiments() for r in journal.records(name) for s in r.sequences)
    assert all(e is not None for r in journal.records("parallel") for s in r.sequences for e in s.entropies)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [((), ["--worker-extension-cls"]), (GATE[2:], ["--logits-processors"])],
)
def test_a_wrong_start_says_at_once_what_is_missing(tmp_path, options, said):
    """In its log, to who asks what it is, and to who asks for a tree; plain requests are answered."""
    log = tmp_path / "log.txt"
    with started(log, *options, variables=plugin_variables(tmp_path / "plugin")) as wrong:
        _, answer = wrong.get(ABOUT_PATH)
        missing = " ".join(read_about(answer).missing)
        status, refusal = wrong.post(TREES_PATH, request_json(TreeRequest(job_of((1, 2)), STOPS)))
        for words in said:
            assert words in missing
            assert words in log.read_text()
            assert words in refusal["error"]["message"]
        assert status == 503
        chat = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 3}
        status, refusal = wrong.post("/v1/chat/completions", {**chat, "eager": {}})
        assert status == 503
        assert said[0] in refusal["error"]["message"]
        assert wrong.post("/v1/chat/completions", chat)[0] == 200
        assert len(wrong.complete(prompt=[1, 2, 3], max_tokens=3, temperature=0)["token_ids"]) == 3
