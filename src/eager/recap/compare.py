"""Numbers from measures: what each experiment cost and reached, and how two of them differ on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import combinations

from eager.metrics import (
    GradedPrompt,
    PromptScore,
    Score,
    Summary,
    mean_score,
    paired_differences,
    per_prompt,
    prompt_consensus,
    prompt_pass_rate,
    prompt_passed,
    saved_share,
    summarise,
    weighted_cons_at_k,
)
from eager.recap.correlation import Correlation, ScipyMissingError, correlations
from eager.recap.measure import Measures
from eager.recap.same_tokens import Samples, random_subsets
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
class SameTokens:
    """Full Parallel with as many tokens as `experiment` used, on the prompts that both have; see `same_tokens`.

    `differences` are the experiment's scores minus these, paired by prompt. Both by the names in SCORES.
    """

    experiment: str
    parallel: str
    n_tokens: float
    n_samples: float
    scores: dict[str, Score]
    differences: dict[str, Score]

    @property
    def title(self) -> str:
        return f"{self.parallel} at the tokens of {self.experiment}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that recap prints."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    findings: Findings
    same_tokens: tuple[SameTokens, ...] = ()


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
    pairs = [(measures, _baseline(measures, experiments)) for measures in experiments]
    same_tokens = [_same_tokens(measures, parallel) for measures, parallel in pairs if parallel not in (None, measures)]
    return Comparison(tuple(rows), differences, findings, tuple(found for found in same_tokens if found))


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
    if n_calibration := measures.facts.n_calibration:
        findings.notice(
            f"{measures.label}: finding its threshold took {count(n_calibration, 'token')}, on top of its own"
        )
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


def _difference(a: Measures, b: Measures) -> Difference:
    saved = _saved(a, b)
    tokens = Score(_minus(saved.value), _minus(saved.high), _minus(saved.low), saved.n_prompts)
    graded_a, graded_b = _graded(a), _graded(b)
    pairs = [(per_prompt(graded_a, score), per_prompt(graded_b, score)) for score in SCORES.values()]
    scores = dict(zip(SCORES, paired_differences(pairs), strict=True))
    return Difference(first=a.label, second=b.label, tokens=tokens, **scores)


def _same_tokens(measures: Measures, parallel: Measures) -> SameTokens | None:
    """None where all samples take fewer tokens, no prompt is shared, or nothing is graded."""
    shared = {key: parallel.prompts[key] for key in measures.prompts if key in parallel.prompts}
    n_tokens = sum(measures.prompts[key].n_generated for key in shared)
    samples = {key: Samples(prompt.graded, prompt.lengths) for key, prompt in shared.items()}
    subsets = random_subsets(samples, n_tokens, SCORES)
    if subsets is None or not any(subsets.scores.values()):
        return None
    own = {name: per_prompt(_graded(measures), score) for name, score in SCORES.items()}
    differences = paired_differences((own[name], subsets.scores[name]) for name in SCORES)
    return SameTokens(
        experiment=measures.label,
        parallel=parallel.label,
        n_tokens=subsets.n_tokens,
        n_samples=subsets.n_samples,
        scores={name: mean_score(by_prompt.values()) for name, by_prompt in subsets.scores.items()},
        differences=dict(zip(SCORES, differences, strict=True)),
    )


def _graded(measures: Measures) -> dict[int, GradedPrompt]:
    return {key: prompt.graded for key, prompt in measures.prompts.items()}


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
