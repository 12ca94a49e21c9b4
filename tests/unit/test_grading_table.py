r"""What people feed a grader: one table of pairs and one of texts, in the kinds in which public bug reports fall.

`benchmarks/grading_table.py` counts how many of them a version of the package gets right.
"""

import needs
import pytest
from grading_cases import PAIRS, TEXTS

from eager.grading import grade, same_answer
from eager.grading.math_grader import MathGrader


@pytest.fixture(scope="module")
def algebra():
    needs.package("math_verify", "math")
    from eager.grading.algebra import same_expression

    return same_expression


@pytest.mark.parametrize(("kind", "gold", "answer", "equal"), PAIRS)
def test_a_pair_is_equal_or_not(algebra, kind: str, gold: str, answer: str, equal: bool) -> None:
    """Each pair of the table, in both orders; what is decided without algebra agrees with what is decided with it."""
    for a, b in ((gold, answer), (answer, gold)):
        assert same_answer(a, b, algebra) is equal, kind
        assert same_answer(a, b) in (None, equal), kind


@pytest.mark.parametrize(("kind", "task", "text", "target", "correct"), TEXTS)
def test_a_text_is_right_or_not(algebra, monkeypatch, kind, task, text, target, correct) -> None:
    """Each text of the table, graded as its benchmark's."""
    answers, fallback = task
    with MathGrader() as grader:
        monkeypatch.setattr(grader, "equivalent", lambda gold, answer: same_answer(gold, answer, algebra))
        assert grade(text, target, answers, grader, fallback).correct is correct, kind
