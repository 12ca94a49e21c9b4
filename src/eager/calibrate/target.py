"""What a threshold is to be chosen for, and the choice."""

from __future__ import annotations

from dataclasses import dataclass

from eager.calibrate.exposure import Exposure, check_rules
from eager.types import MAX_ENTROPY, BranchConfig

KINDS = ("saving", "sequences", "quantile")
# Thresholds are chosen to a hundredth of a nat: finer than sixteen prompts can tell.
_STEPS_A_NAT = 100


@dataclass(frozen=True, slots=True)
class Target:
    """`saving`: the share of tokens to save against M independent sequences; `sequences`: how many a prompt takes at
    most, on average; `quantile`: the share of tokens whose entropy is to lie below the threshold.
    """

    kind: str = "saving"
    value: float = 0.4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no target is called '{self.kind}': choose from {', '.join(KINDS)}")
        if self.kind == "sequences" and not self.value >= 1:
            raise ValueError(f"a prompt takes at least 1 sequence, not {self.value:g}")
        if self.kind != "sequences" and not 0 < self.value < 1:
            raise ValueError(f"the target {self.kind} must be between 0 and 1, got {self.value:g}")

    def check(self, rules: BranchConfig) -> None:
        """Raises ValueError where under these rules no threshold can be found, or keep to it."""
        check_rules(rules)
        most = 1 - 1 / rules.max_sequences  # a tree has at least one whole sequence
        if self.kind == "saving" and self.value > most:
            raise ValueError(
                f"no threshold saves {100 * self.value:g} % where a prompt has {rules.max_sequences} sequences at most:"
                f" one alone saves {100 * most:.1f} %"
            )

    @classmethod
    def parse(cls, text: str) -> Target:
        """`0.4`, `saving=0.4`, `sequences=3`, `quantile=0.99`; nothing is the default. Raises ValueError."""
        if not text:
            return cls()
        kind, _, value = text.rpartition("=")
        try:
            return cls(kind or "saving", float(value))
        except ValueError as error:
            reason = error if "could not convert" not in str(error) else f"{value!r} is not a number"
            raise ValueError(f"{reason}: write auto, auto:0.4, auto:sequences=3 or auto:quantile=0.99") from None

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


def recommended(exposure: Exposure, target: Target) -> float:
    """The lowest threshold that keeps to the target, in nats. Raises ValueError where none does."""
    if target.kind == "quantile":
        return max(1, round(exposure.quantile(target.value) * _STEPS_A_NAT)) / _STEPS_A_NAT
    low, high = 1, int(MAX_ENTROPY * _STEPS_A_NAT)
    if not _keeps(exposure, high / _STEPS_A_NAT, target):
        raise ValueError(
            f"no threshold keeps to {target}: a tree has at least one whole sequence, so ask for less saving,"
            " or raise --max_sequences"
        )
    while low < high:  # what is not kept at `low - 1` is kept at `high`
        middle = (low + high) // 2
        if _keeps(exposure, middle / _STEPS_A_NAT, target):
            high = middle
        else:
            low = middle + 1
    return high / _STEPS_A_NAT


def _keeps(exposure: Exposure, threshold: float, target: Target) -> bool:
    estimate = exposure.at(threshold)
    if target.kind == "sequences":
        return (estimate.n_sequences.value or 0.0) <= target.value
    return (estimate.saved.value or 0.0) >= target.value
