"""The fields of a request: what each must be, what it stands for where it is left out, and which cannot be had.

A field may be null where it may be left out, as OpenAI's clients write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from eager.wire import RULES
from eager.wire.kinds import (
    SWITCH,
    TOKEN,
    Field,
    Kind,
    above_0,
    an_object,
    list_of,
    number,
    one_of,
    or_null,
    whole,
)

Operation: TypeAlias = Literal["chat", "completion"]
Select: TypeAlias = Literal["majority", "all", "first"]
VoteKind: TypeAlias = Literal["math", "choice", "text"]

MAX_TOP = 20  # log-probabilities beside a token's own: as many as engines are asked for
_MAX_STOPS, _MAX_STOP_CHARACTERS, _MAX_PROMPTS, _MAX_MESSAGES = 16, 1000, 64, 4096


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and (value.isascii() or _is_unicode(value))


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


TEXT = Kind("a text", _is_text, {"type": "string"})
_STOP = Kind(
    f"a text of 1 to {_MAX_STOP_CHARACTERS} characters",
    lambda value: _is_text(value) and 1 <= len(value) <= _MAX_STOP_CHARACTERS,
    {"type": "string", "minLength": 1, "maxLength": _MAX_STOP_CHARACTERS},
)
_CERTAINTY = Kind(
    "a number above 0.5 and below 1",
    lambda value: number(0.5, 1).fits(value) and value not in (0.5, 1),
    {"type": "number", "exclusiveMinimum": 0.5, "exclusiveMaximum": 1},
)
_ANYTHING = Kind("anything", lambda value: True, {})


def either(*kinds: Kind) -> Kind:
    return Kind(
        ", or ".join(kind.wanted for kind in kinds),
        lambda value: any(kind.fits(value) for kind in kinds),
        {"anyOf": [kind.schema for kind in kinds]},
    )


def _optional(kind: Kind, default: Any = None) -> Field:
    return Field(or_null(kind), default)


_SAID = {"None": "null", "False": "false", "True": "true"}


def _nothing_but(*values: Any) -> Field:
    """A field of OpenAI's or vLLM's that cannot be had, so that nothing but what changes nothing is taken."""
    written = " or ".join(_SAID.get(repr(value), repr(value)) for value in (*values, None))
    kind = Kind(
        f"left out, or {written}: it cannot be had here",
        lambda value: value is None or any(type(value) is type(known) and value == known for known in values),
        {"enum": [*values, None]},
    )
    return Field(kind, None)


_HARMLESS = Field(_ANYTHING, None)  # changes no answer

# What vllm-router writes into every request that it hands on, and more into a chat.
_FROM_ROUTERS = {
    **{name: _nothing_but(False) for name in ("ignore_eos", "no_stop_trim", "return_hidden_states")},
    "skip_special_tokens": _nothing_but(True),
}
_FROM_ROUTERS_CHAT = {
    "continue_final_message": _nothing_but(False),
    **{name: _nothing_but(True) for name in ("include_reasoning", "separate_reasoning", "stream_reasoning")},
}

_LEFT_OUT: Any = object()
EAGER = {
    **{name: Field(field.kind, _LEFT_OUT) for name, field in RULES.items()},
    "select": Field(one_of(*get_args(Select)), _LEFT_OUT),
    "vote": Field(one_of(*get_args(VoteKind)), _LEFT_OUT),
    "settle": Field(or_null(_CERTAINTY), _LEFT_OUT),
}
"""What is left out is as the server has it."""

STREAM_OPTIONS = {"include_usage": _optional(SWITCH, False), "include_obfuscation": _HARMLESS}

_COMMON = {
    "model": Field(TEXT),
    "temperature": _optional(number(0, 2)),
    "top_p": _optional(above_0(1)),
    "top_k": _optional(whole(-1)),
    "min_p": _optional(number(0, 1)),
    "n": _optional(whole(1), 1),
    "max_tokens": _optional(whole(1)),
    "seed": _optional(whole(-(1 << 63), (1 << 63) - 1)),
    "stop": _optional(either(_STOP, list_of(0, _MAX_STOPS, _STOP))),
    "stream": _optional(SWITCH, False),
    "stream_options": _optional(an_object(STREAM_OPTIONS)),
    "eager": _optional(an_object(EAGER)),
    "user": _HARMLESS,
    "logit_bias": _nothing_but({}),
    "presence_penalty": _nothing_but(0, 0.0),
    "frequency_penalty": _nothing_but(0, 0.0),
    "repetition_penalty": _nothing_but(1, 1.0),
    "response_format": _nothing_but({"type": "text"}),
    **_FROM_ROUTERS,
}
PART = {"type": Field(one_of("text")), "text": Field(TEXT)}
MESSAGE = {
    "role": Field(one_of("system", "developer", "user", "assistant")),
    "content": Field(either(TEXT, list_of(0, _MAX_MESSAGES, an_object(PART)))),
    "name": _optional(TEXT),
    "refusal": _nothing_but(""),
    "tool_calls": _nothing_but([]),
    "function_call": _nothing_but(),
    "audio": _nothing_but(),
    "annotations": _nothing_but([]),
}
CHAT = {
    **_COMMON,
    "messages": Field(
        Kind(
            f"a list of 1 to {_MAX_MESSAGES} messages",
            lambda value: isinstance(value, list) and 1 <= len(value) <= _MAX_MESSAGES,
            {"type": "array", "minItems": 1, "maxItems": _MAX_MESSAGES, "items": an_object(MESSAGE).schema},
        )
    ),
    "max_completion_tokens": _optional(whole(1)),
    "logprobs": _optional(SWITCH, False),
    "top_logprobs": _optional(whole(0, MAX_TOP)),
    "tools": _nothing_but([]),
    "tool_choice": _nothing_but("none", "auto"),
    "parallel_tool_calls": _HARMLESS,
    "functions": _nothing_but([]),
    "function_call": _nothing_but("none", "auto"),
    "modalities": _nothing_but(["text"]),
    "audio": _nothing_but(),
    "prediction": _nothing_but(),
    "reasoning_effort": _nothing_but(),
    "verbosity": _nothing_but(),
    "web_search_options": _nothing_but(),
    "store": _nothing_but(False),
    "metadata": _HARMLESS,
    "service_tier": _HARMLESS,
    "safety_identifier": _HARMLESS,
    "prompt_cache_key": _HARMLESS,
    **_FROM_ROUTERS_CHAT,
}
COMPLETION = {
    **_COMMON,
    "prompt": Field(
        either(
            TEXT,
            list_of(1, _MAX_PROMPTS, TEXT),
            list_of(1, 1 << 22, TOKEN),
            list_of(1, _MAX_PROMPTS, list_of(1, 1 << 22, TOKEN)),
        )
    ),
    "logprobs": _optional(whole(0, MAX_TOP)),
    "best_of": _nothing_but(1),
    "echo": _nothing_but(False),
    "suffix": _nothing_but(""),
}


class _Form(NamedTuple):
    path: str
    table: Mapping[str, Field]


OPERATIONS: dict[Operation, _Form] = {
    "chat": _Form("/v1/chat/completions", CHAT),
    "completion": _Form("/v1/completions", COMPLETION),
}


def body_schema(operation: Operation) -> dict[str, Any]:
    """The JSON Schema of a request's body."""
    return dict(an_object(OPERATIONS[operation].table).schema)
