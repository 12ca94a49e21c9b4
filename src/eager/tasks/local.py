"""Any local file: the prompt and, if it can be graded, the target in columns of the user's choice."""

from collections.abc import Callable
from dataclasses import replace

from eager.tasks.base import BOXED_INSTRUCTION, Problem, Row, Task
from eager.tasks.cells import optional, required


def local_task(name: str, prompt_field: str, target_field: str | None) -> Task:
    """A math task called `name` over those two columns; without a target column it is generated but not graded."""
    return Task(
        name=name,
        title="a local file",
        citation="",
        instruction=BOXED_INSTRUCTION,
        answer_kind="math",
        columns=_columns(prompt_field, target_field),
        to_problem=_reader(prompt_field, target_field),
    )


def with_fields(task: Task, prompt_field: str, target_field: str | None) -> Task:
    """`task`, its instruction and its grading, over a file that calls its columns otherwise."""
    return replace(task, columns=_columns(prompt_field, target_field), to_problem=_reader(prompt_field, target_field))


def _columns(prompt_field: str, target_field: str | None) -> tuple[str, ...]:
    return (prompt_field,) if target_field is None else (prompt_field, target_field)


def _reader(prompt_field: str, target_field: str | None) -> Callable[[Row, int], Problem]:
    def to_problem(row: Row, index: int) -> Problem:
        target = None if target_field is None else optional(row, target_field, index)
        return Problem(index, required(row, prompt_field, index), target, {})

    return to_problem
