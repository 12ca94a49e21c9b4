"""`eager run`: the options, and from them one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eager import __version__
from eager.cli import CONTEXT_SETTINGS

if TYPE_CHECKING:
    from eager.experiments import RunPlan
    from eager.tasks import LoadedTask

_ENGINE_ONLY = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "quantization", "trust_remote_code")
_INTERRUPTED = 130


class CommaSeparated(click.ParamType[tuple[Any, ...]]):
    """Several values in one option, separated by commas."""

    def __init__(self, item: click.ParamType[Any]) -> None:
        self.item = item
        self.name = item.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(self.item.convert(part.strip(), param, ctx) for part in str(value).split(","))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        item = self.item.get_metavar(param, ctx) or self.item.name.upper()
        return f"{item}[,...]"


_EXPERIMENT_NAMES = ("parallel", "eager_init", "eager_adapt", "eager", "all")


def _options(command: Any) -> Any:
    """All options of `eager run`, in the order of its help."""
    positive = click.IntRange(min=1)
    options = [
        click.option("--model_name", required=True, help="'demo', the path of a .gguf file, owner/repo:quant, or what vLLM serves."),
        click.option("--data_name", required=True, help="A task (see eager tasks), or any name together with --data_path."),
        click.option("--engine", default="llama_cpp", help="What runs the model (see eager engines)."),
        click.option(
            "--experiments", type=CommaSeparated(click.Choice(_EXPERIMENT_NAMES)), default="all", help="What to run, in this order."
        ),
        click.option("--max_sequences", type=positive, default=32, help="M: the most sequences a prompt."),
        click.option(
            "--entropy_threshold",
            type=CommaSeparated(click.FLOAT),
            default="2.2",
            help="Branch where the entropy in nats exceeds this; in (0, ln 20]. Several make several experiments.",
        ),
        click.option("--temperature", type=float, default=0.6, help="Of sampling; the entropy is always that of the raw distribution."),
        click.option("--top_p", type=float, default=1.0, help="Sample from the fewest tokens with this share."),
        click.option("--top_k", type=int, default=0, help="Sample from so many most likely tokens; 0 for all."),
        click.option("--min_p", type=float, default=0.0, help="Sample from tokens at least this likely relative to the most likely."),
        click.option("--seed", type=int, default=55, help="Every draw comes from (seed, prompt, sequence, position)."),
        click.option("--max_tokens", type=positive, help="The most tokens a sequence; by default what the context allows."),
        click.option("--max_model_len", type=positive, default=32768, help="Context length; a model's own bound may be lower."),
        click.option("--branch_rule", type=click.Choice(("top2", "distinct", "sample")), default="top2", help="How a branch splits."),
        click.option("--threshold_percentile", type=float, help="Raise the threshold to this percentile of the tree's entropies so far."),
        click.option("--max_tokens_without_branch", type=positive, default=1000, help="A tree that has not branched for so long stops trying."),
        click.option("--output_dir", type=click.Path(path_type=Path), help="By default outputs/{model}/{data}/{timestamp}."),
        click.option("--data_path", type=click.Path(path_type=Path), help="A local .jsonl, .csv or .parquet file in place of the hub."),
        click.option("--prompt_field", help="The column of --data_path that holds the problems."),
        click.option("--target_field", help="The column of --data_path that holds the answers."),
        click.option("--limit", type=positive, help="Only the first problems."),
        click.option("--instruction", help="In place of the task's own; goes after the problem, or around it as {problem}."),
        click.option("--notes", default="", help="Kept in the result files."),
        click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", help="Where the model runs."),
        click.option("--dtype", default="bfloat16", help="Precision of the weights, for vLLM; a GGUF has its own."),
        click.option("--gpu_memory_utilization", type=click.FloatRange(0, 1, min_open=True), default=0.8, help="Share of GPU memory, for vLLM."),
        click.option("--tensor_parallel_size", type=positive, default=1, help="vLLM's."),
        click.option("--pipeline_parallel_size", type=positive, default=1, help="vLLM's."),
        click.option("--data_parallel_size", type=positive, default=1, help="vLLM's."),
        click.option("--quantization", help="vLLM's."),
        click.option("--trust_remote_code", is_flag=True, help="vLLM's: run the model's own code."),
        # Trials of slowness and failure, for the scripted engine only.
        click.option("--seconds_per_step", type=float, default=0.0, hidden=True, envvar="EAGER_SCRIPTED_SECONDS_PER_STEP"),
        click.option("--fail_after", type=int, hidden=True, envvar="EAGER_SCRIPTED_FAIL_AFTER"),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command("run", context_settings=CONTEXT_SETTINGS)
@_options
@click.pass_context
def command(ctx: click.Context, **options: Any) -> None:
    """Answer a set of problems and see what each way of sampling cost and how well it did.

    Every finished prompt is kept at once: run the same command with the same --output_dir again to go on after a stop.
    """
    from eager.engines import EngineError
    from eager.experiments import RunError
    from eager.grading import GradingUnavailable
    from eager.store import StoreError
    from eager.tasks import TaskError

    _check_engine(ctx, options)
    try:
        plan, task = _plan(options), _task(options)
    except (TaskError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    options["output_dir"] = options["output_dir"] or _default_folder(options)
    try:
        _run(plan, task, options)
    except (EngineError, RunError, StoreError, GradingUnavailable) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command with --output_dir {options['output_dir']} goes on from here", err=True)
        ctx.exit(_INTERRUPTED)


def _check_engine(ctx: click.Context, options: dict[str, Any]) -> None:
    from eager.engines import ENGINES

    name = options["engine"]
    if name not in ENGINES:
        raise click.UsageError(f"unknown engine '{name}': choose from {', '.join(ENGINES)}")
    for option in _ENGINE_ONLY:
        was_given = ctx.get_parameter_source(option) == click.core.ParameterSource.COMMANDLINE
        if was_given and option not in ENGINES[name].options:
            raise click.UsageError(f"engine '{name}' has no --{option}: leave it out or choose --engine vllm")


def _plan(options: dict[str, Any]) -> RunPlan:
    """Raises ValueError with a sentence where a value is out of its range."""
    from eager.entropy import MAX_ENTROPY
    from eager.experiments import EXPERIMENTS, RunPlan
    from eager.types import BranchConfig, SamplingParams

    thresholds = tuple(dict.fromkeys(options["entropy_threshold"]))
    for threshold in thresholds:
        if not 0 < threshold <= MAX_ENTROPY:
            raise ValueError(f"--entropy_threshold must be in (0, ln 20 = {MAX_ENTROPY:.4f}], got {threshold:g}")
    names = dict.fromkeys(name for asked in options["experiments"] for name in EXPERIMENTS[asked])
    branching = BranchConfig(
        max_sequences=options["max_sequences"],
        entropy_threshold=thresholds[0],
        max_length=options["max_model_len"],
        sampling=SamplingParams(*(options[name] for name in ("temperature", "top_p", "top_k", "min_p"))),
        branch_rule=options["branch_rule"],
        threshold_percentile=options["threshold_percentile"],
        max_tokens_without_branch=options["max_tokens_without_branch"],
    )
    in_order = tuple(name for name in EXPERIMENTS["all"] if name in names)
    return RunPlan(in_order, thresholds, branching, options["seed"], options["max_tokens"])


def _task(options: dict[str, Any]) -> LoadedTask:
    from eager.tasks import load

    asked = ("data_path", "prompt_field", "target_field", "limit", "instruction")
    return load(options["data_name"], **{name: options[name] for name in asked})


def _default_folder(options: dict[str, Any]) -> Path:
    model = Path(options["model_name"]).name.replace(":", "_")
    return Path("outputs") / model / Path(options["data_name"]).name / time.strftime("%Y-%m-%d_%H-%M-%S")


def _run(plan: RunPlan, task: LoadedTask, options: dict[str, Any]) -> None:
    from eager.cli.display import Display
    from eager.engines import load_engine
    from eager.experiments import Run, settings_of
    from eager.grading import MathGrader
    from eager.store import Journal

    kept = {name: options[name] for name in ("model_name", "engine", "dtype", "max_model_len")}
    journal = Journal(options["output_dir"], settings_of(plan, task, kept))
    display = Display()
    try:
        display.say(f"loading {options['model_name']} with {options['engine']}")
        engine = load_engine(options["engine"], **_engine_options(options))
        try:
            journal.append_about({"notes": options["notes"], "versions": {"eager-gen": __version__, **engine.versions()}})
            with MathGrader() as grader, display:
                results = list(Run(plan, engine, task, journal, grader, display.show).run())
            display.table(results, options["output_dir"])
        finally:
            engine.shutdown()
    finally:
        journal.close()


def _engine_options(options: dict[str, Any]) -> dict[str, Any]:
    common = ("model_name", "max_model_len", "device", "dtype", "gpu_memory_utilization", "seed")
    names = (*common, *_ENGINE_ONLY, "seconds_per_step", "fail_after")
    return {name: options[name] for name in names}
