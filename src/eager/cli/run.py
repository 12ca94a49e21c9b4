"""`eager run`: the options, and from them one run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eager import __version__
from eager.cli import CONTEXT_SETTINGS
from eager.cli.ending import Command, Stopped
from eager.cli.options import given_to_engine, run_options

if TYPE_CHECKING:
    from eager.cli.display import Display
    from eager.engines import Engine, EngineOptions
    from eager.experiments import Run, RunPlan
    from eager.results.scores import ExperimentResult
    from eager.store.journal import Journal
    from eager.tasks import LoadedTask


@click.command("run", cls=Command, context_settings=CONTEXT_SETTINGS)
@run_options
def command(**options: Any) -> None:
    """Answer a set of problems and see what each way of sampling cost and how well it did.

    Every finished prompt is kept at once: run the same command with the same --output_dir again to go on after a stop.
    Ctrl-C, SIGTERM and SIGHUP end a run with its results written; a second one ends it at once.
    """
    from eager.engines import EngineError, engine_options
    from eager.errors import EagerError
    from eager.tasks import TaskError

    given = given_to_engine(options)
    try:
        engine = engine_options(options["engine"], given, options["model_name"])
        plan, task = plan_of(options), task_of(options)
    except (EngineError, TaskError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    try:
        _run(plan, task, options, engine, given)
    except EagerError as error:
        raise click.ClickException(str(error)) from None


def plan_of(options: dict[str, Any]) -> RunPlan:
    """The plan, without thresholds that are yet to be found. Raises ValueError where a value is out of its range."""
    from eager.experiments import EXPERIMENTS, RunPlan
    from eager.results.experiment import KINDS
    from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams

    names = dict.fromkeys(name for asked in options["experiments"] for name in EXPERIMENTS[asked])
    in_order = tuple(name for name in KINDS if name in names)
    of_branching = (
        *("max_sequences", "branch_rule", "threshold_percentile", "max_tokens_without_branch"),
        *("varentropy_threshold", "varentropy_max_entropy", "stop_after"),
    )
    common = {name: options[name] for name in of_branching}
    thresholds = dict.fromkeys(threshold for threshold in options["entropy_threshold"] if isinstance(threshold, float))
    rules = tuple(BranchConfig(entropy_threshold=threshold, **common) for threshold in thresholds or (MAX_ENTROPY,))
    for target in (threshold for threshold in options["entropy_threshold"] if not isinstance(threshold, float)):
        target.check(rules[0])
    sampling = SamplingParams(*(options[name] for name in ("temperature", "top_p", "top_k", "min_p")))
    of_run = ("seed", "max_tokens", "record_entropies", "settle")
    return RunPlan(in_order, rules, sampling, **{name: options[name] for name in of_run})


def task_of(options: dict[str, Any]) -> LoadedTask:
    """The problems asked for. Raises TaskError."""
    from eager.tasks import load

    asked = ("data_path", "prompt_field", "target_field", "limit", "instruction", "prompt_style", "system_prompt")
    return load(options["data_name"], **{name: options[name] for name in asked})


def _run(
    plan: RunPlan, task: LoadedTask, options: dict[str, Any], engine_options: EngineOptions, given: dict[str, Any]
) -> None:
    from eager.cli.place import default_folder, has_finished_prompts, how_to_go_on, open_journal
    from eager.errors import EagerError
    from eager.experiments import settings_of

    settings = settings_of(plan, task, bound(options, engine_options))
    default = default_folder(options["model_name"], options["data_name"])
    with open_journal(options["output_dir"], default, settings) as journal:
        try:
            _answer(plan, task, journal, options, engine_options, given)
        except Stopped as stop:
            stop.advice = how_to_go_on(journal.folder)
            raise
        except EagerError as error:
            if options["output_dir"] is not None or not has_finished_prompts(journal.folder):
                raise
            # The same command would begin anew: it does not know the folder.
            raise click.ClickException(f"{error}; {how_to_go_on(journal.folder)}") from None


def _answer(
    plan: RunPlan,
    task: LoadedTask,
    journal: Journal,
    options: dict[str, Any],
    engine_options: EngineOptions,
    given: dict[str, Any],
) -> None:
    from eager.cli.auto import with_found_thresholds
    from eager.cli.display import Display
    from eager.engines import load_engine
    from eager.experiments import Run
    from eager.grading import MathGrader

    display = Display()
    with ExitStack() as stack:
        grader = stack.enter_context(MathGrader())
        if task.task.answer_kind == "math":
            grader.check()  # what it lacks is better known before a model is loaded
        _say_all(display, [*journal.problems, *journal.notices])
        display.say(f"loading {options['model_name']} with {options['engine']}")
        begun_with = _identity_of(journal)
        engine = load_engine(options["engine"], options["model_name"], **{**_kept(begun_with), **given})
        stack.callback(engine.shutdown)
        _say_all(display, list(engine.notices))
        _check_identity(begun_with, engine.identity(), options["model_name"], journal.folder)
        plan, found = with_found_thresholds(plan, task, engine, journal, options["entropy_threshold"], display)
        journal.append_about({**_about(engine, options["notes"], engine_options), "calibration": found})
        run = Run(plan, engine, task, journal, grader, display.show)
        stack.callback(lambda: _say_all(display, run.notices))
        results: list[ExperimentResult] = []
        # However the run ends, what was finished is written and shown; the display has gone by then.
        stack.callback(_show, results, journal.folder)
        stack.push(lambda kind, error, trace: _write(run, error))
        stack.enter_context(display)
        for result in run.run():
            results.append(result)  # noqa: PERF402 - each counts as soon as it is there


def _write(run: Run, ended_by: BaseException | None) -> None:
    """Write what has been finished since the last write; where the folder itself is what failed, that was said."""
    from eager.errors import EagerError
    from eager.store.journal import StoreError

    try:
        run.write_finished()
    except EagerError as error:
        if not isinstance(ended_by, StoreError):
            click.echo(f"Error: {error}", err=True)


def _say_all(display: Display, sentences: list[str]) -> None:
    for sentence in sentences:
        display.say(sentence)


def bound(options: dict[str, Any], engine: EngineOptions) -> dict[str, Any]:
    """The model's and the engine's part of the settings.

    Of options at their default only two are among them, which every folder has, whatever its engine: a folder begun
    before the others existed goes on.
    """
    from eager.engines.options_vllm import VLLMOptions

    names = {name: options[name] for name in ("model_name", "engine")}
    always = {"dtype": VLLMOptions().dtype, "max_model_len": engine.max_model_len}
    return {**names, **always, **engine.settings()}


def _identity_of(journal: Journal) -> dict[str, Any]:
    """What the engine said of the model when the folder's records were made; a folder of old says nothing."""
    found = journal.about.get("identity", {}) if journal.experiments() else {}
    return found if isinstance(found, dict) else {}


def _kept(begun_with: dict[str, Any]) -> dict[str, Any]:
    """What a run that goes on hands to the engine again: the date that its prompts have."""
    return {name: value for name, value in begun_with.items() if name == "chat_date"}


def _about(engine: Engine, notes: str, engine_options: EngineOptions) -> dict[str, Any]:
    """What is recorded of a run beside its settings."""
    versions = {"eager-gen": __version__, **engine.versions()}
    options = engine_options.about()
    return {"notes": notes, "versions": versions, "engine_options": options, "identity": engine.identity()}


def _check_identity(begun_with: dict[str, Any], now: dict[str, Any], model_name: str, folder: Path) -> None:
    """Raises RunError where model or context are not those of the folder's records."""
    from eager.experiments import RunError

    for name in begun_with.keys() & now.keys():
        if begun_with[name] == now[name]:
            continue
        if name == "model_files":
            what = f"the files of model '{model_name}' are not those that it was begun with: put those back"
        else:
            what = f"{name} was {begun_with[name]}, now it is {now[name]}: give what makes it {begun_with[name]} again"
        raise RunError(f"'{folder}' cannot be continued, {what}, or use another --output_dir")


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
