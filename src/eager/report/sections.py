"""What the page's head, cards and tables say, as plain values: the markup is in assets/, where it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from eager.recap.compare import Comparison, Row
from eager.recap.correlation import Correlation
from eager.words import count


def subject(comparison: Comparison) -> str:
    """Models and data: the page's title."""
    said = [row.measures.facts for row in comparison.rows]
    tasks = ", ".join(_different(facts.data_name for facts in said))
    name = " and ".join(_different(facts.model_name for facts in said)) or "A run"
    return f"{name} on {tasks}" if tasks else name


def facts(comparison: Comparison) -> list[str]:
    """How many prompts there are, and the settings, each value once."""
    said = [row.measures.facts for row in comparison.rows]
    facts = [count(max(len(row.measures.prompts) for row in comparison.rows), "prompt")]
    facts += [f"up to {m} sequences each" for m in _different(_number(e.max_sequences) for e in said)[:1]]
    facts += [f"temperature {t}" for t in _different(_number(e.temperature) for e in said)]
    facts += [f"seed {s}" for s in _different(_number(e.seed) for e in said)]
    return facts + _different(e.engine for e in said)


def _different(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


class Card(NamedTuple):
    """The share of tokens (0 to 1, negative for more) that an experiment saved, and against what."""

    row: Row
    saved: float
    against: str


def cards(comparison: Comparison) -> Iterator[Card]:
    """One an experiment that saves: against Full Parallel where there is one."""
    for row in comparison.rows:
        parallel, naive = row.saved_against_parallel.value, row.saved_against_naive.value
        if row.measures.experiment.kind == "parallel":
            continue
        if parallel is not None:
            yield Card(row, parallel, "Full Parallel")
        elif naive is not None:
            yield Card(row, naive, "without shared prefixes")


class CorrelationLine(NamedTuple):
    """The correlations of one experiment over its `n` sequences or prompts, a percentile each."""

    row: Row
    over: str
    n: int
    correlations: list[Correlation]


def correlation_lines(comparison: Comparison) -> Iterator[CorrelationLine]:
    """Two an experiment in which anything correlates."""
    for row in comparison.rows:
        if any(found.pearson is not None for found in row.correlations):
            for over in ("sequences", "prompts"):
                found = [correlation for correlation in row.correlations if correlation.over == over]
                yield CorrelationLine(row, over, max(correlation.n for correlation in found), found)
