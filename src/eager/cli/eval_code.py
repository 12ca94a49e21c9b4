"""`eager eval-code`: grades generated code by running it in a sandbox."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command, Stopped, uninterrupted
from eager.cli.recap import FOLDER, finish, wide_console
from eager.cli.values import FiniteRange, UserPath
from eager.machine import NoCacheError, cache_folder

if TYPE_CHECKING:
    from eager.code_eval import Checker
    from eager.code_eval.folder import Grading, Outcome

_EVERY_PROMPTS = 10


def _half_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


def _user_cache() -> str:
    try:
        return str(cache_folder())
    except NoCacheError as error:
        raise click.UsageError(f"{error}, or give --cache_dir") from None


_FILE = UserPath(exists=True, dir_okay=False)


@click.command("eval-code", cls=Command, context_settings=CONTEXT_SETTINGS)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=FOLDER)
@click.option("--experiment", "experiments", multiple=True, help="Only this one, as eager_init_th2.2; may be repeated.")
@click.option(
    "--problems",
    type=_FILE,
    envvar="HUMANEVAL_OVERRIDE_PATH",
    show_envvar=True,
    help="EvalPlus's HumanEvalPlus.jsonl[.gz]; by default EvalPlus downloads it once.",
)
@click.option(
    "--timeout",
    type=FiniteRange(0, 86_400, min_open=True),
    default=60.0,
    help="The most seconds a run of a sample.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=_half_the_cores,
    show_default="half the cores",
    help="How many samples run at once.",
)
@click.option("--memory_mb", type=click.IntRange(256, 1 << 20), default=4096, help="The most memory a sample.")
@click.option("--unsafe", is_flag=True, help="Without the sandbox: generated code runs as you, with all your rights.")
@click.option(
    "--cache_dir",
    type=UserPath(file_okay=False),
    default=_user_cache,
    envvar="EAGER_CACHE_DIR",
    show_envvar=True,
    show_default="~/.cache/eager",
    help="Where EvalPlus and what it computes once are kept.",
)
@click.option(
    "--evalplus_python",
    type=_FILE,
    envvar="EAGER_EVALPLUS_PYTHON",
    show_envvar=True,
    help="A Python that has evalplus==0.3.1; by default an environment is made on first use.",
)
def command(folders: tuple[Path, ...], experiments: tuple[str, ...], **options: Any) -> None:
    """Grade the HumanEval+ answers in the FOLDERs by running them against EvalPlus's base and plus tests.

    The code runs in bubblewrap: no network, no view of your files, limits on everything. Grades and scores are
    written back; NAME.json.before-eval keeps each result file as it was, NAME.code.jsonl says why a sample failed.
    An experiment is written when all of it is graded: stopped before, it stays as it was.
    """
    from eager.code_eval.folder import Grading
    from eager.errors import EagerError

    try:
        with _checker(options) as checker:
            grading = Grading(checker, options["workers"], _say, uninterrupted)
            outcomes = _grade_all(folders, experiments, grading)
    except Stopped as stop:
        stop.advice = "no experiment is graded in part, those before it are written: run the same command again"
        raise
    except (EagerError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    if outcomes:
        _table(outcomes, _labels(folders))
    finish(grading.problems)


def _grade_all(folders: tuple[Path, ...], experiments: tuple[str, ...], grading: Grading) -> list[Outcome]:
    """Those that can be graded; that one cannot is a problem, and does not keep the others from it."""
    from eager.code_eval.folder import grade_folder
    from eager.errors import EagerError

    outcomes: list[Outcome] = []
    for folder in folders:
        try:
            outcomes += grade_folder(folder, experiments, grading)
        except EagerError as error:  # noqa: PERF203 - a folder takes minutes
            grading.problems.append(str(error))
    return outcomes


def _labels(folders: tuple[Path, ...]) -> dict[Path, str]:
    """What stands before the names of a folder's experiments: as in recap's tables."""
    from eager.recap import folder_labels

    labels = zip(folders, folder_labels(folders), strict=True)
    return {folder: f"{label}/" if label else "" for folder, label in labels}


def _checker(options: dict[str, Any]) -> Checker:
    """Everything that grading needs, made or found; CodeEvalError where something is missing."""
    from eager.code_eval import Checker, Limits, ProblemSet, Sandbox, describe, environment_python, fetch_problems

    limits = Limits(seconds=options["timeout"], memory_mb=options["memory_mb"])
    cache = options["cache_dir"].absolute()
    if options["unsafe"]:
        click.echo("--unsafe: generated code runs without a sandbox", err=True)
    else:
        Sandbox.require()  # before a minute of installing
    python = options["evalplus_python"] or environment_python(cache, lambda text: click.echo(text, err=True))
    sandbox = Sandbox(describe(python), limits, is_safe=not options["unsafe"])
    problems = options["problems"] or fetch_problems(python, cache)
    return Checker(sandbox, ProblemSet(problems, cache), python)


def _say(name: str, n_done: int, n_prompts: int) -> None:
    if n_done == n_prompts or n_done % _EVERY_PROMPTS == 0:
        click.echo(f"{name}: {n_done}{f'/{n_prompts}' if n_prompts else ''} prompts graded", err=True)


def _table(outcomes: list[Outcome], labels: dict[Path, str]) -> None:
    from eager.recap.grid import Grid

    numbers = ("sequences", "base", "plus", "EvalPlus", "Pass@k", "Pass rate")
    headers = ("results", *numbers, "why they failed")
    title = "Of the graded sequences; plus: base and plus tests; EvalPlus: plus, after its own sanitizing"
    grid = Grid(title, headers, texts=frozenset({0, len(headers) - 1}))
    for outcome in outcomes:
        scores = outcome.scores
        grid.rows.append((
            labels[outcome.path.parent] + outcome.path.stem,
            f"{scores.n_sequences - scores.n_ungraded:,}",
            f"{outcome.n_base:,}",
            f"{outcome.n_plus:,}",
            f"{outcome.n_evalplus:,}",
            *("none" if s.value is None else f"{s.value:.3f}" for s in (scores.pass_at_k, scores.pass_rate)),
            ", ".join(f"{count} {reason}" for reason, count in outcome.reasons.most_common(4)),
        ))  # fmt: skip
    grid.print_on(wide_console())
    for outcome in outcomes:
        click.echo(f"wrote {outcome.path}")
