"""The options of engine scripted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from eager.engines.options import AT_ONCE, COUNT, DURATION, NATURAL, EngineOptions, Kind, option
from eager.types import Stops

Script: TypeAlias = Callable[[Seq[int]], Mapping[int, float]]
"""Token ids so far -> probabilities of the next token, summing to 1."""

_SCRIPT = Kind("a function", callable)
_STOPS = Kind("a Stops", lambda value: isinstance(value, Stops))
_POSITIONS = Kind("a set of lengths", lambda value: isinstance(value, frozenset | set))
_WORDS = Kind("a sequence of texts", lambda value: isinstance(value, tuple | list))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedOptions(EngineOptions):
    """`tokens_per_step` decodes several tokens in a step, `seconds_per_step` makes a step take time, `fail_after`
    breaks the engine after so many steps, and `failing_positions` fails any sequence that reaches such a length.

    `script` is played in place of the model's, with its `stops` and `vocabulary`.
    """

    engine: ClassVar[str] = "scripted"

    capacity: int = option(256, AT_ONCE)
    script: Script | None = option(None, _SCRIPT, is_bound=True)  # noqa: RUF009 - makes a field
    stops: Stops = option(Stops(frozenset({0})), _STOPS, is_bound=True)  # noqa: RUF009 - makes a field
    vocabulary: Seq[str] = option((), _WORDS, is_bound=True)
    tokens_per_step: int = option(1, COUNT)
    seconds_per_step: float = option(0.0, DURATION)
    fail_after: int | None = option(None, NATURAL)
    failing_positions: Collection[int] = option(frozenset(), _POSITIONS, is_bound=True)
