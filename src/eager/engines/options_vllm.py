"""The options of engine vllm, and which of vLLM's own its contract allows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from eager.engines.options import AT_ONCE, SHARE, SIZE, SWITCH, TEXT, WHOLE, ChatOptions, one_of, option, whole

_SPECULATION = (
    "with it a draw depends on what was proposed, no longer on the sequence's seed and the token's position alone"
)
_ONE_ENGINE = "replicas do not run under one engine in one process: give each its own run over a part of the data"
_GENERATES = "EAGer needs a model that generates text"
_NONE_LOST = "sequences beyond it would be lost, not wait their turn"
_SET = "the engine sets it itself"
_REPLICAS = whole(1, 1024)
_BATCHED = whole(1, 1 << 20)  # vLLM tries at its start whether the memory is enough for so many

# Harmless: where the model runs, how much is decoded at once, how it is loaded.
_PLACES = {"distributed_executor_backend", "distributed_timeout_seconds", "cpu_distributed_timeout_seconds"}
_PLACES |= {"device_ids", "nnodes", "node_rank", "master_addr", "master_port"}
_PLACES |= {"numa_bind", "numa_bind_nodes", "numa_bind_cpus"}
_ROOM = {"num_gpu_blocks_override", "max_num_scheduled_tokens", "long_prefill_token_threshold"}
_ROOM |= {"watermark", "cpu_offload_gb", "async_scheduling"}
_LOADING = {"download_dir", "max_parallel_loading_workers", "safetensors_load_strategy", "shutdown_timeout"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions(ChatOptions):
    """The options of `VLLMEngine`; any other field of vLLM's EngineArgs goes to `library`.

    `capacity` is vLLM's max_num_seqs, by default what vLLM takes for the device. `block_size` is that of the KV cache,
    `kv_cache_gib` its size (on a CPU 4 by default; on a GPU what `gpu_memory_utilization` leaves). `enforce_eager`
    leaves the model uncompiled (by default on a CPU only); `max_num_batched_tokens` bounds the tokens of one step,
    prompts included.
    """

    engine: ClassVar[str] = "vllm"

    device: str = option("auto", one_of("auto", "cpu", "cuda"))
    dtype: str = option("bfloat16", TEXT, is_bound=True)
    gpu_memory_utilization: float = option(0.8, SHARE)
    seed: int = option(55, WHOLE)
    tensor_parallel_size: int = option(1, _REPLICAS)
    pipeline_parallel_size: int = option(1, _REPLICAS)
    data_parallel_size: int = option(1, _REPLICAS)
    quantization: str | None = option(None, TEXT, is_bound=True)
    trust_remote_code: bool = option(False, SWITCH)
    block_size: int | None = option(None, AT_ONCE)
    enforce_eager: bool | None = option(None, SWITCH, is_bound=True)
    max_num_batched_tokens: int | None = option(None, _BATCHED)
    kv_cache_gib: float | None = option(None, SIZE)

    library_title: ClassVar[str] = "every field of vLLM's EngineArgs"
    refused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("speculative_config", "spec_method", "spec_model", "spec_tokens"), _SPECULATION),
        "watermark_config": "a watermark changes what is drawn",
        "diffusion_config": "a diffusion model does not write one token after the other, so it has no place to fork",
        "logits_processors": "the engine draws with one of its own, and others would change what it draws from",
        "logprobs_mode": "entropies are those of the raw distribution",
        "max_logprobs": "entropies are over the 20 best tokens, which is vLLM's bound as it is",
        "stream_interval": "a branch would be seen late, and what was decoded since thrown away",
        "enable_prefix_caching": "a fork finds its prefix in that cache, which is always on",
        "skip_tokenizer_init": "chat templates and stop ids are read off the tokenizer",
        "tokens_only": "chat templates and stop ids are read off the tokenizer",
        **dict.fromkeys(("runner", "convert", "pooler_config"), _GENERATES),
        **dict.fromkeys(("max_num_queued_reqs", "max_num_queued_tokens"), _NONE_LOST),
        **dict.fromkeys(("data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local"), _ONE_ENGINE),
        **dict.fromkeys(("data_parallel_address", "data_parallel_rpc_port", "data_parallel_backend"), _ONE_ENGINE),
        **dict.fromkeys(("data_parallel_hybrid_lb", "data_parallel_external_lb"), _ONE_ENGINE),
        "data_parallel_multi_port_external_lb": _ONE_ENGINE,
        "hf_token": "it would be written into the results; give it as the environment variable HF_TOKEN",
        "model": "it is the model's name: give it as --model_name",
        **dict.fromkeys(("max_num_seqs", "max_num_active_seqs"), "give it as capacity"),
        "kv_cache_memory_bytes": "give it as kv_cache_gib",
        "disable_log_stats": _SET,
        "use_tqdm_on_load": _SET,
    }
    harmless: ClassVar[frozenset[str]] = frozenset(_PLACES | _ROOM | _LOADING | {"log_level", "log_config_file"})

    @classmethod
    def library_names(cls) -> frozenset[str]:
        from eager.engines._vllm_api import EngineArgs

        return frozenset(item.name for item in fields(EngineArgs) if not item.name.startswith("_"))
