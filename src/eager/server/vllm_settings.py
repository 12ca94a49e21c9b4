"""What a vLLM server is given for EAGer: `--additional-config '{"eager": {...}}'`, in the words of `eager serve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from eager.chat import Defaults, TreeAsked
from eager.chat.tables import EAGER, Select
from eager.types import TEMPERATURES, BranchConfig, SamplingParams
from eager.wire import RULES
from eager.wire.kinds import TOKEN, Field, one_of, or_null, read, whole

_PLAIN = "plain"
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_TREE = TreeAsked(BranchConfig(max_sequences=8, entropy_threshold=2.2, threshold_percentile=99))
_TABLE = {
    **EAGER,
    "select": Field(one_of(_PLAIN, *get_args(Select)), _PLAIN),
    "most_sequences": Field(whole(1, 100_000), 128),
    "budget_sequences_per_request": Field(or_null(whole(1, 100_000)), None),
    "pause_id": Field(or_null(TOKEN), None),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What requests get that do not say, and how many sequences each brings into the budget of all, if there is one.

    `max_tokens` bounds a chat's sequences where the request does not; `without`: what of the model's generation config
    trees do without, each as "name value".
    """

    defaults: Defaults
    sequences_per_request: int | None
    max_tokens: int | None
    without: tuple[str, ...]


def read_settings(given: Any, generation: Mapping[str, Any]) -> Settings:
    """The settings in what was `given`, beside `GatedServer.generation`. Raises WireError or ValueError."""
    found = read(given, _TABLE, "eager of --additional-config", is_open=False)
    rules = replace(_TREE.rules, **_some(given, RULES))
    select = {} if found["select"] == _PLAIN else {"select": found["select"]}
    defaults = Defaults(
        tree=replace(_TREE, rules=rules, **{**_some(given, ("vote", "settle")), **select}),
        is_plain=not select,
        sampling=_sampling(generation),
        most_sequences=found["most_sequences"],
    )
    if rules.max_sequences > defaults.most_sequences:
        raise ValueError("max_sequences is above most_sequences")
    without = (f"{name} {generation[name]}" for name, none in _NEUTRAL.items() if generation.get(name, none) != none)
    return Settings(defaults, found["budget_sequences_per_request"], generation.get("max_tokens"), tuple(without))


def _sampling(generation: Mapping[str, Any]) -> SamplingParams:
    """vLLM's own words for off, and for the most likely token, become this package's."""
    return SamplingParams(
        temperature=max(generation.get("temperature", 1.0), TEMPERATURES[0]),
        top_p=generation.get("top_p", 1.0),
        top_k=max(generation.get("top_k", 0), 0),
        min_p=generation.get("min_p", 0.0),
    )


def _some(given: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}
