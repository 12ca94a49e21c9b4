"""`eager replay`: a recorded run at fewer sequences or a higher threshold, without a model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command
from eager.cli.recap import FOLDER, finish, wide_console
from eager.cli.values import CommaSeparated, FiniteRange
from eager.types import MAX_ENTROPY

if TYPE_CHECKING:
    from eager.replay.bounds import Bounds, ScoreBounds
    from eager.replay.folder import ReplayRow
    from eager.results.findings import Findings


@click.command("replay", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("folder", metavar="FOLDER", type=FOLDER)
@click.option(
    "--max_sequences",
    type=CommaSeparated(click.IntRange(1, 100_000)),
    default=(),
    show_default="as recorded",
    help="M: as many as recorded, or fewer.",
)
@click.option(
    "--entropy_threshold",
    type=CommaSeparated(FiniteRange(0, MAX_ENTROPY, min_open=True)),
    default=(),
    show_default="as recorded",
    help="As recorded, or higher.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for machines.")
def command(folder: Path, max_sequences: tuple[int, ...], entropy_threshold: tuple[float, ...], as_json: bool) -> None:
    """What the recorded run in FOLDER would have cost and scored with fewer sequences, or at a higher threshold.

    Exactly where its trees hold the answer, elsewhere between two bounds: see docs/replay.md. Every combination of the
    values is a row.
    """
    from eager.errors import EagerError
    from eager.grading import MathGrader
    from eager.replay.folder import replay_journal
    from eager.results.findings import Findings
    from eager.results.scores import Regrader
    from eager.store.journal import Journal

    findings = Findings()
    try:
        with MathGrader() as grader:
            rows = replay_journal(Journal(folder), max_sequences, entropy_threshold, Regrader(grader), findings)
    except EagerError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps({"replayed": [_entry(row) for row in rows], "notices": findings.notices}, indent=2))
    else:
        _print(rows, findings)
    finish(findings.problems)


def _entry(row: ReplayRow) -> dict[str, Any]:
    """The row as JSON data; an upper bound that there is not is null."""
    entry = {**asdict(row), "recorded": row.recorded.name}
    low, high = row.result.n_tokens
    entry["result"]["n_tokens"] = [low, high if math.isfinite(high) else None]
    return entry


def _print(rows: list[ReplayRow], findings: Findings) -> None:
    from eager.recap.grid import Grid, print_wrapped

    console = wide_console()
    headers = ("recorded", "M", "threshold", "exact", "sequences", "tokens", "Pass@k", "Cons@k", "Pass rate")
    grid = Grid("Replayed, exactly or between two bounds", headers)
    for row in rows:
        result = row.result
        exact = f"{result.n_exact:,} of {result.n_prompts:,}"
        threshold = "" if row.threshold is None else f"{row.threshold:g}"
        counts = (_count(result.n_sequences), _count(result.n_tokens))
        scores = map(_score, (result.pass_at_k, result.cons_at_k, result.pass_rate))
        grid.rows.append((row.recorded.name, f"{row.max_sequences}", threshold, exact, *counts, *scores))
    grid.print_on(console)
    for notice in findings.notices:
        print_wrapped(console, f"note: {notice}", style="dim")


def _count(bounds: Bounds) -> str:
    low, high = (f"{number:,.0f}" if math.isfinite(number) else "any" for number in bounds)
    return low if low == high else f"{low} \u2026 {high}"


def _score(bounds: ScoreBounds) -> str:
    """With its interval where it is one number."""
    from eager.recap.tables import percent
    from eager.words import DASH, decimal

    low, high = bounds
    if low.value is None or high.value is None:
        return DASH
    if low.value == high.value:
        return percent(low)
    return f"{decimal(100 * low.value)} \u2026 {decimal(100 * high.value)} %"
