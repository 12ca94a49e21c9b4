"""GPQA-Diamond: 198 graduate-level questions in biology, physics and chemistry, four choices each.

Rein, Hou, Stickland, Petty, Pang, Dirani, Michael, Bowman: GPQA: A Graduate-Level Google-Proof Q&A Benchmark, 2023.
Dataset: https://huggingface.co/datasets/fingertap/GPQA-Diamond (the choices are inside the question's text). The
authors ask that no question be published in plain text: none is in this repository.
"""

from eager.grading import choice_letter
from eager.tasks.base import HubSource, Problem, Row, Task, TaskError
from eager.tasks.cells import required

INSTRUCTION = (
    r"Please reason step by step, and put the letter of the right choice (A, B, C or D) within \boxed{}, "
    r"as in \boxed{A}."
)
PUBLISHED_INSTRUCTION = (
    r"Answer the following question using \boxed{} environment to indicate the letter of the correct solution "
    r"(example: \boxed{A}).{problem}"
)


def _to_problem(row: Row, index: int) -> Problem:
    answer = required(row, "answer", index)
    letters = choice_letter(answer)
    if letters is None:
        raise TaskError(f"row {index + 1} has the answer {answer!r}, which is none of the letters A to D: correct it")
    return Problem(index, required(row, "question", index), letters, {})


GPQA_DIAMOND = Task(
    name="fingertap/GPQA-Diamond",
    title="GPQA-Diamond",
    citation="Rein et al., GPQA: A Graduate-Level Google-Proof Q&A Benchmark, arXiv 2311.12022, 2023",
    instruction=INSTRUCTION,
    published_instruction=PUBLISHED_INSTRUCTION,
    answer_kind="choice",
    columns=("question", "answer"),
    to_problem=_to_problem,
    hub=HubSource("fingertap/GPQA-Diamond", (None,), "test"),
)
