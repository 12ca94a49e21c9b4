"""The engines, by name. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from eager.engines._native_check import ensure_llama_cpp_runs
from eager.engines.base import Engine, EngineError
from eager.engines.options import EngineOptions
from eager.engines.options_llama_cpp import LlamaCppOptions
from eager.engines.options_openai import OpenAIOptions
from eager.engines.options_scripted import ScriptedOptions
from eager.engines.options_vllm import VLLMOptions


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Where an engine lives, the class of its options, what it needs and how to get that, with model demo or not."""

    module: str
    class_name: str
    options: type[EngineOptions]
    needs: str | None
    extra: str | None
    demo_extra: str | None
    summary: str


ENGINES: dict[str, EngineInfo] = {
    "llama_cpp": EngineInfo(
        "eager.engines.llama_cpp",
        "LlamaCppEngine",
        LlamaCppOptions,
        "llama_cpp",
        "llama-cpp",
        "demo",
        "GGUF models on this machine; the default",
    ),
    "vllm": EngineInfo(
        "eager.engines.vllm",
        "VLLMEngine",
        VLLMOptions,
        "vllm",
        "vllm",
        "vllm,vllm-demo",
        "any model vLLM serves, in process, on GPU or CPU",
    ),
    "openai": EngineInfo(
        "eager.engines.openai",
        "OpenAIEngine",
        OpenAIOptions,
        "stamina",
        "openai",
        "openai",
        "vLLM's server, or several of them, over HTTP",
    ),
    "scripted": EngineInfo(
        "eager.engines.scripted",
        "ScriptedEngine",
        ScriptedOptions,
        None,
        None,
        None,
        "a tiny made-up model, for tests and trials of the surface",
    ),
}


def is_installed(name: str) -> bool:
    """Whether what the engine needs can be imported."""
    needs = ENGINES[name].needs
    return needs is None or find_spec(needs) is not None


def engine_options(name: str, given: Mapping[str, Any], model_name: str | None = None) -> EngineOptions:
    """The options of engine `name` for what was given, checked before anything is loaded.

    Raises EngineError where the engine is unknown or not installed, or an option is unknown, refused or out of range.
    For a model that comes with an extra of its own, the error names that extra.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine '{name}': choose from {', '.join(ENGINES)}")
    if not is_installed(name):
        info = ENGINES[name]
        extra = info.demo_extra if model_name == "demo" else info.extra
        raise EngineError(f"engine '{name}' is not installed: pip install 'eager-gen[{extra}]'")
    return ENGINES[name].options.of(given)


def load_engine(name: str, model_name: str, **options: Any) -> Engine:
    """Start an engine. `options` are those of its options class, or of its library (docs/engines.md).

    Raises EngineError, naming the remedy, where it is unknown, not installed, does not know an option or cannot start.
    """
    engine_options(name, options, model_name)
    info = ENGINES[name]
    if info.needs == "llama_cpp":
        ensure_llama_cpp_runs()  # before its import, which may be what it dies of
    engine: Engine = getattr(import_module(info.module), info.class_name)(model_name, **options)
    return engine


__all__ = [
    "ENGINES",
    "Engine",
    "EngineError",
    "EngineOptions",
    "engine_options",
    "is_installed",
    "load_engine",
]
