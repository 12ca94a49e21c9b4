"""MATH-500: 500 problems of MATH, five levels and seven subjects; answers in LaTeX.

Lightman, Kosaraju, Burda, Edwards, Baker, Lee, Leike, Schulman, Sutskever, Cobbe: Let's Verify Step by Step, 2023; on
Hendrycks et al.: Measuring Mathematical Problem Solving With the MATH Dataset, NeurIPS 2021.
Dataset: https://huggingface.co/datasets/HuggingFaceH4/MATH-500
"""

from eager.tasks.base import BOXED_INSTRUCTION, HubSource, Problem, Row, Task
from eager.tasks.cells import noted, required


def _to_problem(row: Row, index: int) -> Problem:
    meta = noted(row, "unique_id", "subject", "level")
    return Problem(index, required(row, "problem", index), required(row, "answer", index), meta)


MATH_500 = Task(
    name="HuggingFaceH4/MATH-500",
    title="MATH-500",
    citation="Lightman et al., Let's Verify Step by Step, arXiv 2305.20050, 2023",
    instruction=BOXED_INSTRUCTION,
    answer_kind="math",
    columns=("problem", "answer"),
    to_problem=_to_problem,
    hub=HubSource("HuggingFaceH4/MATH-500", (None,), "test"),
)
