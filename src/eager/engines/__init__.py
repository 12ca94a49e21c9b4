"""The engines, by name. Each is imported only when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from eager.engines._native_check import ensure_llama_cpp_runs
from eager.engines.base import Engine, EngineError


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Where an engine lives, what it needs, how to get that, and which of the common options it takes."""

    module: str
    class_name: str
    needs: str | None
    extra: str | None
    summary: str
    options: frozenset[str]


ENGINES: dict[str, EngineInfo] = {
    "llama_cpp": EngineInfo(
        "eager.engines.llama_cpp",
        "LlamaCppEngine",
        "llama_cpp",
        "llama-cpp",
        "GGUF models on this machine; the default",
        frozenset({"max_model_len", "device"}),
    ),
    "vllm": EngineInfo(
        "eager.engines.vllm",
        "VLLMEngine",
        "vllm",
        "vllm",
        "any model vLLM serves, in process, on GPU or CPU",
        frozenset(
            {
                "max_model_len",
                "device",
                "dtype",
                "gpu_memory_utilization",
                "seed",
                "quantization",
                "trust_remote_code",
                "tensor_parallel_size",
                "pipeline_parallel_size",
                "data_parallel_size",
            }
        ),
    ),
    "scripted": EngineInfo(
        "eager.engines.scripted",
        "ScriptedEngine",
        None,
        None,
        "a tiny made-up model, for tests and trials of the surface",
        frozenset({"max_model_len", "seconds_per_step", "fail_after"}),
    ),
}


def is_installed(name: str) -> bool:
    """Whether what the engine needs can be imported."""
    needs = ENGINES[name].needs
    return needs is None or find_spec(needs) is not None


def load_engine(name: str, model_name: str, **options: Any) -> Engine:
    """Start an engine with those of `options` it takes.

    Raises EngineError, naming the remedy, where it is unknown, not installed or cannot start.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine '{name}': choose from {', '.join(ENGINES)}")
    info = ENGINES[name]
    if not is_installed(name):
        raise EngineError(f"engine '{name}' is not installed: pip install 'eager-gen[{info.extra}]'")
    if info.needs == "llama_cpp":
        ensure_llama_cpp_runs()  # before its import, which may be what it dies of
    engine: Engine = getattr(import_module(info.module), info.class_name)(
        model_name, **{name: value for name, value in options.items() if name in info.options}
    )
    return engine


__all__ = ["ENGINES", "Engine", "EngineError", "EngineInfo", "is_installed", "load_engine"]
