"""The benchmarks, by the names the hub gives them, and `load`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eager.tasks.aime import AIME_2024, AIME_2025
from eager.tasks.base import LoadedTask, Problem, PromptStyle, Task, TaskError
from eager.tasks.demo import DATA as DEMO_DATA, DEMO
from eager.tasks.gpqa import GPQA_DIAMOND
from eager.tasks.gsm8k import GSM8K
from eager.tasks.hmmt import HMMT_FEB_2025
from eager.tasks.humanevalplus import HUMANEVAL_PLUS
from eager.tasks.local import local_task, with_fields
from eager.tasks.math500 import MATH_500
from eager.tasks.rows import read_file, read_hub
from eager.words import one_line

__all__ = ["TASKS", "LoadedTask", "Problem", "TaskError", "load"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (AIME_2024, AIME_2025, HMMT_FEB_2025, GPQA_DIAMOND, HUMANEVAL_PLUS, GSM8K, MATH_500, DEMO)
}


def load(
    name: str,
    *,
    data_path: str | Path | None = None,
    prompt_field: str | None = None,
    target_field: str | None = None,
    limit: int | None = None,
    instruction: str | None = None,
    prompt_style: PromptStyle = "instructed",
    system_prompt: str | None = None,
) -> LoadedTask:
    """The task called `name` with its (first `limit`) problems; TaskError says in one sentence what is wrong.

    From the hub, or from the file `data_path`: in the benchmark's own columns, or in `prompt_field` and
    `target_field`, which a name of the user's own needs. `prompt_style` chooses between the task's instruction and the
    published code's; `instruction` replaces either, `system_prompt` comes before everything.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"the limit is {limit}: ask for at least one problem")
    task = _choose(name, data_path, prompt_field, target_field)
    rows, source = _rows(task, data_path)
    problems = _problems(task, rows[:limit], source)
    instruction = task.instruction_in(prompt_style) if instruction is None else instruction
    return LoadedTask(task, problems, instruction, system_prompt)


def _choose(name: str, data_path: str | Path | None, prompt_field: str | None, target_field: str | None) -> Task:
    if data_path is None and (prompt_field or target_field):
        raise TaskError("--prompt_field and --target_field name columns of a local file: give it with --data_path")
    if target_field and not prompt_field:
        raise TaskError("--target_field alone does not say where the prompts are: give --prompt_field as well")
    known = TASKS.get(name)
    if known is not None:
        return with_fields(known, prompt_field, target_field) if prompt_field else known
    if data_path is None:
        raise TaskError(_unknown(name))
    if not prompt_field:
        raise TaskError(
            f"'{one_line(name)}' is no known benchmark, so its columns are not known either: name the one with the "
            f"prompts with --prompt_field, or use one of {', '.join(TASKS)}"
        )
    return local_task(name, prompt_field, target_field)


def _unknown(name: str) -> str:
    lowered = {known.lower(): known for known in TASKS} | {known.split("/")[-1].lower(): known for known in TASKS}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {lowered[close[0]]}? " if close else ""
    return (
        f"'{one_line(name)}' is no known benchmark: {hint}There are {', '.join(TASKS)}; for a file of your own "
        "give --data_path and --prompt_field"
    )


def _rows(task: Task, data_path: str | Path | None) -> tuple[Sequence[dict[str, Any]], str]:
    """The rows, and what to call the place they came from."""
    if data_path is not None:
        return read_file(Path(data_path)), str(data_path)
    if task.hub is not None:
        return read_hub(task.hub), task.hub.path
    return read_file(DEMO_DATA), task.name


def _problems(task: Task, rows: Sequence[dict[str, Any]], source: str) -> tuple[Problem, ...]:
    if not rows:
        raise TaskError(f"{source} holds no problems: give a file with at least one row")
    for number, row in enumerate(rows, 1):
        missing = [column for column in task.columns if column not in row]
        if missing:
            there = one_line(", ".join(map(str, row)))
            raise TaskError(
                f"{source}, row {number}, has no column '{one_line(missing[0])}', only {there}: "
                "name its columns with --prompt_field and --target_field"
            )
    try:
        return tuple(task.to_problem(row, index) for index, row in enumerate(rows))
    except TaskError as error:
        raise TaskError(f"{source}, {error}") from None
