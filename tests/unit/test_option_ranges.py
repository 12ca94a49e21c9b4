"""Every option that is a number has its range: read off the commands themselves, so that a new one is among them."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from eager.cli import main
from eager.cli.values import CommaSeparated, FiniteFloat, FiniteOrNone, FiniteRange
from eager.engines import ENGINES

# Ranges that the core's dataclasses hold, with values outside them; their sentence is the core's.
IN_THE_CORE = {
    "temperature": ("0", "-1"),
    "top_p": ("0", "1.0000001", "-1"),
    "min_p": ("-1e-9", "1.0000001"),
    "entropy_threshold": ("0", "-1", "2.995732273554", "2.2,3"),
    "threshold_percentile": ("-1e-9", "100.0000001"),
    "varentropy_threshold": ("-1e-9", "3.1675", "1e9"),
    "varentropy_max_entropy": ("0", "-1", "2.995732273554"),
    "settle": ("0.5", "1", "-1", "95"),
}
# Theirs are looked at in test_options.py, which demands one of each.
OF_ENGINES = {name for info in ENGINES.values() for name in info.options.names()}
NOT_FINITE = ("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e400", "-1e400")
NO_NUMBERS = ("", " ", "x", "1,5x", "0x10", "٣x", "9" * 5000 + "x")
NUMERIC = (click.types.IntParamType, click.types.FloatParamType, FiniteOrNone)


def numeric_options() -> Iterator[tuple[str, click.Option, click.ParamType]]:
    """(command, option, kind of number) of each option that takes numbers."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        for option in command.params:
            kind = option.type.item if isinstance(option.type, CommaSeparated) else option.type
            if isinstance(option, click.Option) and isinstance(kind, NUMERIC) and not option.is_flag:
                yield name, option, kind


OPTIONS = [pytest.param(*item, id=f"{item[0]}-{item[1].name}") for item in numeric_options()]


def refusal(tmp_path, command: str, option: click.Option, value: str) -> str:
    """What the command says to this value: one line, exit code 2, and nothing but usage before it."""
    (tmp_path / "folder").mkdir(exist_ok=True)
    model = ["--engine", "scripted", "--model_name", "chain"]
    needed = {"run": [*model, "--data_name", "demo"], "calibrate": [*model, "--data_name", "demo"], "serve": model}
    arguments = needed.get(command, [str(tmp_path / "folder")])
    done = CliRunner().invoke(main, [command, *arguments, f"{option.opts[0]}={value}"])
    assert done.exit_code == 2, done.output
    error = done.output.split("Error: ")[1]
    assert error.count("\n") == 1
    assert option.name in error
    return error


@pytest.mark.parametrize(("command", "option", "kind"), OPTIONS)
def test_every_number_is_bounded_on_both_sides(command: str, option: click.Option, kind: click.ParamType) -> None:
    """By its type, or by the core, or by its engine: what is none of these is an option without a range."""
    if option.name in OF_ENGINES or option.name in IN_THE_CORE:
        return
    assert isinstance(kind, click.IntRange | FiniteRange), f"--{option.name} of eager {command} has no range"
    assert None not in (kind.min, kind.max), f"--{option.name} of eager {command} has half a range"


@pytest.mark.parametrize(("command", "option", "kind"), OPTIONS)
def test_nan_inf_and_what_is_no_number_are_refused(
    tmp_path, command: str, option: click.Option, kind: click.ParamType
) -> None:
    """In one sentence that names the option, exit code 2."""
    for value in (*NOT_FINITE, *NO_NUMBERS):
        refusal(tmp_path, command, option, value)


@pytest.mark.parametrize(("command", "option", "kind"), OPTIONS)
def test_what_is_outside_is_refused(tmp_path, command: str, option: click.Option, kind: click.ParamType) -> None:
    """The nearest number on either side of the range, and one of a thousand digits."""
    if option.name in OF_ENGINES:
        return
    outside = IN_THE_CORE.get(option.name) or (
        kind.min - (not getattr(kind, "min_open", False)),
        kind.max + 1,
        10**1000,
    )
    for value in map(str, outside):
        refusal(tmp_path, command, option, value)


def test_there_are_numbers_to_look_at() -> None:
    """The list above is made from the commands: it holds these, and no kind of number is unknown to it."""
    found = {item.values[1].name for item in OPTIONS}
    assert {"max_sequences", "seed", "limit", "timeout", "memory_mb", "workers", "entropy_threshold"} <= found
    assert issubclass(FiniteFloat, NUMERIC)
    assert issubclass(FiniteRange, NUMERIC)


@pytest.mark.parametrize("threshold", ["2.995732273554", "2.99574", "3"])
def test_a_threshold_outside_is_told_as_it_was_given(tmp_path, threshold: str) -> None:
    """All digits of it and of the bound: cut to six it would seem to lie inside."""
    (option,) = (item.values[1] for item in OPTIONS if item.id == "run-entropy_threshold")
    error = refusal(tmp_path, "run", option, threshold)
    assert error.endswith(f"must be in (0, ln 20 = 2.995732273553991], got {float(threshold)}\n")
