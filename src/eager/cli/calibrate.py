"""`eager calibrate`: what thresholds would cost, and which to take."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command
from eager.cli.options import fit, given_to_engine, run_options
from eager.cli.values import FiniteRange

if TYPE_CHECKING:
    from pathlib import Path

    from eager.calibrate.calibration import Calibration, Choice
    from eager.calibrate.exposure import Estimate
    from eager.calibrate.target import Target
    from eager.engines import EngineOptions
    from eager.experiments import RunPlan
    from eager.metrics import Score
    from eager.tasks import LoadedTask

# What eager run has and calibrating has not, as it would be given.
_NOT_ASKED = {
    "experiments": ("eager_init",),
    "entropy_threshold": (),
    "record_entropies": True,
    "notes": "",
    "settle": None,
    "varentropy_threshold": None,
    "varentropy_max_entropy": 2.5,
    "stop_after": None,
}


_SHARE = FiniteRange(0, 1, min_open=True, max_open=True)


@click.command("calibrate", cls=Command, context_settings=CONTEXT_SETTINGS)
@run_options
@click.option("--target_saving", type=_SHARE, help="Save this share of M samples' tokens.  [default: 0.4]")
@click.option("--target_sequences", type=FiniteRange(1, 100_000), help="Take so many sequences a prompt on average.")
@click.option("--quantile", type=_SHARE, help="Leave this share of all tokens' entropies below the threshold.")
def command(**options: Any) -> None:
    """Say what thresholds would cost a prompt, and recommend the lowest that keeps to a target.

    Draws one sequence for each of a few problems, monitored to its end, and writes calibration.json into the output
    folder, where eager run --entropy_threshold auto finds it.
    """
    from eager.cli.run import plan_of, task_of
    from eager.engines import EngineError, engine_options
    from eager.errors import EagerError
    from eager.tasks import TaskError

    options = {**options, **_NOT_ASKED}
    given = given_to_engine(options)
    try:
        target = _target(options)
        engine = engine_options(options["engine"], given, options["model_name"])
        plan, task = plan_of(options), task_of(options)
        target.check(plan.rules[0])
    except (EngineError, TaskError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    try:
        _calibrate(plan, task, target, options, engine, given)
    except EagerError as error:
        raise click.ClickException(str(error)) from None


fit(command, without=_NOT_ASKED, limit={"default": 16, "help": "How many of the first problems to calibrate on."})


def _target(options: dict[str, Any]) -> Target:
    """Raises ValueError where more than one is asked for, or its value is out of range."""
    from eager.calibrate.target import Target

    by_option = {"target_saving": "saving", "target_sequences": "sequences", "quantile": "quantile"}
    given = [Target(kind, options[name]) for name, kind in by_option.items() if options[name] is not None]
    if len(given) > 1:
        raise ValueError("give one of --target_saving, --target_sequences and --quantile")
    return given[0] if given else Target()


def _calibrate(
    plan: RunPlan,
    task: LoadedTask,
    target: Target,
    options: dict[str, Any],
    engine_options: EngineOptions,
    given: dict[str, Any],
) -> None:
    from eager.calibrate.calibration import THRESHOLDS, chosen, settings_of_streams, write_calibration
    from eager.cli.auto import drawn
    from eager.cli.display import Display
    from eager.cli.place import default_folder, new_folder
    from eager.cli.run import bound
    from eager.engines import load_engine
    from eager.experiments import settings_of

    settings = settings_of(plan, task, bound(options, engine_options))
    display = Display()
    with ExitStack() as stack:
        display.say(f"loading {options['model_name']} with {options['engine']}")
        engine = load_engine(options["engine"], options["model_name"], **given)
        stack.callback(engine.shutdown)
        for notice in engine.notices:
            display.say(notice)
        calibration = drawn(plan, task, engine, settings_of_streams(settings, engine), display)
    choice = chosen(calibration, plan.rules[0], target)
    exposure = calibration.exposure(plan.rules[0])
    estimates = [exposure.at(threshold) for threshold in THRESHOLDS]
    folder = options["output_dir"] or new_folder(default_folder(options["model_name"], options["data_name"]))
    _show(calibration, choice, estimates, write_calibration(folder, calibration, choice, estimates))


def _show(calibration: Calibration, choice: Choice, estimates: list[Estimate], path: Path) -> None:
    import shlex

    from eager.cli.auto import in_words
    from eager.cli.recap import wide_console
    from eager.recap.grid import Grid
    from eager.recap.tables import percent
    from eager.words import count

    m = choice.rules.max_sequences
    grid = Grid(
        f"What a prompt would take, M = {m}", ("threshold", "sequences", "tokens", f"saved against {m} samples")
    )
    for estimate in sorted([*estimates, choice.estimate], key=lambda estimate: estimate.threshold):
        mark = "  <-" if estimate is choice.estimate else ""
        numbers = (_number(estimate.n_sequences, 1), _number(estimate.n_tokens, 0), percent(estimate.saved))
        grid.rows.append((f"{estimate.threshold:g}{mark}", *numbers))
    grid.print_on(wide_console())
    drawn = f"{count(len(calibration.streams), 'sequence')} of {count(calibration.n_tokens, 'token')} in all"
    click.echo(f"\nfrom {drawn}; 95 % bootstrap intervals over prompts in brackets")
    click.echo(in_words(choice))
    click.echo(f"wrote {path}: eager run --entropy_threshold auto:{choice.target} \\")
    click.echo(f"    --output_dir {shlex.quote(str(path.parent))} and the same other options uses it")


def _number(score: Score, places: int) -> str:
    value, low, high = (f"{number or 0.0:,.{places}f}" for number in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"
