"""Grades, classes of equivalent answers and scores of records, and how a result file says them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence as Seq
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from eager.grading import GradingUnavailable, MathGrader, normalise
from eager.metrics import GradedPrompt, Summary, summarise
from eager.results.experiment import Experiment
from eager.store.records import PromptRecord


class Regrader:
    """Compares answers with Math-Verify where it is installed, else as normalised strings; `fallback` says why.

    With `may_fall_back` False it raises GradingUnavailable instead: for what is kept.
    """

    def __init__(self, grader: MathGrader, *, may_fall_back: bool = True) -> None:
        self._grader = grader
        self._may_fall_back = may_fall_back
        self.fallback: str | None = None

    def grade(self, answers: Seq[str | None], target: str | None) -> list[bool | None]:
        """None for every answer where there is no target; no answer is wrong."""
        if target is None:
            return [None] * len(answers)
        return [answer is not None and self._same(target, answer) for answer in answers]

    def group(self, answers: Seq[str | None]) -> list[int | None]:
        """Classes of equivalent answers, numbered from 0."""
        if self.fallback is None:
            try:
                return self._grader.group(answers)
            except GradingUnavailable as error:
                self._fall_back(error)
        numbers: dict[str, int] = {}
        normal = [None if answer is None else normalise(answer) for answer in answers]
        return [None if text is None else numbers.setdefault(text, len(numbers)) for text in normal]

    def grouped(self, record: PromptRecord) -> PromptRecord:
        """The record with a class for every answer; as it is where it has them."""
        if all(sequence.answer is None or sequence.group is not None for sequence in record.sequences):
            return record
        groups = self.group([sequence.answer for sequence in record.sequences])
        sequences = (replace(s, group=group) for s, group in zip(record.sequences, groups, strict=True))
        return replace(record, sequences=tuple(sequences))

    def _same(self, target: str, answer: str) -> bool:
        if self.fallback is None:
            try:
                return self._grader.equivalent(target, answer)
            except GradingUnavailable as error:
                self._fall_back(error)
        return normalise(target) == normalise(answer)

    def _fall_back(self, error: GradingUnavailable) -> None:
        if not self._may_fall_back:
            raise error
        self.fallback = str(error)


class Grades(NamedTuple):
    """What a prompt's sequences answer, and whether that is right."""

    answers: list[str | None]
    correct: list[bool | None]


def regraded(record: PromptRecord, grades: Grades | None, regrader: Regrader) -> PromptRecord:
    """The record with other grades, and classes of the new answers; as it is without any."""
    if grades is None:
        return record
    graded = zip(record.sequences, *grades, strict=True)
    return regrader.grouped(
        replace(record, sequences=tuple(replace(s, answer=a, correct=c, group=None) for s, a, c in graded))
    )


def graded_prompt(record: PromptRecord) -> GradedPrompt:
    """The record as the metrics see it."""
    sequences = record.sequences
    return GradedPrompt(tuple(s.correct for s in sequences), tuple(s.group for s in sequences))


def lenient_prompt(record: PromptRecord) -> GradedPrompt | None:
    """The same in the lenient reading; None where no sequence has another answer in it."""
    sequences = record.sequences
    if all(s.lenient is None for s in sequences):
        return None
    correct = tuple(s.correct if s.lenient is None else s.lenient for s in sequences)
    return GradedPrompt(correct, tuple(s.group for s in sequences))


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What an experiment cost and how well it did, over the prompts finished so far."""

    experiment: Experiment
    n_prompts: int
    n_sequences: int
    n_tokens: int
    n_tokens_naive: int
    n_recomputed: int
    n_discarded: int
    n_errors: int
    seconds: float
    scores: Summary


def experiment_result(
    experiment: Experiment, records: Iterable[PromptRecord], *, n_expected: int | None = None
) -> ExperimentResult:
    """Go through the experiment's records once, holding one in memory at a time.

    Where `n_expected` prompts make it complete, scores have their intervals only then: they take long to draw, and a
    run asks again and again.
    """
    graded: list[GradedPrompt] = []
    totals = dict.fromkeys(("n_tokens", "n_tokens_naive", "n_recomputed", "n_discarded", "seconds"), 0)
    n_errors = 0
    for record in records:
        graded.append(graded_prompt(record))
        n_errors += sum(sequence.finish_reason == "error" for sequence in record.sequences)
        for name in totals:
            totals[name] += getattr(record, name)
    scores = summarise(graded, with_intervals=n_expected in (None, len(graded)))
    return ExperimentResult(experiment, len(graded), scores.n_sequences, n_errors=n_errors, scores=scores, **totals)


def results_entry(scores: Summary) -> dict[str, Any]:
    """`results` of a result file."""
    return {
        "avg_acc": scores.pass_rate.value,
        "pass_at_1": scores.pass_at_k.value,
        "cons_at_max": scores.cons_at_k.value,
        "details": asdict(scores),
    }
