"""The page: a template filled piece by piece, with everything of a model's or a file's making escaped or packed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, TextIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eager.recap.compare import Comparison, Row
from eager.recap.correlation import Correlation
from eager.report.collected import Collected
from eager.results.experiment import shortest
from eager.words import count, decimal, visible


def write_page(file: TextIO, comparison: Comparison, collected: Collected, figures: Mapping[str, str]) -> None:
    """Write the whole page; the details of prompts one by one, so that the page is never held as a whole."""
    script = _asset("report.js")
    template = environment().get_template("page.html")
    pieces = template.generate(
        style=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        subject=subject(comparison),
        facts=facts(comparison),
        cards=list(cards(comparison)),
        comparison=comparison,
        rows={row.measures.label: row for row in comparison.rows},
        correlation_lines=list(correlation_lines(comparison)),
        # matplotlib has escaped the texts in its drawings.
        plots={name: Markup(svg) for name, svg in figures.items()},
        data=_data(comparison, collected),
        details=_details(comparison, collected),
    )
    file.writelines(pieces)


def environment() -> Environment:
    """Templates in which every text is made visible and escaped, and a name that is not there is an error."""
    environment = Environment(
        loader=PackageLoader("eager.report", "assets"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count,
        decimal=decimal,
        percentile="p {:g}".format,
        percent=lambda share, signed=False: decimal(100 * share, signed=signed),
        thousands="{:,}".format,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def _finalize(value: Any) -> Any:
    """Called with all that a template puts in; markup stays as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _data(comparison: Comparison, collected: Collected) -> dict[str, Any]:
    """The list of prompts for report.js; a prompt's cells stand in the order of the experiments."""
    experiments = [
        {
            "label": row.measures.label,
            "title": row.measures.experiment.title,
            "folder": row.measures.folder,
            "kind": row.measures.experiment.kind,
        }
        for row in comparison.rows
    ]
    prompts = [
        {
            "key": key,
            "index": listed.index,
            "text": listed.text,
            "target": listed.target,
            "cells": _cells(comparison, key),
        }
        for key, listed in collected.listed.items()
    ]
    return {"experiments": experiments, "prompts": prompts}


def _cells(comparison: Comparison, key: int) -> list[list[int] | None]:
    """[sequences, graded, correct, tokens generated] an experiment; None where it lacks the prompt."""
    cells: list[list[int] | None] = []
    for row in comparison.rows:
        prompt = row.measures.prompts.get(key)
        if prompt is None:
            cells.append(None)
        else:
            graded = prompt.graded.graded
            cells.append([prompt.n_sequences, len(graded), sum(graded), prompt.n_generated])
    return cells


def _details(comparison: Comparison, collected: Collected) -> Iterator[tuple[int, int, str]]:
    """(prompt key, column of the experiment, packed detail)."""
    columns = {row.measures.label: column for column, row in enumerate(comparison.rows)}
    for (key, label), packed in collected.details.items():
        if label in columns:
            yield key, columns[label], packed


def _asset(name: str) -> Markup:
    """A file of ours, put in as it is."""
    return Markup(files("eager.report").joinpath("assets", name).read_text(encoding="utf-8"))


# -- what its head, cards and tables say, as plain values: the markup is in assets/, where it is escaped --------------


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
    """All its digits."""
    return None if value is None else str(value) if isinstance(value, int) else shortest(value)


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
