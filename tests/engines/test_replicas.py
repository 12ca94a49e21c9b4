"""Several servers, or several engines in one: a tree's sequences go where its prefix is cached, the trees to all."""

import shutil
import socket
import subprocess
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager

import needs
import pytest

needs.package("stamina", "openai")

from fake_openai import MODEL, STOP_ID, running  # noqa: E402
from fake_tree_server import tree_of, trees_running  # noqa: E402

from eager.engines import load_engine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.types import BranchConfig, SamplingParams, TreeJob  # noqa: E402
from eager.whole_trees import TreeGenerator, grower  # noqa: E402

N_TREES = 12
SESSION, RANK = "X-Session-ID", "X-data-parallel-rank"


def grow(url):
    """Trees that branch, on the servers at `url`."""
    engine = load_engine("openai", MODEL, base_url=url, stop_token_ids=[STOP_ID], give_up_after=10.0)
    try:
        generator = Generator(engine)
        rules = BranchConfig(5, 1.0, threshold_percentile=None)
        for index in range(N_TREES):
            generator.add(TreeJob(index, (10 + index, 11, 12), rules, SamplingParams(temperature=0.9), 30, seed=3))
        trees = [tree for _, tree in generator.run()]
    finally:
        engine.shutdown()
    assert sum(len(tree.sequences) for tree in trees) > 2 * N_TREES
    return trees


def places(*servers):
    """By tree: where its requests went, as (server, rank). Those of the probe belong to none."""
    found = defaultdict(set)
    for number, server in enumerate(servers):
        for headers in server.headers:
            said = {name.lower(): value for name, value in headers.items()}  # a router may write them otherwise
            if SESSION.lower() in said:
                found[said[SESSION.lower()]].add((number, said.get(RANK.lower())))
    return found


def test_a_tree_stays_with_its_server():
    """Whatever it forks; and trees go to all servers."""
    with running() as one, running() as other:
        grow(f"{one.url},{other.url}")
        found = places(one, other)
    assert len(found) == N_TREES
    assert all(len(where) == 1 for where in found.values())
    assert set.union(*found.values()) == {(0, None), (1, None)}


def test_a_tree_stays_with_its_engine_in_a_server():
    """vLLM's --data-parallel-size: each of its engines has a cache of its own, and is asked for by its rank."""
    with running() as server:
        server.n_engines = 3
        grow(server.url)
        found = places(server)
    assert len(found) == N_TREES
    assert all(len(where) == 1 for where in found.values())
    assert set.union(*found.values()) == {(0, "0"), (0, "1"), (0, "2")}


@pytest.mark.parametrize("n_said", [None, 1])
def test_one_engine_is_not_asked_for_by_rank(n_said):
    """A server that has one, or does not say, gets no header that it may not know."""
    with running() as server:
        server.n_engines = n_said
        grow(server.url)
        assert not any(RANK in headers for headers in server.headers)


@contextmanager
def router(*urls, policy="consistent_hash"):
    """vllm-router before the servers; its address. Where it is not installed the test skips, saying so."""
    command = shutil.which("vllm-router")
    if command is None:
        pytest.skip("vllm-router is missing: pip install vllm-router==0.1.17 somewhere on the PATH")
    with socket.socket() as free, socket.socket() as metrics:
        ports = []
        for one in (free, metrics):
            one.bind(("127.0.0.1", 0))
            ports.append(str(one.getsockname()[1]))
    options = ["--host", "127.0.0.1", "--port", ports[0], "--prometheus-port", ports[1], "--policy", policy]
    process = subprocess.Popen(
        [command, *options, "--worker-urls", *urls],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(url, process):
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the router has ended"
        assert time.monotonic() < deadline, "the router does not answer"
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)


def test_a_router_keeps_a_tree_on_one_server():
    """vllm-router with consistent_hash goes by the tree's name in X-Session-ID."""
    with running() as one, running() as other, router(one.url, other.url) as url:
        grow(url)
        found = places(one, other)
    assert len(found) == N_TREES
    assert all(len(where) == 1 for where in found.values())
    assert len(set.union(*found.values())) == 2


def grow_whole(url, after_first=lambda: None):
    """Whole trees through a router, and the jobs that they are of."""
    engine = load_engine("openai", MODEL, base_url=url, stop_token_ids=[STOP_ID], chunk_timeout=2.0, give_up_after=20.0)
    rules = BranchConfig(3, 1.8)
    generator = grower(engine, rules)
    assert isinstance(generator, TreeGenerator)
    jobs = [TreeJob(i, (10 + i, 11), rules, SamplingParams(0.9), 30, seed=5) for i in range(N_TREES)]
    found = {}
    try:
        for job in jobs:
            generator.add(job)
        for job, tree in generator.run():
            if not found:
                after_first()
            found[job.prompt_index] = tree
    finally:
        engine.shutdown()
    assert found == {job.prompt_index: tree_of(job) for job in jobs}


def test_whole_trees_pass_through_a_router():
    """It knows nothing of the plugin's routes and hands them on; the trees are shared out among the servers."""
    with trees_running() as one, trees_running() as other, router(one.url, other.url) as url:
        grow_whole(url)
        assert len(one.trees) + len(other.trees) == N_TREES
        assert one.trees
        assert other.trees


def test_a_server_that_dies_behind_a_router_costs_no_tree():
    """What it had begun is asked for again, and the router sends it to the other."""
    with trees_running(seconds_per_token=0.05) as one:
        dying = trees_running(seconds_per_token=0.1)
        other = dying.__enter__()
        with router(one.url, other.url) as url:
            grow_whole(url, after_first=lambda: dying.__exit__(None, None, None))
        assert len(one.trees) + len(other.trees) > N_TREES
