"""What a request tells the gate of its tree, in flat values: they travel in `extra_args`, over HTTP in `vllm_xargs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

from eager.types import MAX_ENTROPY

PREFIX = "eager_"

First = Literal["best", "second", "drawn"]
RANKS = {"best": 0, "second": 1}


@dataclass(frozen=True, slots=True)
class Rule:
    """How one request of a tree branches: each field is an argument, its name after `eager_`.

    `tree` is any name that no other tree has, `sequence` the number of the request's sequence in it, `prompt_length`
    the tokens of the tree's prompt: what the request's own prompt has beyond them was generated. The tree may pause
    `max_branches` times, which is its sequences at most less its roots. `threshold`, `percentile` and
    `max_tokens_without_branch` are those of a `BranchConfig`; past `thinking_end` nothing branches. A branch is the
    token `pause_id`, which must be a reserved one. `first`: a request that goes on from a branch begins with the best
    or the second best token, or with one that it draws; in no case does it pause there.
    """

    tree: str
    sequence: int
    prompt_length: int
    max_branches: int
    threshold: float
    pause_id: int
    percentile: float | None = None
    max_tokens_without_branch: int = 1000
    thinking_end: tuple[int, ...] = ()
    first: First | None = None

    @property
    def args(self) -> dict[str, Any]:
        """The arguments that say this rule."""
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {PREFIX + name: value for name, value in given.items() if value not in (None, [])}


def read_rule(args: Mapping[str, Any]) -> Rule | None:
    """The rule among a request's arguments, if it has one. Raises ValueError, in a sentence, where it is none."""
    given = {name.removeprefix(PREFIX): value for name, value in args.items() if name.startswith(PREFIX)}
    if not given:
        return None
    known = {field.name: field.default is MISSING for field in fields(Rule)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"{PREFIX}{unknown[0]} is no argument of the gate: it has {_listed(known)}")
    missing = [name for name, is_needed in known.items() if is_needed and name not in given]
    if missing:
        raise ValueError(f"{PREFIX}{missing[0]} is missing: a request of a tree needs it")
    for name, value in given.items():
        words, is_right = _KINDS[name]
        if not is_right(value):
            raise ValueError(f"{PREFIX}{name} must be {words}, got {str(value)[:50]!r}")
    return Rule(**{**given, "thinking_end": tuple(given.get("thinking_end", ()))})


_UNCHANGED: dict[str, Any] = {
    "n": 1,
    "min_tokens": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": None,
    "structured_outputs": None,
    "thinking_token_budget": None,
}
"""Sampling parameters that a request of a tree leaves alone: entropies are of the raw distribution, and where the gate
leaves one token nothing may put another in its place."""


def check_rule(params: Any, args: Mapping[str, Any]) -> None:
    """Raises ValueError, in a sentence, where `args` or vLLM's sampling parameters do not fit a request of a tree."""
    rule = read_rule(args)
    if rule is None:
        return
    if rule.pause_id not in (params.stop_token_ids or ()):
        raise ValueError(f"{PREFIX}pause_id {rule.pause_id} must be among stop_token_ids: the request stops there")
    for name, wanted in _UNCHANGED.items():
        if (getattr(params, name) or wanted) != wanted:
            raise ValueError(f"{name} must be {wanted} in a request of a tree, got {str(getattr(params, name))[:50]}")


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(PREFIX + name for name in names)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_COUNT = ("a whole number from 0", _is_count)

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "tree": ("a name of 1 to 200 characters", lambda value: isinstance(value, str) and 0 < len(value) <= 200),
    "sequence": _COUNT,
    "prompt_length": ("a whole number from 1", lambda value: _is_count(value) and value > 0),
    "max_branches": _COUNT,
    "threshold": (
        f"a number above 0, at most {MAX_ENTROPY:.4f}",
        lambda value: _is_number(value) and 0 < value <= MAX_ENTROPY,
    ),
    "pause_id": _COUNT,
    "percentile": ("a number from 0 to 100", lambda value: _is_number(value) and 0 <= value <= 100),
    "max_tokens_without_branch": ("a whole number from 1", lambda value: _is_count(value) and value > 0),
    "thinking_end": (
        "a list of at most 64 token ids",
        lambda value: isinstance(value, list | tuple) and len(value) <= 64 and all(map(_is_count, value)),
    ),
    "first": ("'best', 'second' or 'drawn'", lambda value: value in ("best", "second", "drawn")),
}
