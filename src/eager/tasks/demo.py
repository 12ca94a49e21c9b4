"""The demo: short arithmetic and word problems, written for this project (Apache-2.0, like the rest of it).

Graded from what the embedded 135M-parameter model always solves to what it seldom does; docs/demo.md has the
measurement, and why the task asks as it does.
"""

from pathlib import Path

from eager.tasks.base import Problem, Row, Task
from eager.tasks.cells import noted, required

DATA = Path(__file__).with_name("demo.jsonl")

# A model this small does what it is shown, not what it is told.
EXAMPLES = (
    ("Sam has 4 pens and gets 5 more. How many pens does Sam have?", r"4 + 5 = 9. The answer is \boxed{9}."),
    ("A bag holds 7 nuts. How many nuts are in 3 bags?", r"3 * 7 = 21. The answer is \boxed{21}."),
)


def _to_problem(row: Row, index: int) -> Problem:
    return Problem(index, required(row, "question", index), required(row, "answer", index), noted(row, "level"))


DEMO = Task(
    name="demo",
    title="word problems for the embedded model",
    citation="written for EAGer",
    instruction="",
    published_instruction=None,
    answer_kind="math",
    columns=("question", "answer", "level"),
    to_problem=_to_problem,
    fallback="last_number",
    examples=EXAMPLES,
)
