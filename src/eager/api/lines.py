"""A finished tree as one line of JSON, for trainers that learn from prefix trees; docs/python.md has the form.

A sequence says its own tokens only: those before them are its parent's, which stands earlier in the line.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from eager.api.errors import ApiError
from eager.api.trees import Sequence, Tree
from eager.types import Branch, BranchConfig, SamplingParams

_FORM = 1
_NUMBER_OR_NONE = (float, int, type(None))
_BY_TOKEN = {"token_ids": (int,), "entropies": _NUMBER_OR_NONE, "logprobs": _NUMBER_OR_NONE, "forced": (bool,)}
_PLAIN = ("parent", "fork", "text", "finish_reason", "error")


def to_json(tree: Tree) -> str:
    """The tree in one line without its end. ValueError where a number is none (nan)."""
    line = {"eager_tree": _FORM, **asdict(tree), "sequences": list(map(_sequence_line, tree.sequences))}
    return json.dumps(line, separators=(",", ":"), allow_nan=False)


def from_json(line: str) -> Tree:
    """The tree that `to_json` wrote. Raises ApiError where the line is none of its."""
    try:
        return _tree(json.loads(line))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ApiError(f"this line is no tree that to_json wrote ({type(error).__name__}: {error})") from None


def _sequence_line(sequence: Sequence) -> dict[str, Any]:
    own = {name: getattr(sequence, name)[sequence.fork :] for name in _BY_TOKEN}
    return {name: getattr(sequence, name) for name in _PLAIN} | own


def _tree(line: dict[str, Any]) -> Tree:
    if line.pop("eager_tree") != _FORM:
        raise ValueError(f"its form is not {_FORM}")
    sequences: list[Sequence] = []
    for item in line.pop("sequences"):
        sequences.append(_sequence(item, sequences))
    return Tree(
        prompt_ids=tuple(line.pop("prompt_ids")),
        sequences=tuple(sequences),
        branches=tuple(Branch(**branch) for branch in line.pop("branches")),
        branching=BranchConfig(**line.pop("branching")),
        sampling=SamplingParams(**line.pop("sampling")),
        **line,
    )


def _sequence(item: dict[str, Any], earlier: list[Sequence]) -> Sequence:
    parent, fork = item["parent"], item["fork"]
    if parent is None:
        is_sound = fork == 0
    else:
        is_sound = 0 <= parent < len(earlier) and 0 <= fork <= len(earlier[parent].token_ids)
    own: dict[str, tuple[Any, ...]] = {name: tuple(item.pop(name)) for name in _BY_TOKEN}
    if not is_sound or len(set(map(len, own.values()))) != 1:
        raise ValueError(f"sequence {len(earlier)} does not fit to its parent or has lists of different lengths")
    if any(type(value) not in kinds for name, kinds in _BY_TOKEN.items() for value in own[name]):
        raise TypeError(f"sequence {len(earlier)} has something else than numbers among its tokens")
    inherited = {name: getattr(earlier[parent], name)[:fork] if fork else () for name in _BY_TOKEN}
    whole: dict[str, Any] = {**item, **{name: inherited[name] + own[name] for name in _BY_TOKEN}}
    return Sequence(index=len(earlier), **whole)
