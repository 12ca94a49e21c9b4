"""The demo's problems: complete, graded as documented, and never measured under other words than they ship with."""

import re
from pathlib import Path

import pytest

from eager.grading import Graded, MathGrader
from eager.tasks import Problem, load

DOC = Path(__file__).parents[2] / "docs" / "demo.md"
LEVELS = ("easy", "middle", "hard")
PROBLEMS = load("demo").problems


def measured() -> list[tuple[str, str, str, int]]:
    """(level, problem, answer, correct of 16) a row of the table in docs/demo.md."""
    rows = re.findall(r"^\| (easy|middle|hard) \| (.+?) \| (\d+) \| (\d+) \|", DOC.read_text(encoding="utf-8"), re.M)
    return [(level, problem, answer, int(right)) for level, problem, answer, right in rows]


def test_the_demo_needs_no_network_and_no_path() -> None:
    """About 30 problems, all different, each with a whole number for an answer."""
    assert 28 <= len(PROBLEMS) <= 34
    assert len({problem.prompt for problem in PROBLEMS}) == len(PROBLEMS)
    assert all(problem.target is not None and problem.target.isdigit() for problem in PROBLEMS)


def test_the_levels_are_balanced_and_in_order() -> None:
    """About a third each of easy, middle and hard, easiest first."""
    levels = [problem.meta["level"] for problem in PROBLEMS]
    assert levels == sorted(levels, key=LEVELS.index)
    assert all(9 <= levels.count(level) <= 12 for level in LEVELS)


def test_a_limit_takes_the_easiest() -> None:
    """The first problems, under the index they have in the whole task."""
    assert [problem.index for problem in load("demo", limit=3).problems] == [0, 1, 2]


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.prompt.startswith("What is")], ids=lambda p: p.prompt)
def test_arithmetic_targets_are_right(problem: Problem) -> None:
    """The target of every plain calculation is what Python makes of it."""
    words = problem.prompt.removeprefix("What is ").rstrip("?")
    for word, sign in {"times": "*", "divided by": "//", "plus": "+", "minus": "-"}.items():
        words = words.replace(word, sign)
    assert re.fullmatch(r"[\d+*/ -]+", words)
    assert problem.target == str(eval(words))


def test_the_documented_measurement_is_of_these_problems() -> None:
    """docs/demo.md lists exactly the shipped problems, levels and answers, in their order."""
    shipped = [(problem.meta["level"], problem.prompt, problem.target) for problem in PROBLEMS]
    assert [row[:3] for row in measured()] == shipped


def test_the_measured_rates_span_from_always_to_seldom() -> None:
    """Easy is at least 12 of 16 right, hard at most 5 but not out of reach, middle between; some are always right."""
    rights = {level: [right for row_level, _, _, right in measured() if row_level == level] for level in LEVELS}
    assert min(rights["easy"]) >= 12
    assert max(rights["easy"]) == 16
    assert all(5 < right < 12 for right in rights["middle"])
    assert all(0 < right <= 5 for right in rights["hard"])


def test_the_model_is_shown_how_to_answer() -> None:
    """The chat opens with worked examples that end in a box, takes turns, and ends with the problem alone."""
    loaded = load("demo")
    messages = loaded.messages(PROBLEMS[0])
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert all(re.search(r"\\boxed\{\d+\}\.$", answer["content"]) for answer in messages[1::2])
    assert messages[-1]["content"] == PROBLEMS[0].prompt


def test_no_example_gives_a_problem_away() -> None:
    """No worked example is one of the problems."""
    examples = {asked for asked, _ in load("demo").task.examples}
    assert not examples & {problem.prompt for problem in PROBLEMS}


def test_an_instruction_reaches_every_turn() -> None:
    """--instruction is put to the examples as it is to the problem, so that they still show how to answer it."""
    messages = load("demo", instruction="Be brief.").messages(PROBLEMS[0])
    assert all(message["content"].endswith("\n\nBe brief.") for message in messages if message["role"] == "user")


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        (r"The answer is \boxed{RIGHT}.", True),
        ("So it is RIGHT.", True),
        (r"\boxed{RIGHT} and 99999 more", True),
        ("RIGHT, no: 99999", False),
        ("I do not know.", False),
    ],
)
def test_demo_answers_are_graded_by_box_or_last_number(text: str, correct: bool) -> None:
    """The box where there is one, else the last number of the text; no number is a wrong answer."""
    loaded, problem = load("demo"), PROBLEMS[0]
    with MathGrader() as grader:
        graded = loaded.grade(text.replace("RIGHT", str(problem.target)), problem, grader)
    assert isinstance(graded, Graded)
    assert graded.correct is correct
