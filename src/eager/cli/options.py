"""The options of `eager run`, in the order of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eager.results.experiment import KINDS

ENGINE_ONLY = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "quantization",
    "trust_remote_code",
)
"""Options that some engines take; given to another, they are a mistake."""

_EXPERIMENT_NAMES = (*KINDS, "all")
_POSITIVE = click.IntRange(min=1)


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


_OPTIONS = [
    click.option(
        "--model_name", required=True, help="'demo', the path of a .gguf file, owner/repo:quant, or what vLLM serves."
    ),
    click.option("--data_name", required=True, help="A task (see eager tasks), or any name together with --data_path."),
    click.option("--engine", default="llama_cpp", help="What runs the model (see eager engines)."),
    click.option(
        "--experiments",
        type=CommaSeparated(click.Choice(_EXPERIMENT_NAMES)),
        default="all",
        help="What to run, in this order.",
    ),
    click.option("--max_sequences", type=_POSITIVE, default=32, help="M: the most sequences a prompt."),
    click.option(
        "--entropy_threshold",
        type=CommaSeparated(click.FLOAT),
        default="2.2",
        help="Branch where the entropy in nats exceeds this; in (0, ln 20]. Several make several experiments.",
    ),
    click.option(
        "--temperature",
        type=float,
        default=0.6,
        help="Of sampling; the entropy is always that of the raw distribution.",
    ),
    click.option("--top_p", type=float, default=1.0, help="Sample from the fewest tokens with this share."),
    click.option("--top_k", type=int, default=0, help="Sample from so many most likely tokens; 0 for all."),
    click.option(
        "--min_p", type=float, default=0.0, help="Sample from tokens at least this likely relative to the most likely."
    ),
    click.option("--seed", type=int, default=55, help="Every draw comes from (seed, prompt, sequence, position)."),
    click.option(
        "--max_tokens", type=_POSITIVE, help="The most tokens a sequence; by default what the context allows."
    ),
    click.option(
        "--max_model_len", type=_POSITIVE, default=32768, help="Context length; a model's own bound may be lower."
    ),
    click.option(
        "--branch_rule", type=click.Choice(("top2", "distinct", "sample")), default="top2", help="How a branch splits."
    ),
    click.option(
        "--threshold_percentile",
        type=float,
        help="Raise the threshold to this percentile of the tree's entropies so far.",
    ),
    click.option(
        "--max_tokens_without_branch",
        type=_POSITIVE,
        default=1000,
        help="A tree that has not branched for so long stops trying.",
    ),
    click.option(
        "--output_dir", type=click.Path(path_type=Path), help="By default outputs/{model}/{data}/{timestamp}."
    ),
    click.option(
        "--data_path",
        type=click.Path(path_type=Path),
        help="A local .jsonl, .csv or .parquet file in place of the hub.",
    ),
    click.option("--prompt_field", help="The column of --data_path that holds the problems."),
    click.option("--target_field", help="The column of --data_path that holds the answers."),
    click.option("--limit", type=_POSITIVE, help="Only the first problems."),
    click.option(
        "--instruction", help="In place of the task's own; goes after the problem, or around it as {problem}."
    ),
    click.option("--notes", default="", help="Kept in the result files."),
    click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", help="Where the model runs."),
    click.option("--dtype", default="bfloat16", help="Precision of the weights, for vLLM; a GGUF has its own."),
    click.option(
        "--gpu_memory_utilization",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.8,
        help="Share of GPU memory, for vLLM.",
    ),
    click.option("--tensor_parallel_size", type=_POSITIVE, default=1, help="vLLM's."),
    click.option("--pipeline_parallel_size", type=_POSITIVE, default=1, help="vLLM's."),
    click.option("--data_parallel_size", type=_POSITIVE, default=1, help="vLLM's."),
    click.option("--quantization", help="vLLM's."),
    click.option("--trust_remote_code", is_flag=True, help="vLLM's: run the model's own code."),
    # Trials of slowness and failure, for the scripted engine only.
    click.option("--seconds_per_step", type=float, default=0.0, hidden=True, envvar="EAGER_SCRIPTED_SECONDS_PER_STEP"),
    click.option("--fail_after", type=int, hidden=True, envvar="EAGER_SCRIPTED_FAIL_AFTER"),
]


def run_options(command: Any) -> Any:
    """Give a function all options of `eager run`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
