"""The options of `eager run`, in the order of its help."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import click

from eager.cli.values import (
    CommaSeparated,
    FiniteFloat,
    FiniteOrNone,
    JSONObject,
    ModelName,
    NameValue,
    PromptText,
    TextFile,
    Threshold,
    UserPath,
)
from eager.engines.options_llama_cpp import LlamaCppOptions
from eager.engines.options_openai import OpenAIOptions
from eager.engines.options_vllm import VLLMOptions
from eager.results.experiment import KINDS

_EXPERIMENT_NAMES = (*KINDS, "all")
# Beyond what anybody counts, and within what libraries count in.
_MOST = 10**9
_COUNT = click.IntRange(1, _MOST)
# What has its range elsewhere: in the core's dataclasses, or in an engine's options.
_FINITE = FiniteFloat()


def _engine_option(name: str, help_text: str, **how: Any) -> Any:
    """An option that goes to the engine if it is given; the default shown is that of the first class that has it."""
    classes = (LlamaCppOptions, VLLMOptions, OpenAIOptions)
    defaults = [item.default for options in classes for item in fields(options) if item.name == name]
    default = defaults[0] if defaults else None
    is_told = default is not None and not isinstance(default, bool)
    flags = how.pop("flags", f"--{name}")
    return click.option(
        flags, name, default=None, show_default=str(default) if is_told else False, help=help_text, **how
    )


_ENGINE_OPTIONS = {
    "max_model_len": _engine_option("max_model_len", "Context length; a model's own bound may be lower.", type=int),
    "device": _engine_option("device", "Where the model runs.", type=click.Choice(("auto", "cpu", "cuda"))),
    "capacity": _engine_option(
        "capacity", "The most sequences decoded at once; by default what suits engine and device.", type=int
    ),
    "kv_cache_gib": _engine_option(
        "kv_cache_gib",
        "Size of the KV cache; by default 2 for llama_cpp, 4 for vLLM on a CPU, what the GPU leaves on a GPU.",
        type=_FINITE,
    ),
    "chat_template": _engine_option("chat_template", "A Jinja template in place of the model's own.", type=TextFile()),
    "chat_template_kwargs": _engine_option(
        "chat_template_kwargs", "For the chat template, as '{\"enable_thinking\": false}'.", type=JSONObject()
    ),
    "dtype": _engine_option("dtype", "Precision of the weights, for vLLM; a GGUF has its own."),
    "quantization": _engine_option("quantization", "vLLM's."),
    "gpu_memory_utilization": _engine_option("gpu_memory_utilization", "Share of GPU memory, for vLLM.", type=_FINITE),
    "enforce_eager": _engine_option(
        "enforce_eager",
        "vLLM's: leave the model uncompiled; by default on a CPU only.",
        flags="--enforce_eager/--no-enforce_eager",
    ),
    "tensor_parallel_size": _engine_option("tensor_parallel_size", "vLLM's.", type=int),
    "pipeline_parallel_size": _engine_option("pipeline_parallel_size", "vLLM's.", type=int),
    "data_parallel_size": _engine_option("data_parallel_size", "vLLM's.", type=int),
    "trust_remote_code": _engine_option("trust_remote_code", "vLLM's: run the model's own code.", is_flag=True),
    "base_url": _engine_option(
        "base_url", "For engine openai: the server's address as http://HOST:PORT; several separated by commas."
    ),
    "max_in_flight": _engine_option(
        "max_in_flight", "For engine openai: the most sequences streamed at once.", type=int
    ),
    "give_up_after": _engine_option(
        "give_up_after", "For engine openai: seconds without any server before the run stops.", type=_FINITE
    ),
    "tokenizer": _engine_option(
        "tokenizer", "A folder with the model's tokenizer, in place of the model's or the server's own."
    ),
    "insecure": _engine_option(
        "insecure", "For engine openai: leave the server's certificate unchecked.", is_flag=True
    ),
    # Trials of slowness and failure, for the scripted engine only.
    "seconds_per_step": _engine_option(
        "seconds_per_step", "", type=_FINITE, hidden=True, envvar="EAGER_SCRIPTED_SECONDS_PER_STEP"
    ),
    "fail_after": _engine_option("fail_after", "", type=int, hidden=True, envvar="EAGER_SCRIPTED_FAIL_AFTER"),
}

_OPTIONS = [
    click.option(
        "--model_name",
        type=ModelName(),
        required=True,
        help="'demo', the path of a .gguf file, owner/repo:quant, or what vLLM serves.",
    ),
    click.option("--data_name", required=True, help="A task (see eager tasks), or any name together with --data_path."),
    click.option("--engine", default="llama_cpp", help="What runs the model (see eager engines)."),
    click.option(
        "--experiments",
        type=CommaSeparated(click.Choice(_EXPERIMENT_NAMES)),
        default="all",
        help="What to run, in this order; all: the paper's, without eager_vote.",
    ),
    click.option(
        "--max_sequences", type=click.IntRange(1, 100_000), default=32, help="M: the most sequences a prompt."
    ),
    click.option(
        "--entropy_threshold",
        type=CommaSeparated(Threshold()),
        default="2.2",
        help="Branch where the entropy in nats exceeds this; in (0, ln 20]. Several make several experiments."
        " auto, auto:0.4, auto:sequences=3 or auto:quantile=0.99: as eager calibrate recommends.",
    ),
    click.option(
        "--temperature",
        type=_FINITE,
        default=0.6,
        help="Of sampling, from 1e-5 to 1e5; the entropy is always that of the raw distribution.",
    ),
    click.option("--top_p", type=_FINITE, default=1.0, help="Sample from the fewest tokens with this share."),
    click.option(
        "--top_k",
        type=click.IntRange(0, _MOST),
        default=0,
        help="Sample from so many most likely tokens; 0 for all.",
    ),
    click.option(
        "--min_p",
        type=_FINITE,
        default=0.0,
        help="Sample from tokens at least this likely relative to the most likely.",
    ),
    # 64 bits, of which every draw is made.
    click.option(
        "--seed",
        type=click.IntRange(-(2**63), 2**63 - 1),
        default=55,
        help="Every draw comes from (seed, prompt, sequence, position).",
    ),
    click.option("--max_tokens", type=_COUNT, help="The most tokens a sequence; by default what the context allows."),
    click.option(
        "--branch_rule", type=click.Choice(("top2", "distinct", "sample")), default="top2", help="How a branch splits."
    ),
    click.option(
        "--threshold_percentile",
        type=FiniteOrNone(),
        default="99",
        help="Raise the threshold to this percentile of the tree's entropies at earlier positions, as published;"
        " none for a fixed threshold.",
    ),
    click.option(
        "--max_tokens_without_branch",
        type=_COUNT,
        default=1000,
        help="A tree that has not branched for so long stops trying.",
    ),
    click.option(
        "--varentropy_threshold",
        type=_FINITE,
        help="Branch, too, where the varentropy in nats² exceeds this and the entropy is low; off unless given.",
    ),
    click.option(
        "--varentropy_max_entropy",
        type=_FINITE,
        default=2.5,
        help="How low: the most entropy that --varentropy_threshold branches at.",
    ),
    click.option(
        "--stop_after",
        type=_COUNT,
        help="End a tree when so many of its sequences have ended, the shortest ones; the others are cut.",
    ),
    click.option(
        "--settle",
        type=_FINITE,
        help="How certain a majority must be for eager_vote, by default 0.95; where given, it ends trees of eager_init"
        " that are as certain.",
    ),
    click.option("--output_dir", type=UserPath(), help="By default outputs/{model}/{data}/{timestamp}."),
    click.option(
        "--data_path",
        type=UserPath(),
        help="A local .jsonl, .csv or .parquet file in place of the hub.",
    ),
    click.option("--prompt_field", help="The column of --data_path that holds the problems."),
    click.option("--target_field", help="The column of --data_path that holds the answers."),
    click.option(
        "--limit",
        type=_COUNT,
        help="Only the first problems; a folder keeps their number (docs/running.md says why).",
    ),
    click.option(
        "--instruction",
        type=PromptText(),
        help="In place of the task's own; goes after the problem, or around it as {problem}.",
    ),
    click.option(
        "--prompt_style",
        type=click.Choice(("instructed", "published")),
        default="instructed",
        help="With the task's own instruction, or as the paper's code asks: the bare problem.",
    ),
    click.option(
        "--entropies/--no-entropies",
        "record_entropies",
        default=True,
        help="Record the entropies of parallel, too; the others need them to branch.",
    ),
    click.option("--notes", default="", help="Kept in the result files."),
    click.option(
        "--system_prompt", type=PromptText(), help="Asked before everything else, as the chat's system message."
    ),
    *_ENGINE_OPTIONS.values(),
    click.option(
        "--engine_option",
        "engine_option",
        type=NameValue(),
        multiple=True,
        help="Any other option of the engine or of its library, the value in JSON; may be repeated (docs/engines.md).",
    ),
]


def run_options(command: Any) -> Any:
    """Give a function all options of `eager run`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def fit(command: click.Command, without: Collection[str], **changes: Mapping[str, Any]) -> None:
    """Leave a command some of the options of `eager run` only, and change others: their defaults, their help."""
    command.params = [option for option in command.params if option.name not in without]
    for option in command.params:
        for attribute, value in changes.get(option.name or "", {}).items():
            setattr(option, attribute, value)


def given_to_engine(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the user gave for the engine, by name. Raises UsageError where one thing is given twice."""
    given = {name: options[name] for name in _ENGINE_OPTIONS if options[name] is not None}
    if options["engine"] == OpenAIOptions.engine:
        given |= _key()
    for name, value in options["engine_option"]:
        if name == "api_key":
            raise click.UsageError("a key in the command can be seen by everybody here: give it as EAGER_API_KEY")
        if name in given:
            raise click.UsageError(f"{name} is given twice: give it once")
        given[name] = value
    return given


def _key() -> dict[str, str]:
    """The servers' key. It has no option: the list of processes shows what a command was given."""
    found = os.environ.get("EAGER_API_KEY") or os.environ.get("OPENAI_API_KEY")
    return {"api_key": found} if found else {}
