"""AIME 2024 and 2025: the American Invitational Mathematics Examination, 30 problems a year, answers 0 to 999.

Problems: Mathematical Association of America, AIME I and II, 2024 and 2025.
Datasets: https://huggingface.co/datasets/Maxwell-Jia/AIME_2024 and https://huggingface.co/datasets/opencompass/AIME2025
"""

from eager.grading import normalise
from eager.tasks.base import BOXED_INSTRUCTION, HubSource, Problem, Row, Task
from eager.tasks.cells import noted, required


def _from_2024(row: Row, index: int) -> Problem:
    meta = {name.lower(): value for name, value in noted(row, "ID").items()}
    return Problem(index, required(row, "Problem", index), _integer(row, "Answer", index), meta)


def _from_2025(row: Row, index: int) -> Problem:
    return Problem(index, required(row, "question", index), _integer(row, "answer", index), {})


def _integer(row: Row, column: str, index: int) -> str:
    r"""The answer without what some copies carry: 25.0 and 025 are "25", 336^\circ is "336"."""
    text = required(row, column, index)
    plain = normalise(text)
    return str(int(plain)) if plain.isascii() and plain.isdigit() and len(plain) <= 9 else text


AIME_2024 = Task(
    name="Maxwell-Jia/AIME_2024",
    title="AIME 2024, I and II",
    citation="Mathematical Association of America, American Invitational Mathematics Examination, 2024",
    instruction=BOXED_INSTRUCTION,
    answer_kind="math",
    columns=("Problem", "Answer"),
    to_problem=_from_2024,
    hub=HubSource("Maxwell-Jia/AIME_2024", (None,), "train"),
)

AIME_2025 = Task(
    name="opencompass/AIME2025",
    title="AIME 2025, I and II",
    citation="Mathematical Association of America, American Invitational Mathematics Examination, 2025",
    instruction=BOXED_INSTRUCTION,
    answer_kind="math",
    columns=("question", "answer"),
    to_problem=_from_2025,
    hub=HubSource("opencompass/AIME2025", ("AIME2025-I", "AIME2025-II"), "test"),
)
