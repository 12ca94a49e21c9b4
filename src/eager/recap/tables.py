"""The comparison for people: tables, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from eager.metrics import Score
from eager.recap.compare import Comparison, Row
from eager.recap.grid import Grid, print_wrapped
from eager.results.experiment import shortest
from eager.words import DASH, MINUS, decimal

# More pairs than this are a wall of numbers: then only those with a parallel run are shown; --json has all.
_MOST_PAIRS = 15


def print_comparison(comparison: Comparison, console: Console, *, is_brief: bool = False) -> None:
    """Print the tables, heading and notices included; `is_brief`: cost, scores and differences only."""
    _print_heading(comparison, console)
    for grid in _grids(comparison, is_brief):
        console.print()
        grid.print_on(console)
    console.print()
    for notice in comparison.findings.notices:
        print_wrapped(console, f"note: {notice}", style="dim")


def _print_heading(comparison: Comparison, console: Console) -> None:
    for row in {row.measures.folder: row for row in comparison.rows}.values():
        said = row.measures.facts
        facts = [said.model_name, said.data_name, None if said.max_sequences is None else f"M = {said.max_sequences}"]
        temperature = None if said.temperature is None else f"temperature {shortest(said.temperature)}"
        facts += [temperature, row.measures.folder]
        print_wrapped(console, " · ".join(str(fact) for fact in facts if fact), style="bold")
    print_wrapped(console, "95 % bootstrap intervals over prompts in brackets", style="dim")


def _grids(comparison: Comparison, is_brief: bool) -> Iterator[Grid]:
    yield _costs(comparison)
    yield _scores(comparison, is_brief)
    if not is_brief and any(len(row.scores.pass_at_curve) > 1 for row in comparison.rows):
        yield _curves(comparison)
    if comparison.differences:
        yield _differences(comparison)
    if any(found.pearson is not None for row in comparison.rows for found in row.correlations):
        yield _correlations(comparison)


def _costs(comparison: Comparison) -> Grid:
    names = ("prompts", "sequences", "tokens", "naive tokens", "saved against parallel", "against naive", "seconds")
    grid = Grid("What it cost", ("experiment", *names))
    for row in comparison.rows:
        numbers = (len(row.measures.prompts), row.scores.n_sequences, row.n_generated, row.n_naive)
        shares = (percent(row.saved_against_parallel), percent(row.saved_against_naive))
        seconds = DASH if row.measures.seconds is None else decimal(row.measures.seconds)
        grid.rows.append((row.measures.label, *(f"{number:,}" for number in numbers), *shares, seconds))
    return grid


def _scores(comparison: Comparison, is_brief: bool) -> Grid:
    """`is_brief`: without the votes that have weights."""
    weighted = () if is_brief else ("weighted Cons@k",)
    grid = Grid("What it reached", ("experiment", "Pass@k", "Cons@k", "ties", *weighted, "Pass rate", "over prompts"))
    for row in comparison.rows:
        scores, n_prompts = row.scores, row.scores.pass_at_k.n_prompts
        values = [percent(scores.pass_at_k), percent(scores.cons_at_k), str(scores.cons_at_k.ties)]
        if weighted:
            values.append(_over(row.weighted_cons_at_k, n_prompts))
        grid.rows.append((row.measures.label, *values, percent(scores.pass_rate), f"{n_prompts:,}"))
    for same in comparison.same_tokens:
        passed, consensus, rate = map(percent, same.scores.values())
        n_prompts = same.scores["pass_at_k"].n_prompts
        grid.rows.append((same.title, passed, consensus, *("" for _ in ("ties", *weighted)), rate, f"{n_prompts:,}"))
    return grid


def _over(score: Score, n_prompts: int) -> str:
    """The score, and over how many prompts where those are not all."""
    is_whole = score.n_prompts in (0, n_prompts)
    return percent(score) if is_whole else f"{percent(score)} over {score.n_prompts:,}"


def _curves(comparison: Comparison) -> Grid:
    longest = max(len(row.scores.pass_at_curve) for row in comparison.rows)
    shown = [j for j in (1, 2, 4, 8, 16, 32, 64, 128) if j <= longest]
    title = "Unbiased pass@j, up to the fewest sequences that a prompt has"
    grid = Grid(title, ("experiment", *(f"@{j}" for j in shown)))
    for row in comparison.rows:
        curve = row.scores.pass_at_curve
        grid.rows.append((row.measures.label, *(percent(curve[j - 1]) if j <= len(curve) else "" for j in shown)))
    return grid


def _differences(comparison: Comparison) -> Grid:
    differences = comparison.differences
    if len(differences) > _MOST_PAIRS:
        baselines = {row.measures.label for row in comparison.rows if row.measures.experiment.kind == "parallel"}
        differences = tuple(d for d in differences if {d.first, d.second} & baselines) or differences[:_MOST_PAIRS]
    title = "First minus second, on the prompts that both have (* the interval leaves out 0)"
    grid = Grid(title, (f"first {MINUS} second", "Pass@k", "Cons@k", "Pass rate", "tokens", "prompts"))
    for d in differences:
        scores = map(points, (d.pass_at_k, d.cons_at_k, d.pass_rate))
        tokens = percent(d.tokens, signed=True)
        grid.rows.append((f"{d.first} {MINUS} {d.second}", *scores, tokens, f"{d.tokens.n_prompts:,}"))
    for same in comparison.same_tokens:
        name = f"{same.experiment} {MINUS} {same.parallel} at its tokens"
        n_prompts = same.differences["pass_at_k"].n_prompts
        grid.rows.append((name, *map(points, same.differences.values()), "same", f"{n_prompts:,}"))
    return grid


def _correlations(comparison: Comparison) -> Grid:
    rows = [row for row in comparison.rows if row.correlations]
    title = "Entropy against correctness, over sequences: Pearson / Spearman at percentiles of a sequence's entropies"
    grid = Grid(title, ("percentile", *(row.measures.label for row in rows)))
    by_percentile: dict[float, list[str]] = {}
    for row in rows:
        for found in row.correlations:
            if found.over == "sequences":
                by_percentile.setdefault(found.percentile, []).append(f"{_r(found.pearson)} / {_r(found.spearman)}")
    grid.rows += [(f"{percentile:g}", *cells) for percentile, cells in by_percentile.items()]
    grid.rows.append(("sequences", *(f"{_n_sequences(row):,}" for row in rows)))
    return grid


def _n_sequences(row: Row) -> int:
    return max(found.n for found in row.correlations)


def _r(value: float | None) -> str:
    return DASH if value is None else decimal(value, 2, signed=True)


def percent(score: Score, signed: bool = False) -> str:
    """`43.2 % [40.1, 46.0]`; a dash where there is no number."""
    if score.value is None or score.low is None or score.high is None:
        return DASH
    value, low, high = (decimal(100 * number, signed=signed) for number in (score.value, score.low, score.high))
    return f"{value} % [{low}, {high}]"


def points(score: Score) -> str:
    """A difference in percentage points; `*` where its interval leaves out 0."""
    if score.low is None or score.high is None:
        return DASH
    star = "*" if score.low > 0 or score.high < 0 else ""
    return percent(score, signed=True).replace(" %", "") + star
