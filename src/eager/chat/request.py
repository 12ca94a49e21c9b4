"""From the body of a request to what is asked: every value checked, nothing silently ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from eager.chat.errors import ChatError
from eager.chat.tables import EAGER, MESSAGE, OPERATIONS, PART, STREAM_OPTIONS, Operation, Select, VoteKind
from eager.types import TEMPERATURES, BranchConfig, SamplingParams
from eager.wire import WireError
from eager.wire.kinds import Field, read as read_fields
from eager.words import one_line

Prompt: TypeAlias = str | tuple[Mapping[str, str], ...] | tuple[int, ...]
"""A bare text, the messages of a chat, or token ids."""

_RULES = frozenset(field.name for field in fields(BranchConfig))
_SAMPLING = SamplingParams(temperature=1.0)
_COMPLETION_TOKENS = 16  # OpenAI's default for completions; that of a chat is what the context holds


@dataclass(frozen=True, slots=True)
class TreeAsked:
    """A tree, and what of it is the answer.

    `majority`: the first sequence with the answer that most give (`vote`: how answers are found); `first`: the first
    sequence, by birth, that came to an end; `all`: each that did. With `settle` the tree ends once its majority is as
    certain.
    """

    rules: BranchConfig
    select: Select = "majority"
    vote: VoteKind = "math"
    settle: float | None = None

    def __post_init__(self) -> None:
        if self.settle is not None and not 0.5 < self.settle < 1:
            raise ValueError(f"settle must be above 0.5 and below 1, got {self.settle!r}")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that says nothing gets. `is_plain`: without an `eager` block it gets no tree.

    `most_sequences` bounds n and max_sequences. `temperature` and the like are OpenAI's own unless told otherwise.
    """

    tree: TreeAsked
    is_plain: bool = True
    sampling: SamplingParams = _SAMPLING
    most_sequences: int = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. Without a `tree`: `n` samples of each prompt.

    `n_top`: how many log-probabilities beside a token's own, None for none at all. `max_tokens` None: as many as the
    context holds. `seed` None: any.
    """

    operation: Operation
    model: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    tree: TreeAsked | None
    n: int = 1
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n_top: int | None = None
    stream: bool = False
    include_usage: bool = False


def read(body: Any, operation: Operation, defaults: Defaults) -> Asked:
    """What the body asks. Raises ChatError (400) that names the field."""
    given = _fields(body, OPERATIONS[operation].table, "the request", "")
    options = _fields(given["stream_options"] or {}, STREAM_OPTIONS, "stream_options", "stream_options.")
    asked = Asked(
        operation=operation,
        model=given["model"],
        prompts=_chat(given["messages"]) if operation == "chat" else _prompts(given["prompt"]),
        sampling=_sampling(given, defaults.sampling),
        tree=_tree(body, given, defaults),
        n=given["n"] or 1,
        max_tokens=_max_tokens(given, operation),
        seed=given["seed"],
        stop=_stop(given["stop"]),
        n_top=_n_top(given, operation),
        stream=bool(given["stream"]),
        include_usage=bool(options["include_usage"]),
    )
    _check(asked, defaults)
    return asked


def _fields(data: Any, table: Mapping[str, Field], what: str, place: str) -> dict[str, Any]:
    try:
        return read_fields(data, table, what, is_open=False)
    except WireError as error:
        param = None if error.field is None else one_line(place + error.field, 80)
        raise ChatError(str(error), param=param) from None


def _check(asked: Asked, defaults: Defaults) -> None:
    """What no field by itself is wrong with. Raises ChatError."""
    most = defaults.most_sequences
    if asked.n > most:
        raise ChatError(f"n must be at most {most} on this server, got {asked.n}", param="n")
    if asked.tree is None:
        return
    if asked.tree.rules.max_sequences > most:
        wanted = asked.tree.rules.max_sequences
        raise ChatError(
            f"max_sequences must be at most {most} on this server, got {wanted}", param="eager.max_sequences"
        )
    if asked.n > 1:
        raise ChatError("n must be 1 with eager: select 'all' gives every sequence of the tree", param="n")
    if asked.tree.select == "all" and len(asked.prompts) > 1:
        raise ChatError(
            "one prompt a request with select 'all': how many choices it brings is not known", param="prompt"
        )
    if asked.n_top:
        raise ChatError("log-probabilities of other tokens cannot be had of trees: ask for none", param="top_logprobs")


def _tree(body: Mapping[str, Any], given: Mapping[str, Any], defaults: Defaults) -> TreeAsked | None:
    """A null block asks for plain samples whatever the server's default is, and so does n > 1 without a block."""
    block = given["eager"]
    if block is None:
        is_plain = defaults.is_plain or "eager" in body or (given["n"] or 1) > 1
        return None if is_plain else defaults.tree
    _fields(block, EAGER, "eager", "eager.")
    try:
        rules = replace(defaults.tree.rules, **{name: block[name] for name in block.keys() & _RULES})
    except ValueError as error:
        raise ChatError(str(error), param="eager") from None
    return replace(defaults.tree, rules=rules, **{name: block[name] for name in block.keys() - _RULES})


def _sampling(given: Mapping[str, Any], default: SamplingParams) -> SamplingParams:
    """Temperature 0, which is the most likely token, is the lowest that engines draw at."""
    named = {name: given[name] for name in ("temperature", "top_p", "top_k", "min_p") if given[name] is not None}
    if "temperature" in named:
        named["temperature"] = max(float(named["temperature"]), TEMPERATURES[0])
    if named.get("top_k") == -1:  # vLLM's word for off
        named["top_k"] = 0
    return replace(default, **named)


def _max_tokens(given: Mapping[str, Any], operation: Operation) -> int | None:
    old: int | None = given["max_tokens"]
    if operation == "completion":
        return old or _COMPLETION_TOKENS
    new: int | None = given["max_completion_tokens"]
    if old is not None and new is not None and old != new:
        raise ChatError("max_tokens and max_completion_tokens differ: give one of them", param="max_tokens")
    return new if old is None else old


def _n_top(given: Mapping[str, Any], operation: Operation) -> int | None:
    if operation == "completion":
        n_top: int | None = given["logprobs"]
        return n_top
    if given["top_logprobs"] and not given["logprobs"]:
        raise ChatError("top_logprobs needs logprobs: true", param="top_logprobs")
    return (given["top_logprobs"] or 0) if given["logprobs"] else None


def _stop(given: str | list[str] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _prompts(given: Any) -> tuple[Prompt, ...]:
    if isinstance(given, str):
        return (given,)
    if isinstance(given[0], int):
        return (tuple(given),)
    return tuple(item if isinstance(item, str) else tuple(item) for item in given)


def _chat(messages: list[Any]) -> tuple[Prompt, ...]:
    return (tuple(_message(message, place) for place, message in enumerate(messages)),)


def _message(message: Any, place: int) -> dict[str, str]:
    """As templates know them: text alone, and `developer` under its older name."""
    what = f"messages[{place}]"
    given = _fields(message, MESSAGE, what, f"{what}.")
    content = given["content"]
    if isinstance(content, list):
        content = "\n".join(_fields(part, PART, f"{what}.content", f"{what}.content.")["text"] for part in content)
    role = "system" if given["role"] == "developer" else given["role"]
    return {"role": role, "content": content} | ({"name": given["name"]} if given["name"] else {})
