"""One text, graded."""

from dataclasses import dataclass

from eager.grading.extract import AnswerKind, Fallback, choice_letter, extract_answer
from eager.grading.math_grader import MathGrader


@dataclass(frozen=True)
class Graded:
    """What a text answers (None: nothing), and whether that is right (None: nobody can tell yet)."""

    answer: str | None
    correct: bool | None


def grade(text: str, target: str | None, kind: AnswerKind, grader: MathGrader, fallback: Fallback = "none") -> Graded:
    """`text` (the model's own, without the prompt) against `target`.

    No answer is wrong. Without a target, and for code (which needs running), the grade is None: ungraded, never wrong.
    """
    answer = extract_answer(text, kind, fallback)
    if target is None or kind == "code":
        return Graded(answer, None)
    if answer is None:
        return Graded(None, False)
    if kind == "choice":
        return Graded(answer, answer == (choice_letter(target) or target.strip()))
    return Graded(answer, grader.equivalent(target, answer))
