"""`eager serve` over servers that may not be touched: engine openai behind it, OpenAI's client before it."""

import time

import needs
import pytest

for module, extra in (("stamina", "openai"), ("uvicorn", "serve"), ("starlette", "serve"), ("openai", "dev")):
    needs.package(module, extra)
needs.package("prometheus_client", "serve")

import openai  # noqa: E402
from engine_factory import make_openai_engine  # noqa: E402
from fake_openai import MODEL, N_VOCAB, STOP_ID, running  # noqa: E402
from serving import serving  # noqa: E402

import eager  # noqa: E402

MESSAGES = [{"role": "user", "content": "hello"}]
QUICK = {"stop_token_ids": [STOP_ID], "chunk_timeout": 0.4, "first_chunk_timeout": 5.0, "give_up_after": 0.5}


@pytest.fixture
def server():
    with running(seconds_per_token=0.002) as server:
        yield server


@pytest.fixture
def gateway(server):
    engine = eager.load_engine("openai", MODEL, base_url=server.url, **QUICK)
    with serving(engine) as found:
        yield found
    engine.shutdown()


def ask(gateway, model=MODEL, **fields):
    given = {"model": model, "messages": MESSAGES, "seed": 5, "max_tokens": 20, "temperature": 0.9, **fields}
    return gateway.client.chat.completions.create(**given)


def test_a_plain_answer_is_what_the_engine_alone_gets(server, gateway):
    """At once and in pieces."""
    options = {"model_name": MODEL, "engine_options": {"base_url": server.url, **QUICK}, "seed": 5, "max_tokens": 20}
    rules, sampling = eager.BranchingParams(1, 2.9), eager.SamplingParams(0.9)
    (tree,) = eager.generate([MESSAGES], engine="openai", branching=rules, sampling=sampling, **options)
    text = tree.sequences[0].text
    assert ask(gateway).choices[0].message.content == text
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(gateway, stream=True)) == text


def test_a_tree_grows_over_the_servers_streams(gateway):
    """Its sequences are choices, with the log-probabilities that the server tells."""
    answer = ask(
        gateway, logprobs=True, extra_body={"eager": {"max_sequences": 4, "entropy_threshold": 1, "select": "all"}}
    )
    assert len(answer.choices) == answer.eager["sequences"] == 4
    assert answer.eager["branches"] == 3
    for choice in answer.choices:
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_who_leaves_has_the_servers_streams_closed(server, gateway):
    """Within a second, behind the gateway, too."""
    server.seconds_per_token = 0.05
    stream = ask(gateway, n=4, stream=True, max_tokens=400)
    next(iter(stream))
    assert server.n_open == 4
    stream.close()
    end = time.monotonic() + 1
    while server.n_open:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_that_is_gone_is_a_503(server, gateway):
    """After the time that is given to it to come back."""
    assert ask(gateway).choices
    server.stop()
    with pytest.raises(openai.InternalServerError) as raised:
        ask(gateway)
    assert raised.value.status_code == 503
    server.start()


def test_ids_outside_the_vocabulary_are_the_requests_fault(gateway):
    """400, and nobody else notices."""
    with pytest.raises(openai.BadRequestError, match="vocabulary"):
        gateway.client.completions.create(model=MODEL, prompt=[N_VOCAB])


def test_over_a_real_server_untouched():
    """Streamed and at once are one text, a tree's majority is one choice, and a stop text ends in time."""
    engine = make_openai_engine(draws="opening")
    with serving(engine) as gateway:
        plain = ask(gateway, model=engine.model_name)
        pieces = [chunk.choices[0].delta.content or "" for chunk in ask(gateway, model=engine.model_name, stream=True)]
        assert "".join(pieces) == plain.choices[0].message.content
        assert len(pieces) > 3
        rules = {"max_sequences": 4, "entropy_threshold": 1.0}
        tree = ask(gateway, model=engine.model_name, extra_body={"eager": rules})
        assert tree.eager["sequences"] > 1
        assert tree.usage.completion_tokens == tree.eager["tokens"]
        bare = gateway.client.completions.create(
            model=engine.model_name, prompt="One, two, three, four,", temperature=0, stop=","
        )
        assert bare.choices[0].text.strip() == "five"
    engine.shutdown()
