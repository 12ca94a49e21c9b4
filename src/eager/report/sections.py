"""The parts of the page that are tables and words. Everything that comes from a file goes through `_escape`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from eager.metrics import Score
from eager.recap.compare import Comparison, Difference, Row
from eager.results.findings import Findings
from eager.words import DASH, MINUS, count, decimal, visible

_NO_NUMBER = f'<td class="number">{DASH}</td>'


def _escape(text: str) -> str:
    return escape(visible(text))


def heading(comparison: Comparison) -> dict[str, str]:
    """`title`, `facts` and `cards` of the page's head."""
    said = [row.measures.facts for row in comparison.rows]
    models = _different(facts.model_name for facts in said)
    tasks = _different(facts.data_name for facts in said)
    name = " and ".join(models) or "A run"
    on = f" on {', '.join(tasks)}" if tasks else ""
    facts = [count(max(len(row.measures.prompts) for row in comparison.rows), "prompt")]
    facts += [f"up to {m} sequences each" for m in _different(_number(e.max_sequences) for e in said)[:1]]
    facts += [f"temperature {t}" for t in _different(_number(e.temperature) for e in said)]
    facts += [f"seed {s}" for s in _different(_number(e.seed) for e in said)]
    facts += _different(e.engine for e in said)
    return {
        "title": _escape(name + on),
        "facts": "".join(f"<li>{_escape(fact)}</li>" for fact in facts),
        "cards": "".join(_card(row) for row in comparison.rows if row.measures.experiment.kind != "parallel"),
    }


def _different(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _card(row: Row) -> str:
    """What an experiment saved, large, and what it reached, small."""
    saved, measures = row.saved_against_parallel, row.measures
    against = "than Full Parallel"
    if saved.value is None:
        saved, against = row.saved_against_naive, "than without shared prefixes"
    if saved.value is None or saved.low is None or saved.high is None:
        return ""
    word = "fewer" if saved.value >= 0 else "more"
    reached = row.scores.pass_at_k
    score = "ungraded" if reached.value is None else f"Pass@k {100 * reached.value:.1f} %"
    return (
        f'<li class="card kind-{measures.experiment.kind}"><h3>{_name(row)}</h3>'
        f'<p class="figure">{abs(100 * saved.value):.1f} %</p><p>{word} tokens {against}</p>'
        f"<p>{score} from {count(row.scores.n_sequences, 'sequence')}</p></li>"
    )


def _name(row: Row) -> str:
    measures = row.measures
    name = _escape(measures.experiment.title)
    return f'{name} <span class="folder">{_escape(measures.folder)}</span>' if measures.folder else name


def findings_html(findings: Findings) -> str:
    """Problems first and loud, then notices."""
    boxes = []
    for kind, label, sentences in (
        ("problem", "Missing from this page", findings.problems),
        ("notice", "Good to know", findings.notices),
    ):
        if sentences:
            lines = "".join(f"<li>{_escape(sentence)}</li>" for sentence in sentences)
            boxes.append(f'<section class="{kind}" aria-label="{label}"><h2>{label}</h2><ul>{lines}</ul></section>')
    return "".join(boxes)


def results_table(comparison: Comparison) -> str:
    """Cost and scores, an experiment a line."""
    columns = ("sequences", "tokens", "naive tokens", "saved", "saved v. naive", "Pass@k", "Cons@k", "Pass rate")
    lines = []
    for row in comparison.rows:
        scores = row.scores
        numbers = (scores.n_sequences, row.n_generated, row.n_naive)
        ties = f"{count(scores.cons_at_k.ties, 'tie')}" if scores.cons_at_k.ties else ""
        cells = "".join(f'<td class="number">{number:,}</td>' for number in numbers)
        cells += _cell(row.saved_against_parallel)
        cells += _cell(row.saved_against_naive) if row.n_generated != row.n_naive else _NO_NUMBER
        cells += _cell(scores.pass_at_k) + _cell(scores.cons_at_k, note=ties) + _cell(scores.pass_rate)
        kind = row.measures.experiment.kind
        lines.append(f'<tr><th scope="row"><span class="swatch kind-{kind}"></span>{_name(row)}</th>{cells}</tr>')
    return _table("experiment", columns, lines)


def differences_table(comparison: Comparison) -> str:
    """Every pair of experiments; bold where the interval leaves out 0."""
    if not comparison.differences:
        return "<p>There is only one experiment.</p>"
    names = {row.measures.label: _name(row) for row in comparison.rows}
    columns = ("Pass@k", "Cons@k", "Pass rate", "tokens", "prompts")
    lines = [_difference_line(difference, names) for difference in comparison.differences]
    return _table("first minus second", columns, lines)


def _difference_line(difference: Difference, names: dict[str, str]) -> str:
    scores = (difference.pass_at_k, difference.cons_at_k, difference.pass_rate)
    cells = "".join(_cell(score, signed=True, unit="") for score in scores) + _cell(difference.tokens, signed=True)
    cells += f'<td class="number">{difference.tokens.n_prompts:,}</td>'
    pair = f'{names[difference.first]} <span class="minus">{MINUS}</span> {names[difference.second]}'
    return f'<tr><th scope="row">{pair}</th>{cells}</tr>'


def correlation_table(comparison: Comparison) -> str:
    """Pearson and Spearman a percentile, over sequences and over prompts."""
    rows = [row for row in comparison.rows if any(found.pearson is not None for found in row.correlations)]
    if not rows:
        return "<p>No correlations: nothing is both monitored and graded, or nothing varies.</p>"
    columns = [f"p {found.percentile:g}" for found in rows[0].correlations if found.over == "sequences"]
    lines = []
    for row in rows:
        for over in ("sequences", "prompts"):
            found = [correlation for correlation in row.correlations if correlation.over == over]
            cells = "".join(_pair_cell(c.pearson, c.spearman) for c in found)
            n = max(correlation.n for correlation in found)
            lines.append(f'<tr><th scope="row">{_name(row)}<br><small>{n:,} {over}</small></th>{cells}</tr>')
    return _table("experiment", columns, lines)


def _pair_cell(pearson: float | None, spearman: float | None) -> str:
    if pearson is None:
        return _NO_NUMBER
    below = "" if spearman is None else f"<small>{decimal(spearman, 2, signed=True)}</small>"
    return f'<td class="number">{decimal(pearson, 2, signed=True)}{below}</td>'


def _cell(score: Score, signed: bool = False, unit: str = " %", note: str = "") -> str:
    """A value over its interval."""
    if score.value is None or score.low is None or score.high is None:
        return _NO_NUMBER
    value, low, high = (decimal(100 * number, signed=signed) for number in (score.value, score.low, score.high))
    weight = " sure" if signed and (score.low > 0 or score.high < 0) else ""
    note = f"<small>{note}</small>" if note else ""
    interval = f"<small>{low} to {high}</small>"
    return f'<td class="number{weight}"><span class="value">{value}{unit}</span>{interval}{note}</td>'


def _table(first: str, columns: Iterable[str], lines: Iterable[str]) -> str:
    head = "".join(f'<th scope="col" class="number">{column}</th>' for column in columns)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table">'
        f'<table><thead><tr><th scope="col">{first}</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
