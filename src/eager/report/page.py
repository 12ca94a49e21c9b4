"""The page: a template filled piece by piece, with everything of a model's or a file's making escaped or packed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, TextIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eager.recap.compare import Comparison
from eager.report.collected import Collected
from eager.report.sections import cards, correlation_lines, facts, subject
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
