"""The comparison for machines: JSON, and one tidy CSV with a line a number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from eager.metrics import Score
from eager.recap.compare import SCORES, Comparison, Difference, Row, SameTokens

_COLUMNS = ("experiment", "against", "measure", "value", "low", "high", "n")
# What begins a formula; the wide signs are East Asian Excel's.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_COUNTS = ("n_generated", "n_naive", "n_recomputed", "n_discarded")


def as_json(comparison: Comparison) -> str:
    """Everything, as docs/recap-and-report.md lists it."""
    findings = comparison.findings
    data = {
        "experiments": [_experiment(row) for row in comparison.rows],
        "differences": [asdict(difference) for difference in comparison.differences],
        "same_tokens": [asdict(same) for same in comparison.same_tokens],
        "problems": findings.problems,
        "notices": findings.notices,
    }
    return json.dumps(data, indent=2)


def _experiment(row: Row) -> dict[str, Any]:
    measures = row.measures
    return {
        "label": measures.label,
        "folder": measures.folder,
        "name": measures.experiment.name,
        **asdict(measures.experiment),
        **asdict(measures.facts),
        "seconds": measures.seconds,
        "n_prompts_read": len(measures.prompts),
        "n_sequences": row.scores.n_sequences,
        "tokens": {name.removeprefix("n_"): getattr(row, name) for name in _COUNTS},
        "saved_against_parallel": asdict(row.saved_against_parallel),
        "saved_against_naive": asdict(row.saved_against_naive),
        "scores": asdict(row.scores),
        "weighted_cons_at_k": asdict(row.weighted_cons_at_k),
        "entropy_accuracy": [asdict(correlation) for correlation in row.correlations],
    }


def as_csv(comparison: Comparison) -> str:
    """A line a number; empty where there is none. A name that a spreadsheet would reckon with has a ' before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in comparison.rows:
        writer.writerows(map(_harmless, _row_lines(row)))
    for difference in comparison.differences:
        writer.writerows(map(_harmless, _difference_lines(difference)))
    for same in comparison.same_tokens:
        writer.writerows(map(_harmless, _same_tokens_lines(same)))
    return text.getvalue()


def _harmless(cells: tuple[Any, ...]) -> list[Any]:
    """Texts are folders' names, which anybody may have given: none is a formula. Numbers stay numbers."""
    return [f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells]


def _row_lines(row: Row) -> Iterator[tuple[Any, ...]]:
    label, n_prompts = row.measures.label, len(row.measures.prompts)
    yield label, "", "n_prompts", n_prompts, "", "", n_prompts
    yield label, "", "n_sequences", row.scores.n_sequences, "", "", n_prompts
    for name in _COUNTS:
        yield label, "", name.replace("n_", "tokens_"), getattr(row, name), "", "", n_prompts
    yield label, "parallel", "saved", *_score(row.saved_against_parallel)
    yield label, "naive", "saved", *_score(row.saved_against_naive)
    for name in SCORES:
        yield label, "", name, *_score(getattr(row.scores, name))
    yield label, "", "weighted_cons_at_k", *_score(row.weighted_cons_at_k)
    yield label, "", "cons_ties", row.scores.cons_at_k.ties, "", "", row.scores.cons_at_k.n_prompts
    for j, score in enumerate(row.scores.pass_at_curve, start=1):
        yield label, "", f"pass_at_{j}_unbiased", *_score(score)
    for found in row.correlations:
        for name in ("pearson", "spearman"):
            measure = f"{name}_entropy_p{found.percentile:g}_{found.over}"
            yield label, "", measure, getattr(found, name), "", "", found.n


def _difference_lines(difference: Difference) -> Iterator[tuple[Any, ...]]:
    for name in (*SCORES, "tokens"):
        yield difference.first, difference.second, f"difference_{name}", *_score(getattr(difference, name))


def _same_tokens_lines(same: SameTokens) -> Iterator[tuple[Any, ...]]:
    for name in SCORES:
        yield same.title, "", name, *_score(same.scores[name])
        yield same.experiment, same.title, f"difference_{name}", *_score(same.differences[name])


def _score(score: Score) -> tuple[float | None, float | None, float | None, int]:
    return score.value, score.low, score.high, score.n_prompts
