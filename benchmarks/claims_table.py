"""The tables of docs/claims.md, from the packed lines of evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence as Seq
from dataclasses import replace
from typing import Any

import numpy as np
from claims_results import Packed

from eager.metrics import Score, mean_score, paired_differences
from eager.recap.compare import Comparison, Difference, Row, compare
from eager.recap.measure import Measures, PromptMeasure
from eager.recap.tables import percent, points
from eager.results.experiment import shortest
from eager.results.findings import Findings
from eager.words import DASH, MINUS, count, decimal

START, END = "<!-- tables: python benchmarks/claims.py table --write -->\n", "<!-- end of tables -->\n"
PUBLISHED_THRESHOLD = 2.2
PERCENTILES = (50, 80, 90, 95, 99, 99.9)
BASE_THRESHOLD = "1.6"  # of the plain experiments that other rules are compared with
THRESHOLDS = (1.0, 1.6, 2.0, 2.2, 2.5)


def claims(packed: Mapping[str, Packed], lines: Mapping[str, Any]) -> str:
    """All tables; of a line that has not been run, its name. `lines` are those of claims.LINES."""
    whole = {name: compared(packed[name]) for name, line in lines.items() if name in packed and line.base is None}
    parts = [_what_is_there(packed, lines), _verdicts(whole)]
    for name, comparison in whole.items():
        parts.extend(_line(packed[name], comparison))
    rules = [name for name, line in lines.items() if line.base in packed and name in packed]
    if rules:
        parts.append(_rules([packed[name] for name in rules], packed[lines[rules[0]].base]))
    return "\n".join(part for part in parts if part)


def example(packed: Mapping[str, Packed]) -> str:
    """The table of docs/choosing.md: what was foreseen for the first line, and what its experiments came to."""
    line = packed.get("gsm8k_m8")
    if line is None or not line.experiments:
        return "Not run yet.\n"
    rows = []
    foreseen = {e["threshold"]: e["n_tokens"]["value"] for e in (line.calibration or {"estimates": ()})["estimates"]}
    for row in compared(line).rows:
        tree = row.measures.experiment.kind == "eager_init" and foreseen.get(row.measures.experiment.threshold)
        name, sequences, tokens, saved, passed, consensus, _, rate, _ = _score_row(row)
        rows.append((name, decimal(tree, 0) if tree else "", tokens, saved, sequences, passed, consensus, rate))
    header = ("experiment", "tokens foreseen", "tokens", "saved", "sequences", "Pass@k", "Cons@k", "Pass rate")
    return markdown(header, rows)


def with_tables(page: str, text: str) -> str:
    """The page with these tables between its marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{text}\n{END}{after}"


def _what_is_there(packed: Mapping[str, Packed], lines: Mapping[str, Any]) -> str:
    rows = []
    for name, line in lines.items():
        wanted = [experiment for names in line.experiments for experiment in names]
        done = packed[name].experiments if name in packed else {}
        left = [experiment for experiment in wanted if experiment not in done]
        state = "run" if not left else f"not done yet: {', '.join(left)}" if done else "not run yet"
        what = [line.model, line.task.split("/")[-1], f"M = {line.max_sequences}", f"percentile {line.percentile}"]
        what += [" ".join(line.options).replace("--", "")] if line.options else []
        rows.append((f"`{name}`", ", ".join(what), state))
    return "### What was run\n\n" + markdown(("line", "what", ""), rows)


def compared(line: Packed) -> Comparison:
    return compare(list(line.experiments.values()), Findings(), with_correlations=False)


def _line(line: Packed, comparison: Comparison) -> Iterator[str]:
    """Everything about a line with a `parallel` of its own."""
    settings = line.settings
    what = f"{settings['model_name']}, {settings['data_name']}, {count(settings['n_prompts'], 'prompt')}"
    versions = ", ".join(f"{name} {version}" for name, version in line.versions.items())
    yield f"### `{line.name}`: {what}, M = {settings['max_sequences']}\n\n{versions}.\n"
    yield _scores(comparison, line) if comparison.rows else ""
    if line.figure is not None:
        yield f"![Accuracy against tokens](../benchmarks/results/{line.figure})\n"
    yield _differences(comparison)
    yield _votes(comparison)
    yield _where(line)
    yield _correlated(line)
    if line.calibration is not None:
        yield _entropies(line.calibration)
        yield _foreseen(line)


# -- scores and differences --------------------------------------------------------------------------------------------


def _scores(comparison: Comparison, line: Packed) -> str:
    header = (
        "experiment",
        "sequences",
        "tokens",
        "saved",
        "Pass@k",
        "Cons@k",
        "weighted Cons@k",
        "Pass rate",
        "seconds",
    )
    rows = [_score_row(row) for row in comparison.rows]
    for same in comparison.same_tokens:
        n = same.scores["pass_at_k"].n_prompts
        passed, consensus, rate = map(percent, same.scores.values())
        spent = (decimal(same.n_samples, 2), decimal(same.n_tokens / n, 0), "")
        rows.append((same.title, *spent, passed, consensus, "", rate, ""))
    cut = [f"{row.measures.label} {_at_limit(row, line)}" for row in comparison.rows]
    return (
        "Sequences and tokens a prompt; *saved*: tokens against parallel; seconds in all, on a machine that did other"
        " work, too.\n\n"
        f"{markdown(header, rows)}\nSequences that ran into `max_tokens`: {', '.join(cut)}.\n"
    )


def _score_row(row: Row) -> tuple[str, ...]:
    n, scores = len(row.measures.prompts), row.scores
    spent = (decimal(scores.n_sequences / n, 2), decimal(row.n_generated / n, 0), percent(row.saved_against_parallel))
    seconds = DASH if row.measures.seconds is None else f"{row.measures.seconds:,.0f}"
    reached = map(percent, (scores.pass_at_k, scores.cons_at_k, row.weighted_cons_at_k, scores.pass_rate))
    return (row.measures.label, *spent, *reached, seconds)


def _at_limit(row: Row, line: Packed) -> str:
    return f"{decimal(100 * line.n_at_limit[row.measures.experiment.name] / row.scores.n_sequences)} %"


def _differences(comparison: Comparison) -> str:
    """Against parallel, whole and at the same tokens."""
    rows = [_difference_row(d) for d in against_parallel(comparison)]
    for same in comparison.same_tokens:
        cells = map(points, same.differences.values())
        rows.append((f"{same.experiment} {MINUS} {same.parallel} at its tokens", *cells, "same"))
    if not rows:
        return ""
    intro = "Differences paired by prompt, in percentage points (`*`: the interval leaves out 0):\n\n"
    return intro + markdown(("", "Pass@k", "Cons@k", "Pass rate", "tokens"), rows)


def _difference_row(d: Difference) -> tuple[str, ...]:
    cells = map(points, (d.pass_at_k, d.cons_at_k, d.pass_rate))
    return (f"{d.first} {MINUS} {d.second}", *cells, percent(d.tokens, signed=True))


def _votes(comparison: Comparison) -> str:
    """EAGer-vote against EAGer-adapt: what the saved budget bought."""
    by_kind = {row.measures.experiment.kind: row for row in comparison.rows if _is_spent_on_votes(row, comparison)}
    if not {"eager_adapt", "eager_vote"} <= by_kind.keys():
        return ""
    rows = [_vote_row(by_kind[kind], by_kind["eager_init"]) for kind in ("eager_init", "eager_adapt", "eager_vote")]
    first, second = by_kind["eager_vote"].measures.label, by_kind["eager_adapt"].measures.label
    paired = [d for d in comparison.differences if (d.first, d.second) == (first, second)]
    header = ("the saved budget", "tokens", "Cons@k", "Cons@k a 1,000 tokens", "gained a 100 tokens more")
    return (
        "What the saved budget buys without labels; both policies may spend what EAGer-init saved:\n\n"
        + markdown(header, rows)
        + "\n"
        + markdown(("", "Pass@k", "Cons@k", "Pass rate", "tokens"), map(_difference_row, paired))
    )


def _is_spent_on_votes(row: Row, comparison: Comparison) -> bool:
    """Whether it is of the threshold at which there is an EAGer-vote."""
    thresholds = {
        r.measures.experiment.threshold for r in comparison.rows if r.measures.experiment.kind == "eager_vote"
    }
    return row.measures.experiment.threshold in thresholds


def _vote_row(row: Row, start: Row) -> tuple[str, ...]:
    n = len(row.measures.prompts)
    tokens, consensus = row.n_generated / n, 100 * (row.scores.cons_at_k.value or 0.0)
    more = tokens - start.n_generated / n
    gained = consensus - 100 * (start.scores.cons_at_k.value or 0.0)
    gain = decimal(100 * gained / more, 2, signed=True) if more > 0 else ""
    per_token = decimal(1000 * consensus / tokens)
    return (row.measures.label, decimal(tokens, 0), percent(row.scores.cons_at_k), per_token, gain)


# -- the claim ---------------------------------------------------------------------------------------------------------


def _verdicts(comparisons: Mapping[str, Comparison]) -> str:
    """The claim in words, as far as intervals decide it."""
    rows = []
    for name, comparison in comparisons.items():
        same = {found.experiment: found.differences for found in comparison.same_tokens}
        for d in against_parallel(comparison):
            whole = (verdict(d.tokens, "more", "fewer"), *(verdict(s) for s in (d.pass_at_k, d.cons_at_k, d.pass_rate)))
            at_same = [verdict(score) for score in same[d.first].values()] if d.first in same else [DASH] * 3
            rows.append((f"`{name}`", d.first, *whole, *at_same))
    if not rows:
        return ""
    names = ("Pass@k", "Cons@k", "Pass rate")
    header = ("line", "experiment", "tokens", *names, *(f"{name}, same tokens" for name in names))
    intro = "Against Full Parallel; *noise*: the interval of the paired difference has 0 in it.\n\n"
    return "### Where the claim holds\n\n" + intro + markdown(header, rows)


def against_parallel(comparison: Comparison) -> list[Difference]:
    """The differences of every other experiment to parallel."""
    baselines = {row.measures.label for row in comparison.rows if row.measures.experiment.kind == "parallel"}
    return [d for d in comparison.differences if d.second in baselines]


def verdict(score: Score, above: str = "better", below: str = "worse") -> str:
    if score.low is None or score.high is None:
        return DASH
    return above if score.low > 0 else below if score.high < 0 else "noise"


# -- why ---------------------------------------------------------------------------------------------------------------


def _trees(line: Packed) -> list[Measures]:
    return [m for m in line.experiments.values() if m.experiment.kind == "eager_init"]


def _where(line: Packed) -> str:
    """What EAGer-init takes, by how often parallel is right: whether entropy finds the hard prompts."""
    parallel, trees = line.experiments.get("parallel"), _trees(line)
    if parallel is None or not trees:
        return ""
    n_all = line.settings["max_sequences"]
    groups = {"never": range(1), f"1 to {n_all // 2}": range(1, n_all // 2 + 1)}
    groups |= {f"{n_all // 2 + 1} to {n_all}": range(n_all // 2 + 1, n_all + 1)}
    rows = []
    for name, numbers in groups.items():
        keys = [key for key, prompt in parallel.prompts.items() if sum(prompt.graded.graded) in numbers]
        means = [mean_score(float(m.prompts[k].n_sequences) for k in keys) for m in trees]
        rows.append((f"{name}, of {n_all}", str(len(keys)), *(span(score, 1) for score in means)))
    intro = "Sequences that trees take, by how often parallel answers the prompt correctly:\n\n"
    return intro + markdown(("parallel is right", "prompts", *(m.label for m in trees)), rows)


def _correlated(line: Packed) -> str:
    """Full trees against as many independent samples, on the prompts whose tree is full."""
    parallel, trees = line.experiments.get("parallel"), _trees(line)
    if parallel is None or not trees:
        return ""
    n_all = line.settings["max_sequences"]
    rows = []
    for tree in trees:
        keys = [key for key, prompt in tree.prompts.items() if prompt.n_sequences == n_all]
        if not keys:
            continue
        full, samples = _only(tree, keys), _only(parallel, keys)
        (d,) = compare([samples, full], Findings(), with_correlations=False).differences
        fewer = paired_differences([(_kinds(full), _kinds(samples))])[0]
        own = f"{_mean(_kinds(full))} against {_mean(_kinds(samples))} ({span(fewer, 1, signed=True)})"
        rows.append((tree.label, str(len(keys)), own, *map(points, (d.pass_at_k, d.cons_at_k, d.pass_rate))))
    header = ("full trees", "prompts", "different answers", "Pass@k", "Cons@k", "Pass rate")
    intro = f"Trees that have all {n_all} sequences against {n_all} independent samples of the same prompts:\n\n"
    return intro + markdown(header, rows)


def _kinds(measures: Measures) -> dict[int, float]:
    """How many different answers each prompt got."""
    return {key: float(len({*prompt.graded.groups} - {None})) for key, prompt in measures.prompts.items()}


def _mean(values: Mapping[int, float]) -> str:
    return decimal(float(np.mean(list(values.values()))))


def _only(measures: Measures, keys: Iterable[int]) -> Measures:
    """The measures of these prompts alone; the seconds are those of all, and left out."""
    prompts: dict[int, PromptMeasure] = {key: measures.prompts[key] for key in keys if key in measures.prompts}
    return replace(measures, facts=replace(measures.facts, seconds=None), prompts=prompts)


# -- calibration -------------------------------------------------------------------------------------------------------


def _entropies(calibration: Mapping[str, Any]) -> str:
    stream = np.concatenate([stream["entropies"] for stream in calibration["streams"]])
    below = [decimal(float(np.percentile(stream, p)), 2) for p in PERCENTILES]
    above = [f"{decimal(100 * float((stream > t).mean()), 2)} %" for t in THRESHOLDS]
    n_prompts = count(calibration["n_prompts"], "prompt")
    header = (*(f"{p:g} %" for p in PERCENTILES), "highest", *(f"above {shortest(t)}" for t in THRESHOLDS))
    tokens = count(len(stream), "token")
    intro = f"Entropies in nats of {tokens} ({n_prompts}, one sequence each): percentiles, and shares above:\n\n"
    table = markdown(header, [(*below, decimal(float(stream.max()), 2), *above)])
    n_high = sum(max(stream["entropies"]) > PUBLISHED_THRESHOLD for stream in calibration["streams"])
    high = f"{n_high} of the {calibration['n_prompts']} sequences have a token above {PUBLISHED_THRESHOLD:g} at all.\n"
    return f"{intro}{table}\n{high}\n{_estimates(calibration)}"


def _estimates(calibration: Mapping[str, Any]) -> str:
    """What `eager calibrate` makes of the streams; from where every tree is full to where none branches."""
    n_all = calibration["rules"]["max_sequences"]
    rows = []
    for estimate in calibration["estimates"]:
        sequences, tokens, saved = (Score(**estimate[name]) for name in ("n_sequences", "n_tokens", "saved"))
        if 1.0 < sequences.value < n_all:
            rows.append((shortest(estimate["threshold"]), span(sequences, 1), span(tokens, 0), percent(saved)))
    intro = f"From these `eager calibrate` foresees, for M = {n_all}, a prompt:\n\n"
    return intro + markdown(("θ", "sequences", "tokens", "saved"), rows)


def _foreseen(line: Packed) -> str:
    """The calibration's estimates against what trees took on the prompts that it had not seen."""
    calibration, rows = line.calibration or {}, foreseen_rows(line)
    if not rows:
        return ""
    columns = ("foreseen", "actual", "off by")
    header = ("θ", "prompts", *(f"sequences {c}" for c in columns), *(f"tokens {c}" for c in columns))
    best = f"{shortest(calibration['recommended']['threshold'])} for `{calibration['target']}`"
    n_seen = calibration["n_prompts"]
    intro = f"Foreseen by `eager calibrate` from the first {n_seen} prompts, and what came on the others, a prompt"
    return f"{intro} (recommended: θ = {best}):\n\n" + markdown(header, rows)


def foreseen_rows(line: Packed) -> list[tuple[str, ...]]:
    """A row a threshold that was both estimated and run."""
    calibration = line.calibration or {"estimates": (), "n_prompts": 0}
    estimates = {estimate["threshold"]: estimate for estimate in calibration["estimates"]}
    rows = []
    for tree in _trees(line):
        estimate = estimates.get(tree.experiment.threshold)
        others = [prompt for key, prompt in tree.prompts.items() if key >= calibration["n_prompts"]]
        if estimate is not None and others:
            row = [shortest(estimate["threshold"]), str(len(others))]
            for foreseen, number, places in (("n_sequences", "n_sequences", 1), ("n_tokens", "n_generated", 0)):
                expected = Score(**estimate[foreseen])
                actual = mean_score(float(getattr(prompt, number)) for prompt in others)
                row += [span(expected, places), span(actual, places), _off(expected, actual)]
            rows.append(tuple(row))
    return rows


def _off(foreseen: Score, actual: Score) -> str:
    return f"{decimal(100 * ((foreseen.value or 0.0) / (actual.value or 1.0) - 1), 0, signed=True)} %"


# -- rules -------------------------------------------------------------------------------------------------------------


def _rules(lines: Seq[Packed], base: Packed) -> str:
    """Other rules against the plain `parallel`, and the same experiment under the plain rules, on the same prompts."""
    rows = []
    for line in lines:
        for measures in line.experiments.values():
            names = ("parallel", f"{measures.experiment.kind}_th{BASE_THRESHOLD}")
            against = [base.experiments[name] for name in names if name in base.experiments]
            rows.extend(_rule_row(line.name, measures, other) for other in against)
    if not rows:
        return ""
    header = ("rule", "against", "prompts", "sequences", "tokens", "Pass@k", "Cons@k", "Pass rate", "tokens")
    intro = f"### Other rules, against `{base.name}` on the same prompts\n\nDifferences in percentage points:\n\n"
    return intro + markdown(header, rows)


def _rule_row(line: str, measures: Measures, other: Measures) -> tuple[str, ...]:
    n = len(measures.prompts)
    (d,) = compare([_only(other, measures.prompts), measures], Findings(), with_correlations=False).differences
    spent = (decimal(measures.total("n_sequences") / n, 2), decimal(measures.total("n_generated") / n, 0))
    label = f"`{line}` {measures.experiment.title}"
    return (label, other.label, str(n), *spent, *_difference_row(d)[1:])


# -- cells -------------------------------------------------------------------------------------------------------------


def span(score: Score, places: int, signed: bool = False) -> str:
    """`5.5 [4.2, 6.8]`; a dash where there is no number."""
    if score.value is None or score.low is None or score.high is None:
        return DASH
    value, low, high = (decimal(number, places, signed) for number in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"


def markdown(header: Seq[str], rows: Iterable[Seq[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
