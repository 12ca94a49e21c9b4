"""The one place that knows what experiments there are and what they are called; and what else is said of one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eager.words import one_line

KINDS = {
    "parallel": "Full Parallel",
    "eager_init": "EAGer-init",
    "eager_adapt": "EAGer-adapt",
    "eager": "EAGer",
    "eager_vote": "EAGer-vote",
}
"""Every kind of experiment, in the order of a run, with its name in the paper; the last one is not the paper's."""

PUBLISHED_KINDS = ("parallel", "eager_init", "eager_adapt", "eager")

_MOST = 1e15  # of what a setting or a number of seconds can be
_EXTRA_KINDS = ("eager_adapt", "eager", "eager_vote")
_NAME = re.compile(rf"(?P<kind>{'|'.join(KINDS)})(?:_th(?P<threshold>\d[\d.e+-]*))?")


@dataclass(frozen=True, slots=True)
class Experiment:
    """A kind of KINDS and its threshold in nats; None for `parallel`, and where a file does not say it.

    Experiments sort in the order of a run: by kind, then by threshold.
    """

    kind: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no experiment is of the kind '{self.kind}': choose from {', '.join(KINDS)}")
        if self.threshold is not None and (self.kind == "parallel" or not math.isfinite(self.threshold)):
            raise ValueError(f"{self.kind} cannot have the threshold {self.threshold}")

    @classmethod
    def parse(cls, name: str) -> Experiment:
        """The experiment of this name. Raises ValueError where there is none."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"'{name}' is no experiment's name")
        return cls(match["kind"], None if match["threshold"] is None else float(match["threshold"]))

    @property
    def name(self) -> str:
        """`parallel`, `eager_init_th2.2`, `eager_th2`: exact, as `parse` reads it back."""
        return self.kind if self.threshold is None else f"{self.kind}_th{shortest(self.threshold)}"

    @property
    def title(self) -> str:
        """As a person reads it: "EAGer-init, θ 2.2"."""
        name = KINDS[self.kind]
        return name if self.threshold is None else f"{name}, θ {shortest(self.threshold)}"

    @property
    def base(self) -> Experiment | None:
        """The `eager_init` whose sequences this one adds to; None where it stands alone."""
        return Experiment("eager_init", self.threshold) if self.kind in _EXTRA_KINDS else None

    def __lt__(self, other: Experiment) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, float]:
        return list(KINDS).index(self.kind), self.threshold or 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a folder says of an experiment beside its prompts. None: it does not say.

    `n_prompts` is how many there will be, `seconds` what they took so far (a journal says that prompt by prompt).
    `n_calibration` are the tokens that finding the threshold took.
    """

    model_name: str | None
    data_name: str | None
    temperature: float | None
    max_sequences: int | None
    seed: int | None
    engine: str | None
    n_prompts: int | None
    seconds: float | None
    is_complete: bool
    is_published: bool
    n_calibration: int | None

    @classmethod
    def of(
        cls, setting: Callable[[str], Any], *, n_prompts: Any, seconds: Any, is_complete: bool, is_published: bool
    ) -> Facts:
        """The facts as a folder gives them, by name through `setting`; a value of another type is not said."""
        calibration = setting("calibration")
        return cls(
            model_name=_text(setting("model_name")),
            data_name=_text(setting("data_name")),
            temperature=as_float(setting("temperature")),
            max_sequences=_int(setting("max_sequences")),
            seed=_int(setting("seed")),
            engine=_text(setting("engine")),
            n_prompts=_int(n_prompts),
            seconds=as_float(seconds),
            is_complete=is_complete,
            is_published=is_published,
            n_calibration=_int(calibration.get("n_tokens")) if isinstance(calibration, dict) else None,
        )


def as_float(value: Any) -> float | None:
    """A number from a file; None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < _MOST else None


def _int(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return one_line(value) if isinstance(value, str) else None


def shortest(threshold: float) -> str:
    """The fewest digits that are this number and no other: 2.2, 2, 1e-05."""
    return repr(float(threshold)).removesuffix(".0")
