"""Grades for files that carry none, as those of the published code."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from eager.grading import GradingUnavailable, MathGrader, normalise

_CODE = "humaneval"
_CODE_GRADES = {"1": True, "0": False}


class Regrader:
    """Compares answers with Math-Verify where it is installed, else as normalised strings; `fallback` says why."""

    def __init__(self, grader: MathGrader) -> None:
        self._grader = grader
        self.fallback: str | None = None

    def grade(self, answers: Seq[str | None], target: str | None, data_name: str | None) -> list[bool | None]:
        """None for every answer where there is no target; no answer is wrong."""
        if data_name is not None and _CODE in data_name.lower():
            # The target is a dummy '1'; answers are '1' or '0' once the code was run, and no grade before.
            return [_CODE_GRADES.get(answer or "") for answer in answers]
        if target is None:
            return [None] * len(answers)
        return [answer is not None and self._same(target, answer) for answer in answers]

    def group(self, answers: Seq[str | None]) -> list[int | None]:
        """Classes of equivalent answers, numbered from 0."""
        if self.fallback is None:
            try:
                return self._grader.group(answers)
            except GradingUnavailable as error:
                self.fallback = str(error)
        numbers: dict[str, int] = {}
        normal = [None if answer is None else normalise(answer) for answer in answers]
        return [None if text is None else numbers.setdefault(text, len(numbers)) for text in normal]

    def _same(self, target: str, answer: str) -> bool:
        if self.fallback is None:
            try:
                return self._grader.equivalent(target, answer)
            except GradingUnavailable as error:
                self.fallback = str(error)
        return normalise(target) == normalise(answer)
