"""HMMT, February 2025: 30 problems of the Harvard-MIT Mathematics Tournament; answers are numbers, formulas or several.

Balunović, Dekoninck, Petrov, Jovanović, Vechev: MathArena: Evaluating LLMs on Uncontaminated Math Competitions, 2025.
Dataset: https://huggingface.co/datasets/MathArena/hmmt_feb_2025
"""

from eager.tasks.base import BOXED_INSTRUCTION, HubSource, Problem, Row, Task
from eager.tasks.cells import noted, required


def _to_problem(row: Row, index: int) -> Problem:
    return Problem(index, required(row, "problem", index), required(row, "answer", index), noted(row, "problem_idx"))


HMMT_FEB_2025 = Task(
    name="MathArena/hmmt_feb_2025",
    title="HMMT February 2025",
    citation="Balunović et al., MathArena: Evaluating LLMs on Uncontaminated Math Competitions, arXiv 2505.23281, 2025",
    instruction=BOXED_INSTRUCTION,
    answer_kind="math",
    columns=("problem", "answer"),
    to_problem=_to_problem,
    hub=HubSource("MathArena/hmmt_feb_2025", (None,), "train"),
)
