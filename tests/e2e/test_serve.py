"""`eager serve` as OpenAI's own client meets it, on the scripted engine over loopback."""

import asyncio
import http.client
import json
import re
import socket
import time
from collections import Counter
from pathlib import Path

import needs
import pytest

needs.package("uvicorn", "serve")
needs.package("starlette", "serve")
needs.package("prometheus_client", "serve")
openai = needs.package("openai", "dev")

from serving import TREE, Running, serving  # noqa: E402

from eager.api import generate  # noqa: E402
from eager.chat import Defaults  # noqa: E402
from eager.engines.scripted import ScriptedEngine  # noqa: E402
from eager.server.gateway import Settings  # noqa: E402
from eager.types import BranchConfig, SamplingParams  # noqa: E402

MESSAGES = [{"role": "user", "content": "how many apples are there in the big basket?"}]
EAGER = {"max_sequences": 8, "entropy_threshold": 1.5}


@pytest.fixture(scope="module")
def running():
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def slow():
    """Every step of the engine takes a hundredth of a second, and no sequence ends by itself."""
    with serving(endless(seconds_per_step=0.01)) as found:
        yield found


def endless(**options) -> ScriptedEngine:
    return ScriptedEngine(script=lambda ids: {1: 0.5, 2: 0.5}, vocabulary=("<end>", "a", "b"), **options)


def ask(running: Running, **fields):
    given = {"model": "chain", "messages": MESSAGES, "seed": 7, **fields}
    return running.client.chat.completions.create(**given)


def post(running: Running, body, path="/v1/chat/completions", **headers) -> tuple[int, dict]:
    """The status and the JSON that a body of any kind is answered with."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def get(running: Running, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def of_engine(n: int = 1, **options):
    """What the engine alone draws for the same request."""
    rules = BranchConfig(n, 2.9)
    engine, sampling = ScriptedEngine("chain"), SamplingParams(1.0)
    (tree,) = generate([MESSAGES], engine=engine, branching=rules, sampling=sampling, seed=7, parallel=True, **options)
    return tree


# -- plain ------------------------------------------------------------------------------------------------------------


def test_a_plain_request_gets_what_the_engine_draws(running):
    """The same text, token for token, and its cost."""
    answer, tree = ask(running), of_engine()
    (choice,) = answer.choices
    assert choice.message.content == tree.sequences[0].text
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert answer.usage.prompt_tokens == len(tree.prompt_ids)
    assert answer.usage.completion_tokens == tree.n_tokens
    assert "eager" not in answer.model_extra


def test_n_samples_are_n_choices(running):
    """In their order."""
    answer, tree = ask(running, n=5), of_engine(5)
    assert [choice.message.content for choice in answer.choices] == [sequence.text for sequence in tree.sequences]
    assert [choice.index for choice in answer.choices] == [*range(5)]
    assert answer.usage.completion_tokens == tree.n_tokens


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_tells_the_same_in_pieces(running, n):
    """Text, ends and cost are those of the answer in one object."""
    whole = ask(running, n=n, max_tokens=12)
    texts, ends, n_chunks = Counter(), {}, 0
    for chunk in ask(running, n=n, max_tokens=12, stream=True, stream_options={"include_usage": True}):
        n_chunks += 1
        for choice in chunk.choices:
            texts[choice.index] = (texts[choice.index] or "") + (choice.delta.content or "")
            ends[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunk.usage == whole.usage
    assert not chunk.choices
    assert n_chunks > 3


def test_a_seed_repeats_and_none_does_not(running):
    """Twenty answers without a seed are not all the same."""
    assert ask(running, seed=3).choices == ask(running, seed=3).choices
    assert len({ask(running, seed=None).choices[0].message.content for _ in range(20)}) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_an_answer(running, stream):
    """It is no part of it, and what would come after it is not decoded."""
    unstopped = ask(running)
    text = unstopped.choices[0].message.content
    stop = text[len(text) // 2 :][:4]
    answer = ask(running, stop=[stop], stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    chunks = list(answer) if stream else []
    found = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) if stream else None
    usage = chunks[-1].usage if stream else answer.usage
    assert (found if stream else answer.choices[0].message.content) == text[: text.find(stop)]
    assert usage.completion_tokens < unstopped.usage.completion_tokens


def test_log_probabilities_are_those_of_the_model(running):
    """Of every token and of the likeliest beside it; a certain token has 0."""
    answer = ask(running, logprobs=True, top_logprobs=3)
    (choice,) = answer.choices
    content = choice.logprobs.content
    assert "".join(token.token for token in content) == choice.message.content
    for token in content:
        assert len(token.top_logprobs) <= 3
        assert max(other.logprob for other in token.top_logprobs) >= token.logprob
        assert bytes(token.bytes).decode() == token.token
    tree = of_engine(record_all=True)
    assert [token.logprob for token in content] == pytest.approx(tree.sequences[0].logprobs[: len(content)])
    chunks = [chunk.choices[0].logprobs for chunk in ask(running, logprobs=True, top_logprobs=3, stream=True)]
    assert [token for logprobs in chunks if logprobs for token in logprobs.content] == content


def test_a_bare_prompt_is_completed(running):
    """Without a template; several prompts have n choices each, and 16 tokens unless told otherwise."""
    answer = running.client.completions.create(model="chain", prompt=["one two", "three"], n=2, seed=1, logprobs=0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 3
    for choice in answer.choices:
        assert "".join(choice.logprobs.tokens) == choice.text
        assert len(choice.logprobs.tokens) <= 16
    by_ids = running.client.completions.create(model="chain", prompt=[1334, 1346], seed=1)
    assert by_ids.usage.prompt_tokens == 2


def test_a_length_that_is_reached_says_so(running):
    """After so many tokens."""
    answer = ask(running, max_completion_tokens=2)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)


# -- trees ------------------------------------------------------------------------------------------------------------


def tree_of_engine():
    rules = BranchConfig(**EAGER)
    (tree,) = generate(
        [MESSAGES], engine=ScriptedEngine("chain"), branching=rules, sampling=SamplingParams(1.0), seed=7
    )
    return tree


def test_all_sequences_of_a_tree_are_choices(running):
    """They are those of the Python API, and the cost counts a shared prefix once."""
    answer, tree = ask(running, extra_body={"eager": {**EAGER, "select": "all"}}), tree_of_engine()
    assert len(tree.sequences) > 2
    by_number = {choice.eager["sequence"]: choice for choice in answer.choices}
    assert [by_number[s.index].message.content for s in tree.sequences] == [s.text for s in tree.sequences]
    assert [by_number[s.index].eager["parent"] for s in tree.sequences] == [s.parent for s in tree.sequences]
    assert answer.usage.completion_tokens == answer.eager["tokens"] == tree.n_tokens
    assert answer.eager["tokens_without_sharing"] == tree.n_tokens_naive
    assert answer.eager["branches"] == len(tree.branches)


def test_the_majority_answers_as_one_choice(running):
    """The first sequence with the answer that most give; the vote is told with it."""
    everything = ask(running, extra_body={"eager": {**EAGER, "select": "all"}})
    answer = ask(running, extra_body={"eager": EAGER})
    (choice,) = answer.choices
    votes = Counter(
        text.rsplit("\\boxed{", 1)[1][0] for text in (c.message.content for c in everything.choices) if "boxed" in text
    )
    assert votes[choice.eager["answer"]] == choice.eager["n_votes"] == max(votes.values())
    assert choice.eager["n_voters"] == votes.total()
    assert choice.message.content in [c.message.content for c in everything.choices]
    assert f"boxed{{{choice.eager['answer']}}}" in choice.message.content
    assert answer.usage == everything.usage


@pytest.mark.parametrize("select", ["majority", "first", "all"])
def test_a_streamed_tree_tells_its_choices_whole(running, select):
    """The same choices, in one piece each, and what the tree took in the last chunk, for who asks for that."""
    block = {"eager": {**EAGER, "select": select}}
    whole = ask(running, extra_body=block)
    assert all(chunk.choices for chunk in ask(running, extra_body=block, stream=True))
    chunks = list(ask(running, extra_body=block, stream=True, stream_options={"include_usage": True}))
    told = [c.choices[0] for c in chunks if c.choices and c.choices[0].finish_reason]
    assert [choice.delta.content for choice in told] == [choice.message.content for choice in whole.choices]
    assert [choice.eager for choice in told] == [choice.eager for choice in whole.choices]
    assert (chunks[-1].eager, chunks[-1].usage) == (whole.eager, whole.usage)


def test_the_first_is_the_first(running):
    """Sequence 0, which no branch gave birth to."""
    answer = ask(running, extra_body={"eager": {**EAGER, "select": "first"}})
    assert answer.choices[0].message.content == tree_of_engine().sequences[0].text


def test_a_tree_may_end_with_its_first_sequence_that_is_done(running):
    """What was cut then is no answer; the shortest of the whole tree is."""
    block = {**EAGER, "select": "first", "stop_after": 1}
    answer = ask(running, extra_body={"eager": block})
    shortest = min(tree_of_engine().sequences, key=lambda sequence: len(sequence.token_ids))
    assert answer.choices[0].message.content == shortest.text
    assert answer.usage.completion_tokens < tree_of_engine().n_tokens


def test_log_probabilities_of_trees_cover_shared_tokens(running):
    """Those of tokens taken over from a parent are the parent's."""
    answer = ask(running, logprobs=True, extra_body={"eager": {**EAGER, "select": "all"}})
    for choice in answer.choices:
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
        assert all(token.logprob > -9999 for token in choice.logprobs.content)


def test_a_tree_that_settles_ends_early(running):
    """Once its answers agree so far; what was cut is no choice."""
    settled = ask(running, extra_body={"eager": {**EAGER, "select": "all", "settle": 0.7, "vote": "math"}})
    whole = ask(running, extra_body={"eager": {**EAGER, "select": "all"}})
    assert len(settled.choices) < len(whole.choices)


def test_a_server_may_give_everybody_trees():
    """An unknowing client gets the majority's answer; a null block, or n, asks for plain samples."""
    with serving(settings=Settings(Defaults(TREE, is_plain=False))) as running:
        assert ask(running).eager["sequences"] > 1
        assert "eager" not in ask(running, n=2).model_extra
        assert "eager" not in ask(running, extra_body={"eager": None}).model_extra


def test_what_easy_requests_leave_hard_ones_spend():
    """No request has less than its own share, and together they never have more than all shares."""
    with serving(settings=Settings(Defaults(TREE), sequences_per_request=3)) as running:
        took = [
            ask(running, messages=[{"role": "user", "content": f"problem {i} " * 3}], seed=i,
                extra_body={"eager": {"max_sequences": 12, "entropy_threshold": 1.5, "select": "all"}}).eager
            for i in range(20)
        ]  # fmt: skip
        n_sequences = [one["sequences"] for one in took]
        assert all(sum(n_sequences[: i + 1]) <= 3 * (i + 1) for i in range(20))
        assert any(one["extra_sequences"] > 0 for one in took)
        assert all(one["sequences"] - one["extra_sequences"] <= 3 for one in took)
        balance = 3 * 20 - sum(n_sequences)
        assert f"eager_budget_balance {balance:.1f}".encode() in get(running, "/metrics")[1]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "other"}, openai.NotFoundError, "model"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"extra_body": {"eager": {"sequences": 8}}}, openai.BadRequestError, "eager.sequences"),
        ({"messages": [{"role": "user", "content": "a " * 40_000}]}, openai.BadRequestError, "messages"),
        ({"model": "other", "stream": True}, openai.NotFoundError, "model"),
    ],
)
def test_the_client_knows_what_is_wrong(running, fields, error, param):
    """By the kind of its error and the field at fault, streamed or not."""
    with pytest.raises(error) as raised:
        ask(running, **fields)
    assert raised.value.body["param"] == param


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b"1" * 10_000, b'"\\ud800"', b"null"]
)
def test_what_is_no_request_is_refused(running, body):
    """In OpenAI's form, whatever the bytes are."""
    status, answer = post(running, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


def test_a_body_of_100_mb_is_refused_and_not_kept(running):
    """And the server goes on."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunk = b" " * (1 << 20)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    connection.request("POST", "/v1/completions", (chunk for _ in range(100)), headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert "prompt" in json.loads(response.read())["error"]["message"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert ask(running).choices


def test_a_form_of_a_web_page_is_refused(running):
    """A page in a browser here can send nothing but such without asking first."""
    status, _ = post(running, {"model": "chain", "messages": MESSAGES}, **{"Content-Type": "text/plain"})
    assert status == 415


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", "/v1/completions", 405)])
def test_other_paths_are_refused_in_the_same_form(running, method, path, status):
    """So that every client finds the sentence."""
    found, body = get(running, path)
    assert found == status
    assert path in json.loads(body)["error"]["message"]


def test_a_key_is_asked_for():
    """Below /v1; a wrong one, or none, is refused before anything is read."""
    with serving(settings=Settings(Defaults(TREE), api_key="secret")) as running:
        for key in ("wrong", "secre", "secretsecret"):
            with pytest.raises(openai.AuthenticationError):
                running.client.with_options(api_key=key).models.list()
        assert running.client.with_options(api_key="secret").models.list().data[0].id == "chain"
        assert post(running, {})[0] == 401
        assert post(running, {}, Authorization="Bearer s\u00e9cret")[0] == 401
        assert get(running, "/health")[0] == 200


def test_models_are_told(running):
    """The one there is, by the name that clients ask for."""
    client = running.client
    assert [model.id for model in client.models.list()] == ["chain"]
    assert client.models.retrieve("chain").max_model_len == 32768
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


# -- many at once, and who leaves -------------------------------------------------------------------------------------


def test_hundreds_of_clients_get_what_one_would(running):
    """All at once on one engine: every answer is that of its seed, plain and tree."""

    async def one(client, seed):
        block = {"eager": {**EAGER, "select": "first"}} if seed % 3 == 0 else {}
        answer = await client.chat.completions.create(model="chain", messages=MESSAGES, seed=seed, extra_body=block)
        return answer.choices[0].message.content

    async def all_and_each():
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="any", timeout=300) as client:
            at_once = await asyncio.gather(*(one(client, seed) for seed in [*range(20)] * 15))
            return at_once, [await one(client, seed) for seed in range(20)]

    at_once, alone = asyncio.run(all_and_each())
    assert at_once == alone * 15
    assert running.is_idle(1)


@pytest.mark.parametrize("block", [{}, {"eager": {"max_sequences": 8, "entropy_threshold": 0.5}}])
@pytest.mark.parametrize("is_stream", [True, False])
def test_who_leaves_takes_his_sequences_along(slow, is_stream, block):
    """Within a second nothing of it is decoded any more."""
    body = json.dumps({"model": "chain", "messages": MESSAGES, "stream": is_stream, "n": 1, **block}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", slow.port)) as connection:
        connection.sendall(head.encode() + body)
        while not slow.host.progress.sequences_open:
            time.sleep(0.01)
        if is_stream and not block:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert slow.is_idle(1)
    while b'status="499"' not in get(slow, "/metrics")[1]:
        time.sleep(0.01)


def test_a_full_server_says_when_to_come_again():
    """Whoever is one too many is refused at once, and the client knows that it may try again."""
    with serving(endless(seconds_per_step=0.01), Settings(Defaults(TREE), most_requests=2)) as running:
        streams = [ask(running, stream=True, max_tokens=2000) for _ in range(2)]
        with pytest.raises(openai.InternalServerError) as raised:
            ask(running)
        assert (raised.value.status_code, raised.value.code) == (503, "server_busy")
        assert raised.value.response.headers["retry-after"]
        for stream in streams:
            stream.close()


def test_an_engine_that_breaks_is_told_and_tried_again():
    """Everybody who waits gets 503, /health says it, and a later success mends it."""
    engine = ScriptedEngine("chain", fail_after=3)
    with serving(engine) as running:
        with pytest.raises(openai.InternalServerError, match="broke") as raised:
            ask(running)
        assert raised.value.status_code == 503
        status, body = get(running, "/health")
        assert (status, b"broke" in body) == (503, True)
        with pytest.raises(openai.APIError, match="broke"):
            list(ask(running, stream=True))
        engine._steps_left = None
        assert ask(running).choices
        assert get(running, "/health")[0] == 200


def test_the_pages_snippet_runs(running, capsys):
    """docs/serving.md shows what the official client does, here with the scripted model."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    snippet = snippet.replace("http://127.0.0.1:8000", running.url).replace('"demo"', '"chain"')
    exec(compile(snippet, "docs/serving.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "n_votes" in shown
    assert "CompletionUsage" in shown


def test_metrics_count_what_was_answered():
    """Requests by status, tokens, sequences and branches."""
    with serving() as running:
        answers = [ask(running), ask(running, extra_body={"eager": EAGER})]
        post(running, {})
        shown = get(running, "/metrics")[1].decode()
        values = dict(line.rsplit(" ", 1) for line in shown.splitlines() if not line.startswith("#"))
        assert values['eager_requests_total{operation="chat",status="200"}'] == "2.0"
        assert values['eager_requests_total{operation="chat",status="400"}'] == "1.0"
        assert float(values["eager_completion_tokens_total"]) == sum(a.usage.completion_tokens for a in answers)
        assert float(values["eager_sequences_total"]) == 1 + answers[1].eager["sequences"]
        assert (values["eager_requests_in_flight"], values["eager_up"]) == ("0.0", "1.0")
        assert 'eager_request_seconds_count{operation="chat"}' in values
