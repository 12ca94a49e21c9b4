"""The page: a skeleton filled once, with everything of a model's or a file's making escaped or packed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, TextIO

from eager.recap.compare import Comparison
from eager.report.collected import Collected
from eager.report.sections import correlation_table, differences_table, findings_html, heading, results_table

_PLACE = re.compile(r"\{\{([a-z_]+)\}\}")


def write_page(file: TextIO, comparison: Comparison, collected: Collected, figures: Mapping[str, str]) -> None:
    """Write the whole page; the details of prompts one by one, so that the page is never held as a whole."""
    skeleton = _asset("page.html")
    before, after = skeleton.split("{{details}}")
    parts = _parts(comparison, collected, figures)
    file.write(_fill(before, parts))
    columns = {row.measures.label: column for column, row in enumerate(comparison.rows)}
    for (key, label), packed in collected.details.items():
        if label in columns:
            file.write(f'<script type="text/plain" id="detail-{key}-{columns[label]}">{packed}</script>\n')
    file.write(_fill(after, parts))


def _parts(comparison: Comparison, collected: Collected, figures: Mapping[str, str]) -> dict[str, str]:
    script = _asset("report.js")
    return {
        "style": _asset("report.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **heading(comparison),
        "findings": findings_html(comparison.findings),
        "results": results_table(comparison),
        "differences": differences_table(comparison),
        "correlations": correlation_table(comparison),
        **{f"plot_{name}": svg for name, svg in figures.items()},
        "data": data_json(_data(comparison, collected)),
    }


def _fill(text: str, parts: Mapping[str, str]) -> str:
    """`text` with every {{name}} replaced; what is put in is not looked at again."""
    return _PLACE.sub(lambda match: parts[match[1]], text)


def data_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in, nor begin a comment in it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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


def _asset(name: str) -> str:
    return files("eager.report").joinpath("assets", name).read_text(encoding="utf-8")
