"""What the pass over the results keeps for the report beside the measures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from eager.recap.measure import Measures
from eager.report.detail import ANSWER_CHARACTERS, packed_detail
from eager.store.records import PromptRecord
from eager.words import one_line, visible

_LISTED_CHARACTERS = 400


@dataclass(slots=True)
class Branches:
    """Where one experiment branched."""

    positions: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    thresholds: set[float] = field(default_factory=set)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Listed:
    """A prompt in the page's list."""

    index: int
    text: str
    target: str | None


@dataclass(slots=True)
class Collected:
    """Everything; `details` by (prompt key, experiment label)."""

    branches: dict[str, Branches] = field(default_factory=dict)
    listed: dict[int, Listed] = field(default_factory=dict)
    details: dict[tuple[int, str], str] = field(default_factory=dict)

    def see(self, measures: Measures, key: int, record: PromptRecord) -> None:
        """Called with every prompt of every experiment."""
        if key not in self.listed:
            target = None if record.target is None else visible(record.target[:ANSWER_CHARACTERS])
            self.listed[key] = Listed(record.prompt_index, one_line(record.prompt, _LISTED_CHARACTERS), target)
        self.details[key, measures.label] = packed_detail(record)
        branches = self.branches.setdefault(measures.label, Branches())
        for branch in record.branches:
            branches.positions.append(branch.position)
            branches.entropies.append(branch.entropy)
            branches.thresholds.add(round(branch.threshold, 4))
            if branch.new_token is not None:
                branches.pairs[branch.kept_token or "", branch.new_token] += 1
