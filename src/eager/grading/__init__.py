"""From a generated text to an answer, and from two answers to whether they are one: see `grade`."""

from dataclasses import dataclass

from eager.grading.equivalence import normalise, same_answer
from eager.grading.extract import AnswerKind, Fallback, choice_letter, extract_answer, last_boxed
from eager.grading.math_grader import GradingUnavailable, MathGrader

__all__ = [
    "AnswerKind",
    "Fallback",
    "Graded",
    "GradingUnavailable",
    "MathGrader",
    "choice_letter",
    "extract_answer",
    "grade",
    "last_boxed",
    "normalise",
    "same_answer",
]


@dataclass(frozen=True)
class Graded:
    """What a text answers (None: nothing), and whether that is right (None: nobody can tell yet).

    `lenient`: for a choice, what a reading finds that also takes what is said outside a box, where that is another
    answer. None where it is the same one.
    """

    answer: str | None
    correct: bool | None
    lenient: "Graded | None" = None


def grade(text: str, target: str | None, kind: AnswerKind, grader: MathGrader, fallback: Fallback = "none") -> Graded:
    """`text` (the model's own, without the prompt) against `target`.

    No answer is wrong. Without a target, and for code (which needs running), the grade is None: ungraded, never wrong.
    """
    answer = extract_answer(text, kind, fallback, strict=True)
    if kind == "choice":
        said = extract_answer(text, kind, fallback)
        lenient = None if said == answer else Graded(said, _is_choice(said, target))
        return Graded(answer, _is_choice(answer, target), lenient)
    if target is None or kind == "code":
        return Graded(answer, None)
    return Graded(answer, answer is not None and grader.equivalent(target, answer))


def _is_choice(answer: str | None, target: str | None) -> bool | None:
    return None if target is None else answer is not None and answer == (choice_letter(target) or target.strip())
