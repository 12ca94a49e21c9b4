"""From a generated text to an answer, and from two answers to whether they are one: see `grade`."""

from eager.grading.equivalence import normalise, same_answer
from eager.grading.extract import AnswerKind, Fallback, choice_letter, extract_answer, last_boxed
from eager.grading.grade import Graded, grade
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
