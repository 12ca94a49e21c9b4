"""Numbers from measures: what each experiment cost and reached, and how two of them differ on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eager.metrics import (
    GradedPrompt,
    PromptScore,
    Score,
    Summary,
    interval,
    paired_differences,
    per_prompt,
    prompt_consensus,
    prompt_pass_rate,
    prompt_passed,
    resampled_sums,
    summarise,
    weighted_cons_at_k,
)
from eager.recap.correlation import Correlation, ScipyMissingError, correlations
from eager.recap.measure import Measures
from eager.results.findings import Findings
from eager.words import count, decimal

SCORES: dict[str, PromptScore] = {
    "pass_at_k": prompt_passed,
    "cons_at_k": prompt_consensus,
    "pass_rate": prompt_pass_rate,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment. `saved_*` are shares of tokens (0 to 1); over `parallel`, on the prompts that both have.

    `weighted_cons_at_k` weighs votes by entropies, over the prompts that have any.
    """

    measures: Measures
    scores: Summary
    weighted_cons_at_k: Score
    n_generated: int
    n_naive: int
    n_recomputed: int
    n_discarded: int
    saved_against_parallel: Score
    saved_against_naive: Score
    correlations: tuple[Correlation, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """`first` minus `second` over the prompts that both have; `tokens` is a share: 0.2 is a fifth more tokens."""

    first: str
    second: str
    pass_at_k: Score
    cons_at_k: Score
    pass_rate: Score
    tokens: Score


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that recap prints."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    findings: Findings


def compare(experiments: Seq[Measures], findings: Findings, *, with_correlations: bool = True) -> Comparison:
    """Score every experiment and pair them all."""
    rows = []
    for measures in experiments:
        found = _correlations(measures, findings) if with_correlations else ()
        rows.append(_row(measures, _baseline(measures, experiments), found, findings))
    differences = tuple(_difference(b, a) for a, b in combinations(experiments, 2))
    unpaired = [d for d in differences if d.tokens.n_prompts == 0]
    if unpaired:
        findings.notice(f"{count(len(unpaired), 'pair')} of experiments share no prompt and have no difference")
    return Comparison(tuple(rows), differences, findings)


def _baseline(measures: Measures, experiments: Seq[Measures]) -> Measures | None:
    """The parallel run to compare with: of the same folder, else the only one there is."""
    parallel = [other for other in experiments if other.experiment.kind == "parallel"]
    same = [other for other in parallel if other.folder == measures.folder]
    return same[0] if same else parallel[0] if len(parallel) == 1 else None


def _row(measures: Measures, baseline: Measures | None, found: tuple[Correlation, ...], findings: Findings) -> Row:
    scores = summarise([prompt.graded for prompt in measures.prompts.values()])
    n_cut = measures.total("n_cut")
    if n_cut:
        cut = count(n_cut, "sequence")
        findings.notice(f"{measures.label}: {cut} cut with a tree that ended before: in the costs, and in no score")
    if scores.n_ungraded > n_cut:
        all_sequences = count(scores.n_sequences, "sequence")
        findings.notice(f"{measures.label}: {scores.n_ungraded - n_cut:,} of {all_sequences} are ungraded")
    _tell_lenient(measures, findings)
    if n_failed := measures.total("n_failed"):
        failed = count(n_failed, "sequence")
        said = next((f" (the first: {prompt.error})" for prompt in measures.prompts.values() if prompt.error), "")
        findings.notice(f"{measures.label}: {failed} failed: recorded as errors, not as answers{said}")
    return Row(
        measures=measures,
        scores=scores,
        weighted_cons_at_k=weighted_cons_at_k([prompt.graded for prompt in measures.prompts.values()]),
        n_generated=measures.total("n_generated"),
        n_naive=measures.total("n_naive"),
        n_recomputed=measures.total("n_recomputed"),
        n_discarded=measures.total("n_discarded"),
        saved_against_parallel=_no_score() if baseline is measures else _saved(measures, baseline),
        saved_against_naive=saved_share([(prompt.n_generated, prompt.n_naive) for prompt in measures.prompts.values()]),
        correlations=found,
    )


def _tell_lenient(measures: Measures, findings: Findings) -> None:
    """What the scores would be if answers counted that are said outside a box, where there are any."""
    if all(prompt.lenient is None for prompt in measures.prompts.values()):
        return
    lenient = summarise([prompt.lenient or prompt.graded for prompt in measures.prompts.values()], with_intervals=False)
    passed, rate = (decimal(100 * (score.value or 0.0)) for score in (lenient.pass_at_k, lenient.pass_rate))
    findings.notice(
        f"{measures.label}: read leniently, choices outside a box included: Pass@k {passed} %, Pass rate {rate} %"
    )


def _correlations(measures: Measures, findings: Findings) -> tuple[Correlation, ...]:
    prompts = measures.prompts.values()
    try:
        return correlations([p.peaks for p in prompts], [p.graded.correct for p in prompts])
    except ScipyMissingError as error:
        findings.notice(str(error))
        return ()


def _no_score() -> Score:
    return Score(None, None, None, 0)


def _saved(measures: Measures, baseline: Measures | None) -> Score:
    if baseline is None:
        return _no_score()
    shared = [key for key in measures.prompts if key in baseline.prompts]
    return saved_share([(measures.prompts[key].n_generated, baseline.prompts[key].n_generated) for key in shared])


def saved_share(pairs: Seq[tuple[int, int]]) -> Score:
    """1 - Σ used / Σ reference over (used, reference) pairs, one a prompt, with its bootstrap interval over prompts."""
    totals = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    n = len(totals)
    if n == 0 or totals[:, 1].sum() == 0:
        return Score(None, None, None, n)
    used, reference = resampled_sums([totals])[0].T
    low, high = interval(1.0 - used[reference > 0] / reference[reference > 0])
    return Score(float(1.0 - totals[:, 0].sum() / totals[:, 1].sum()), float(low), float(high), n)


def _difference(a: Measures, b: Measures) -> Difference:
    saved = _saved(a, b)
    tokens = Score(_minus(saved.value), _minus(saved.high), _minus(saved.low), saved.n_prompts)
    graded_a, graded_b = _graded(a), _graded(b)
    pairs = [(per_prompt(graded_a, score), per_prompt(graded_b, score)) for score in SCORES.values()]
    scores = dict(zip(SCORES, paired_differences(pairs), strict=True))
    return Difference(first=a.label, second=b.label, tokens=tokens, **scores)


def _graded(measures: Measures) -> dict[int, GradedPrompt]:
    return {key: prompt.graded for key, prompt in measures.prompts.items()}


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
