"""The options of engine llama_cpp, and which of llama.cpp's own its contract allows."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from eager.engines._native_check import ensure_llama_cpp_runs
from eager.engines.base import EngineError
from eager.engines.options import COUNT, SIZE, SWITCH, ChatOptions, is_number, one_of, option, shown, whole

_PLACES = {"n_gpu_layers", "main_gpu", "split_mode", "offload_kqv", "op_offload", "no_host"}
_SET = "the engine sets it itself"
_POINTER = "it is a pointer, which an option cannot give"
_THREADS = whole(1, 512)  # as ggml's GGML_MAX_N_THREADS
_DECODES = "the engine needs the weights, and logits of every sequence"


# What begins the names of the numbers that stand for something: another number is ignored, or ends the process.
_NAMED = {"split_mode": "LLAMA_SPLIT_MODE_", "load_mode": "LLAMA_LOAD_MODE_", "lazy_mode": "LLAMA_LAZY_MODE_"}
_NAMED |= {"rope_scaling_type": "LLAMA_ROPE_SCALING_TYPE_"}


class CacheType(NamedTuple):
    """A type of the KV cache's numbers: llama.cpp's id, and the bytes of one number."""

    ggml_type: int
    n_bytes: float


CACHE_TYPES = {
    "f32": CacheType(0, 4),
    "f16": CacheType(1, 2),
    "bf16": CacheType(30, 2),
    "q8_0": CacheType(8, 34 / 32),
    "q5_1": CacheType(7, 24 / 32),
    "q5_0": CacheType(6, 22 / 32),
    "q4_1": CacheType(3, 20 / 32),
    "q4_0": CacheType(2, 18 / 32),
    "iq4_nl": CacheType(20, 18 / 32),
}
"""What llama.cpp takes for `type_k` and `type_v`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppOptions(ChatOptions):
    """The options of `LlamaCppEngine`; other fields of llama.cpp's context and model parameters go to `library`.

    `n_cells` is the size of the KV cache in tokens, `kv_cache_gib` the same in GiB, by default 2; a context that was
    not asked for is no longer than that holds. `n_threads` is by
    default the CPUs that this process may use; `flash_attn` off makes the last bits depend on the batch.
    """

    engine: ClassVar[str] = "llama_cpp"

    device: str = option("auto", one_of("auto", "cpu", "cuda"))
    n_cells: int | None = option(None, COUNT)
    kv_cache_gib: float | None = option(None, SIZE)
    n_threads: int | None = option(None, _THREADS)
    flash_attn: bool = option(True, SWITCH, is_bound=True)
    type_k: str = option("f16", one_of(*CACHE_TYPES), is_bound=True)
    type_v: str = option("f16", one_of(*CACHE_TYPES), is_bound=True)

    library_title: ClassVar[str] = "the other numbers among llama.cpp's context and model parameters"
    refused: ClassVar[dict[str, str]] = {
        "n_ctx": "give the KV cache's size as n_cells or kv_cache_gib, the context as max_model_len",
        "n_threads_batch": "give n_threads, which counts for all batches",
        "flash_attn_type": "give flash_attn, true or false",
        **dict.fromkeys(("n_batch", "n_ubatch"), "the engine sets it, so that results do not depend on the batch"),
        "defrag_thold": "cells must keep their order, so that results do not depend on the batch",
        **dict.fromkeys(("n_seq_max", "kv_unified", "swa_full", "n_rs_seq"), "forks share the cells of one cache"),
        **dict.fromkeys(("n_outputs_max", "n_outputs_max_per_seq", "n_samplers"), _SET),
        **dict.fromkeys(("embeddings", "pooling_type", "attention_type", "ctx_type"), _DECODES),
        **dict.fromkeys(("vocab_only", "no_alloc"), _DECODES),
        **dict.fromkeys(("cb_eval", "cb_eval_user_data", "abort_callback", "abort_callback_data"), _POINTER),
        **dict.fromkeys(("samplers", "ctx_other", "devices", "tensor_buft_overrides", "tensor_split"), _POINTER),
        **dict.fromkeys(("progress_callback", "progress_callback_user_data", "kv_overrides"), _POINTER),
    }
    harmless: ClassVar[frozenset[str]] = frozenset(_PLACES | {"no_perf", "check_tensors", "load_mode", "lazy_mode"})

    def __post_init__(self) -> None:
        ChatOptions.__post_init__(self)
        if self.n_cells is not None and self.kv_cache_gib is not None:
            raise EngineError("n_cells and kv_cache_gib both give the size of the KV cache: give one of them")

    @classmethod
    def library_names(cls) -> frozenset[str]:
        return frozenset(_number_types())

    @classmethod
    def _check_library(cls, name: str, value: Any) -> None:
        super(LlamaCppOptions, cls)._check_library(name, value)
        number_type = _number_types()[name]
        if not _fits(value, number_type):
            raise EngineError(f"{name} must be {_wanted(number_type)}, got {shown(value)}")
        named = _named(name)
        if named and value not in named:
            raise EngineError(f"{name} must be one of {', '.join(map(str, sorted(named)))}, got {value}")

    def set_on(self, params: ctypes.Structure) -> None:
        """Give `params`, llama.cpp's for a model or for a context, what of `library` is theirs."""
        for name, _ in params._fields_:  # type: ignore[misc]
            if name in self.library:
                setattr(params, name, self.library[name])


def _number_types() -> Mapping[str, Any]:
    """The C types of llama.cpp's parameters that are plain numbers."""
    ensure_llama_cpp_runs()  # before its import, which may be what it dies of
    from eager.engines._llama_library import llama_cpp

    both = [*llama_cpp.llama_context_params._fields_, *llama_cpp.llama_model_params._fields_]
    plain = (ctypes.c_bool, ctypes.c_float, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t)
    return {name: c_type for name, c_type in both if c_type in plain}


def _named(name: str) -> set[int]:
    """The numbers that llama.cpp has names for, of a parameter that is one of those."""
    from eager.engines._llama_library import llama_cpp

    prefix = _NAMED.get(name)
    return {value for text, value in vars(llama_cpp).items() if prefix and text.startswith(prefix)}


def _fits(value: Any, c_type: Any) -> bool:
    """Whether C holds it: ctypes would wrap a number that is too large without a word."""
    if c_type is ctypes.c_bool:
        return isinstance(value, bool)
    if c_type is ctypes.c_float:
        return is_number(value) and is_number(c_type(value).value)
    return isinstance(value, int) and not isinstance(value, bool) and c_type(value).value == value


def _wanted(c_type: Any) -> str:
    if c_type is ctypes.c_bool:
        return "true or false"
    if c_type is ctypes.c_float:
        return "a number"
    return "a whole number" + ("" if c_type(-1).value == -1 else " of at least 0") + " that fits 32 bits"
