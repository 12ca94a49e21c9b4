"""`eager tasks` and `eager engines`: what there is, and what is missing to use it."""

from __future__ import annotations

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command


@click.command("tasks", cls=Command, context_settings=CONTEXT_SETTINGS)
def tasks() -> None:
    """List the tasks, whose work they are, and what is missing to use them."""
    from importlib.util import find_spec

    from eager.tasks import TASKS

    has_datasets = find_spec("datasets") is not None
    has_math = find_spec("math_verify") is not None
    for name, task in TASKS.items():
        missing = []
        if task.hub is not None and not has_datasets:
            missing.append("the hub needs pip install 'eager-gen[tasks]'; --data_path works without")
        if task.answer_kind == "math" and not has_math:
            missing.append("comparing answers needs pip install 'eager-gen[math]'")
        _line(name, task.title, [task.citation, *missing])
    click.echo("\nAny local file: --data_name NAME --data_path FILE --prompt_field COLUMN [--target_field COLUMN]")


@click.command("engines", cls=Command, context_settings=CONTEXT_SETTINGS)
def engines() -> None:
    """List the engines, what is missing to use them, and whether llama.cpp's code is known to run on this processor."""
    from eager.engines import ENGINES, is_installed

    for name, info in ENGINES.items():
        if not is_installed(name):
            notes = [f"needs pip install 'eager-gen[{info.extra}]'"]
        else:
            notes = [_native_code()] if name == "llama_cpp" else []
        _line(name, info.summary, notes)


def _native_code() -> str:
    """What the check of llama.cpp's native code is known to have said; it is not made here."""
    from eager.engines._native_check import RUNS, remembered, what_it_died_of

    outcome = remembered()
    if outcome is None:
        return "not tried on this processor yet: the next run does that first"
    return "runs on this processor" if outcome == RUNS else what_it_died_of(outcome)


def _line(name: str, summary: str, notes: list[str]) -> None:
    click.echo(f"{name:30} {summary}")
    for sentence in notes:
        click.echo(f"{'':30} {sentence}")


COMMANDS = {"tasks": tasks, "engines": engines}
