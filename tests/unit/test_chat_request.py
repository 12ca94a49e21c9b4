"""What a request asks: every field checked and named, nothing silently ignored."""

import json

import pytest

from eager.chat import OPERATIONS, Asked, ChatError, Defaults, TreeAsked, error_json, read
from eager.types import BranchConfig, SamplingParams

TREE = TreeAsked(BranchConfig(max_sequences=8, entropy_threshold=2.2, threshold_percentile=99))
PLAIN, TREES = Defaults(TREE), Defaults(TREE, is_plain=False)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}
COMPLETION = {"model": "m", "prompt": "Once"}
MINIMAL = {"chat": CHAT, "completion": COMPLETION}


def chat(defaults: Defaults = PLAIN, **fields) -> Asked:
    return read({**CHAT, **fields}, "chat", defaults)


def completion(**fields) -> Asked:
    return read({**COMPLETION, **fields}, "completion", PLAIN)


def refusal(body, operation="chat", defaults=PLAIN) -> ChatError:
    with pytest.raises(ChatError) as raised:
        read(body, operation, defaults)
    assert raised.value.status == 400
    return raised.value


def test_a_minimal_request_is_one_plain_sample():
    """As OpenAI has it: temperature 1, one choice, a chat up to the context and a completion of 16 tokens."""
    assert chat() == Asked("chat", "m", (({"role": "user", "content": "Why?"},),), SamplingParams(1.0), tree=None)
    assert completion() == Asked("completion", "m", ("Once",), SamplingParams(1.0), tree=None, max_tokens=16)


def test_null_is_left_out():
    """OpenAI's clients write null for what they do not set."""
    table = OPERATIONS["chat"].table
    optional = {name: None for name in table if name not in ("model", "messages")}
    assert read({**CHAT, **optional}, "chat", PLAIN) == chat()


def test_what_a_router_adds_changes_nothing():
    """vllm-router writes fields of its own into what it hands on; what they stand for by themselves is what is done."""
    common = {"stream": False, "no_stop_trim": False, "ignore_eos": False, "skip_special_tokens": True}
    common |= {"return_hidden_states": False}
    more = dict.fromkeys(("separate_reasoning", "stream_reasoning", "include_reasoning"), True)
    assert chat(**common, **more, logprobs=False, continue_final_message=False) == chat()
    assert completion(**common, echo=False) == completion()
    assert refusal({**CHAT, "ignore_eos": True}).param == "ignore_eos"


def test_every_field_arrives():
    """Under the name that this package has for it."""
    asked = chat(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, n=3, max_completion_tokens=7, seed=-5, stop=["\n", "END"],
        stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=4,
    )  # fmt: skip
    assert asked.sampling == SamplingParams(0.5, 0.9, 40, 0.1)
    assert (asked.n, asked.max_tokens, asked.seed, asked.stop) == (3, 7, -5, ("\n", "END"))
    assert (asked.stream, asked.include_usage, asked.n_top) == (True, True, 4)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([5, 6], ((5, 6),)), ([[5], [6, 7]], ((5,), (6, 7)))],
)
def test_a_completion_takes_every_form_of_prompt(given, prompts):
    """A text, token ids, or a list of either."""
    assert completion(prompt=given).prompts == prompts


def test_temperature_0_is_the_lowest_that_engines_draw_at():
    """It leaves nothing to chance."""
    assert chat(temperature=0).sampling.temperature == 1e-5


def test_parts_and_roles_become_what_templates_know():
    """Parts of text are joined, and a developer speaks as the system."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    expected = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\nb"})
    assert chat(messages=messages).prompts == (expected,)


def test_a_block_goes_over_the_defaults():
    """What it leaves out is as the server has it; null takes a percentile away."""
    asked = chat(eager={"max_sequences": 4, "threshold_percentile": None, "select": "all", "settle": 0.9})
    rules = BranchConfig(max_sequences=4, entropy_threshold=2.2)
    assert asked.tree == TreeAsked(rules, select="all", settle=0.9)
    assert chat(eager={}).tree == TREE


@pytest.mark.parametrize(
    ("defaults", "fields", "tree"),
    [
        (PLAIN, {}, None),
        (TREES, {}, TREE),
        (TREES, {"n": 1}, TREE),
        (TREES, {"n": 2}, None),
        (TREES, {"eager": None}, None),
    ],
)
def test_who_says_nothing_gets_what_the_server_is_set_to(defaults, fields, tree):
    """Unless several samples are asked for, or a null block asks for plain ones."""
    assert chat(defaults, **fields).tree == tree


BAD = [
    ({"model": 5}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, None),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content.type"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 10**400}, "temperature"),
    ({"seed": 10**400}, "seed"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"seed": 1 << 64}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"includes": True}}, "stream_options.includes"),
    ({"logprobs": 5}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"best_of": 2}, "best_of"),
    ({"surprise": 1}, "surprise"),
    ({"eager": True}, "eager"),
    ({"eager": {"max_sequence": 4}}, "eager.max_sequence"),
    ({"eager": {"max_sequences": 0}}, "eager.max_sequences"),
    ({"eager": {"max_sequences": 129}}, "eager.max_sequences"),
    ({"eager": {"entropy_threshold": 3.1}}, "eager.entropy_threshold"),
    ({"eager": {"branch_rule": "top3"}}, "eager.branch_rule"),
    ({"eager": {"select": "best"}}, "eager.select"),
    ({"eager": {"settle": 1}}, "eager.settle"),
    ({"eager": {}, "n": 2}, "n"),
    ({"eager": {}, "logprobs": True, "top_logprobs": 1}, "top_logprobs"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[f"{param}-{i}" for i, (_, param) in enumerate(BAD)])
def test_what_is_wrong_is_named(fields, param):
    """Every bad type, range and name is one error of OpenAI's form, with the field in it."""
    error = refusal({**CHAT, **fields})
    assert error.param == param
    body = error_json(error)["error"]
    assert body == {"message": str(error), "type": "invalid_request_error", "param": param, "code": None}
    assert "\n" not in body["message"]


CANNOT = {
    "chat": {
        "tools": [{"type": "function"}], "tool_choice": "required", "functions": [{}], "function_call": {"name": "f"},
        "response_format": {"type": "json_object"}, "logit_bias": {"5": 1}, "presence_penalty": 0.1,
        "frequency_penalty": -1, "repetition_penalty": 1.1, "modalities": ["audio"], "audio": {}, "prediction": {},
        "reasoning_effort": "low", "verbosity": "low", "web_search_options": {}, "store": True,
    },
    "completion": {
        "best_of": 3, "echo": True, "suffix": "end", "logit_bias": {"5": 1}, "presence_penalty": 1,
        "frequency_penalty": 1, "response_format": {"type": "json_object"},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("operation", "name"), [(operation, name) for operation in CANNOT for name in CANNOT[operation]]
)
def test_what_cannot_be_had_is_refused_by_name(operation, name):
    """Rather than left undone in silence."""
    error = refusal({**MINIMAL[operation], name: CANNOT[operation][name]}, operation)
    assert error.param == name
    assert "cannot be had here" in str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logit_bias": {}},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0},
    ],
)
def test_what_changes_nothing_is_taken(fields):
    """Fields that no answer depends on, and values that ask for nothing."""
    assert chat(**fields) == chat()


@pytest.mark.parametrize("body", [None, [], "text", 5, {}, {"model": "m"}, json.loads("1" + "0" * 4000)])
def test_what_is_no_request_is_refused(body):
    """Whatever JSON it is."""
    refusal(body)


def test_several_prompts_have_one_choice_each():
    """Of all sequences nobody would know whose they are."""
    body = {**COMPLETION, "prompt": ["a", "b"], "eager": {"select": "all"}}
    assert refusal(body, "completion").param == "prompt"
