"""`eager run`: the options, and from them one run."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eager import __version__
from eager.cli import CONTEXT_SETTINGS
from eager.cli.options import given_to_engine, run_options

if TYPE_CHECKING:
    from eager.engines import EngineOptions
    from eager.experiments import RunPlan
    from eager.results.scores import ExperimentResult
    from eager.tasks import LoadedTask

_INTERRUPTED = 130


@click.command("run", context_settings=CONTEXT_SETTINGS)
@run_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Answer a set of problems and see what each way of sampling cost and how well it did.

    Every finished prompt is kept at once: run the same command with the same --output_dir again to go on after a stop.
    """
    from eager.engines import EngineError, engine_options
    from eager.errors import EagerError
    from eager.tasks import TaskError

    given = given_to_engine(options)
    try:
        engine = engine_options(options["engine"], given)
        plan, task = _plan(options), _task(options)
    except (EngineError, TaskError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    options["output_dir"] = options["output_dir"] or _default_folder(options)
    try:
        _run(plan, task, options, engine, given)
    except EagerError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command with --output_dir {options['output_dir']} goes on from here", err=True)
        ctx.exit(_INTERRUPTED)


def _plan(options: dict[str, Any]) -> RunPlan:
    """Raises ValueError with a sentence where a value is out of its range."""
    from eager.experiments import EXPERIMENTS, RunPlan
    from eager.results.experiment import KINDS
    from eager.types import BranchConfig, SamplingParams

    names = dict.fromkeys(name for asked in options["experiments"] for name in EXPERIMENTS[asked])
    in_order = tuple(name for name in KINDS if name in names)
    of_branching = (
        *("max_sequences", "branch_rule", "threshold_percentile", "max_tokens_without_branch"),
        *("varentropy_threshold", "varentropy_max_entropy", "stop_after"),
    )
    common = {name: options[name] for name in of_branching}
    thresholds = dict.fromkeys(options["entropy_threshold"])
    rules = tuple(BranchConfig(entropy_threshold=threshold, **common) for threshold in thresholds)
    sampling = SamplingParams(*(options[name] for name in ("temperature", "top_p", "top_k", "min_p")))
    of_run = ("seed", "max_tokens", "record_entropies", "settle")
    return RunPlan(in_order, rules, sampling, **{name: options[name] for name in of_run})


def _task(options: dict[str, Any]) -> LoadedTask:
    from eager.tasks import load

    asked = ("data_path", "prompt_field", "target_field", "limit", "instruction", "prompt_style", "system_prompt")
    return load(options["data_name"], **{name: options[name] for name in asked})


def _default_folder(options: dict[str, Any]) -> Path:
    model = Path(options["model_name"]).name.replace(":", "_")
    return Path("outputs") / model / Path(options["data_name"]).name / time.strftime("%Y-%m-%d_%H-%M-%S")


def _run(
    plan: RunPlan, task: LoadedTask, options: dict[str, Any], engine_options: EngineOptions, given: dict[str, Any]
) -> None:
    from eager.cli.display import Display
    from eager.engines import load_engine
    from eager.experiments import Run, settings_of
    from eager.grading import MathGrader
    from eager.store.journal import Journal

    display = Display()
    settings = settings_of(plan, task, _bound(options, engine_options))
    with closing(Journal(options["output_dir"], settings)) as journal, MathGrader() as grader:
        if task.task.answer_kind == "math":
            grader.check()  # what it lacks is better known before a model is loaded
        display.say(f"loading {options['model_name']} with {options['engine']}")
        engine = load_engine(options["engine"], options["model_name"], **given)
        with ExitStack() as stack:
            stack.callback(engine.shutdown)
            versions = {"eager-gen": __version__, **engine.versions()}
            about = {"notes": options["notes"], "versions": versions, "engine_options": engine_options.about()}
            journal.append_about(about)
            results: list[ExperimentResult] = []
            # However the run ends, what was finished is shown; the display has gone by then.
            stack.callback(_show, results, options["output_dir"])
            stack.enter_context(display)
            for result in Run(plan, engine, task, journal, grader, display.show).run():
                results.append(result)  # noqa: PERF402 - each counts as soon as it is there


def _bound(options: dict[str, Any], engine: EngineOptions) -> dict[str, Any]:
    """The model's and the engine's part of the settings.

    Of options at their default only two are among them, which every folder has, whatever its engine: a folder begun
    before the others existed goes on.
    """
    from eager.engines.options_vllm import VLLMOptions

    names = {name: options[name] for name in ("model_name", "engine")}
    always = {"dtype": VLLMOptions().dtype, "max_model_len": engine.max_model_len}
    return {**names, **always, **engine.settings()}


def _show(results: list[ExperimentResult], folder: Path) -> None:
    """What the folder holds by now; nothing where this run has finished nothing."""
    from eager.cli.recap import wide_console
    from eager.recap import print_comparison, recap

    if not results:
        return
    comparison = recap([folder], is_brief=True)
    print_comparison(comparison, wide_console(), is_brief=True)
    for problem in comparison.findings.problems:
        click.echo(f"Error: {problem}", err=True)
    click.echo(f"results in {folder}")
