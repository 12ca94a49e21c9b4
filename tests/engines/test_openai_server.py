"""Engine openai over the real server that all tests share: what the contract does not say."""

import time

import needs
import pytest

needs.package("stamina", "openai")

import vllm_server  # noqa: E402
from engine_factory import make_engine, make_openai_engine  # noqa: E402

from eager.engines import EngineError  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.types import BranchConfig, Request, SamplingParams, TreeJob  # noqa: E402

SAMPLING = SamplingParams(temperature=0.8)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße! <|im_end|> Name three rivers."}]


@pytest.fixture(scope="module")
def engine():
    """With the gate's draws."""
    engine = make_openai_engine()
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def plain():
    """As with a server that has no gate."""
    engine = make_openai_engine(draws="opening")
    yield engine
    engine.shutdown()


def decoded(engine, *requests):
    """The ids of each, and its error."""
    for request in requests:
        engine.open(request)
    found = {request.seq_id: [] for request in requests}
    errors = {}
    for _ in range(2000):
        for delta in engine.step():
            found[delta.seq_id] += [token.id for token in delta.tokens]
            if delta.finish_reason:
                errors[delta.seq_id] = delta.error
        if len(errors) == len(found):
            return [(found[request.seq_id], errors[request.seq_id]) for request in requests]
    raise AssertionError("the engine does not come to an end")


def trees(engine, n_trees=2):
    ids = tuple(engine.encode_chat([{"role": "user", "content": "Name three rivers."}]))
    generator = Generator(engine)
    for i in range(n_trees):
        generator.add(TreeJob(i, ids, BranchConfig(4, 1.0), SAMPLING, len(ids) + 24, seed=5))
    return {job.prompt_index: tree for job, tree in generator.run()}


def test_the_probe_sees_what_the_server_is(engine, plain):
    """Its vocabulary, its context, its stop ids by the files beside it, and how it draws."""
    assert engine.identity()["draws"] == "gate"
    assert plain.identity()["draws"] == "opening"
    assert engine.max_model_len == vllm_server.MAX_MODEL_LEN
    assert engine.stops.stop_ids == {2}
    assert engine._facts.n_vocab == 49152
    assert engine._facts.tells_cached
    assert engine.versions()["server"].startswith("0.3")
    assert "model_files" in engine.identity()


def test_the_gate_draws_what_engine_vllm_draws(engine):
    """One processor in both: the same tokens for the same seeds, over HTTP and in process."""
    ids = engine.encode_chat(CHAT)
    requests = [Request(i, ids, SAMPLING, len(ids) + 16, seed=50 + i) for i in range(3)]
    assert decoded(engine, *requests) == decoded(make_engine("vllm"), *requests)


def test_without_the_gate_the_same_command_gives_the_same_trees(plain):
    """Where requests open follows from the tokens, and what they draw from that."""
    first, second = trees(plain), trees(plain)
    assert {i: tree.sequences for i, tree in first.items()} == {i: tree.sequences for i, tree in second.items()}
    assert sum(len(tree.branches) for tree in first.values()) >= 2


def test_without_the_gate_a_fork_does_not_repeat_its_parents_draws(plain):
    """Of the same seed and the same prefix, begun at two places, the rest differs."""
    ids = plain.encode_chat(CHAT)
    hot = SamplingParams(temperature=1.8)
    ((whole, _),) = decoded(plain, Request(0, ids, hot, len(ids) + 12, seed=5))
    ((rest, _),) = decoded(plain, Request(1, [*ids, *whole[:4]], hot, len(ids) + 12, seed=5))
    ((again, _),) = decoded(plain, Request(2, ids, hot, len(ids) + 12, seed=5))
    assert rest != whole[4:]
    assert rest[:4] != whole[:4]
    assert again == whole


def test_without_the_gate_a_temperature_that_vllm_refuses_is_an_error_of_its_own(plain):
    """Its reason is the server's; the next sequence is decoded."""
    ids = plain.encode_chat(CHAT)
    hot, mild = (SamplingParams(temperature=temperature) for temperature in (50.0, 1.0))
    (none, error), (some, no_error) = decoded(
        plain, Request(0, ids, hot, len(ids) + 4, seed=5), Request(1, ids, mild, len(ids) + 4, seed=5)
    )
    assert (none, no_error) == ([], None)
    assert "temperature must be in [0, 2]" in error
    assert some


def test_local_files_give_the_ids_and_texts_of_the_server(engine):
    """`tokenizer` is a folder with the model's own."""
    from eager.engines._demo import hf_demo

    local = make_openai_engine(tokenizer=str(hf_demo()))
    try:
        ids = engine.encode_chat(CHAT)
        assert local.encode_chat(CHAT) == ids
        assert local.decode(ids) == engine.decode(ids)
        assert local.stops == engine.stops
    finally:
        local.shutdown()


def test_a_template_of_the_users_own_needs_the_servers_trust():
    """It refuses them by default; the sentence says which flag."""
    engine = make_openai_engine(chat_template="{{ messages[0].content }}")
    try:
        with pytest.raises(EngineError, match="--trust-request-chat-template"):
            engine.encode_chat(CHAT)
    finally:
        engine.shutdown()


def test_a_closed_stream_frees_its_request(engine):
    """The server decodes no further for nobody."""
    ids = engine.encode_chat(CHAT)
    for seq_id in range(4):
        engine.open(Request(seq_id, ids, SAMPLING, vllm_server.MAX_MODEL_LEN, seed=seq_id))
    while not engine.step():
        pass
    assert running() >= 1
    for seq_id in range(4):
        engine.close(seq_id)
    deadline = time.monotonic() + 5
    while running():
        assert time.monotonic() < deadline, "requests of closed streams go on"
        time.sleep(0.05)


def running():
    """How many requests the server decodes, by its own count."""
    _, text = vllm_server.shared().get("/metrics")
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_an_id_outside_the_vocabulary_is_refused_here(engine):
    """The number of ids was found out at the start."""
    with pytest.raises(EngineError, match="token id 49152 is outside the vocabulary of 49152"):
        engine.decode([49152])
    ((ids, error),) = decoded(engine, Request(0, [1, 49152], SAMPLING, 10, seed=1))
    assert ids == []
    assert "outside the vocabulary of 49152" in error
