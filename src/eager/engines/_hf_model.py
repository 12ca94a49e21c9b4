"""A model's folder as Hugging Face lays it out, looked at before vLLM is: whole, and of a kind that can fork.

vLLM and what is below it say of a broken file what they stumbled over, seconds later and each in its own way.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from eager.engines._chat import check_template
from eager.engines._model_files import check_no_pointer, cut_short
from eager.engines.base import EngineError
from eager.words import one_line

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_TOKENIZERS = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json"),
    *("*.tiktoken", "tiktoken.model", "tokenizer*.py", "tokenization*.py"),
)
_CONFIGS = (
    *("config.json", "params.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json"),
)
_READ = (*_WEIGHTS, *_TOKENIZERS, "*.json", "*.jinja")
_DIFFUSION = ("diffusion", "llada", "dream", "sdar", "maskedlm")  # in names of architectures
_AUTOREGRESSIVE = "use a causal language model, which writes one token after the other"
_USUAL_FORMATS = ("auto", "hf", "safetensors", "pt")
_MOST_HEADER = 100_000_000  # bytes, safetensors' own bound


def check_folder(folder: Path, *, load_format: str = "auto", elsewhere: Collection[str] = ()) -> None:
    """Raises EngineError where the folder's model is not whole, or does not write one token after the other.

    `load_format` is vLLM's. What is `elsewhere`, `tokenizer` or `chat_template`, is not looked for here.
    """
    try:
        for path in sorted({path for pattern in _READ for path in folder.glob(pattern) if path.is_file()}):
            with path.open("rb") as file:
                check_no_pointer(path, file.read(64))
        _check_kind(folder, _config(folder))
        if load_format in _USUAL_FORMATS:
            _check_weights(folder)
        if "tokenizer" not in elsewhere:
            _check_tokenizer(folder)
            if "chat_template" not in elsewhere:
                check_template(_template_of(folder), f" of model '{one_line(str(folder))}'")
    except OSError as error:
        place = one_line(str(error.filename or folder))
        raise EngineError(f"'{place}' cannot be read ({error.strerror}): mend that") from None


def files_that_count(folder: Path) -> list[Path]:
    """Weights, configuration, tokenizer and template: what makes the model, whatever else lies beside them."""
    weights = list(folder.glob("*.safetensors")) or [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    others = [path for pattern in (*_CONFIGS, *_TOKENIZERS) for path in folder.glob(pattern)]
    return sorted({path for path in (*weights, *others) if path.is_file()})


def _template_of(folder: Path) -> str:
    """The chat template in the folder, as a text; "" where it has none. Raises EngineError as reading one may."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    path = folder / "tokenizer_config.json"
    found = _read_object(path).get("chat_template") if path.is_file() else None
    if isinstance(found, list):  # several, each with its name
        named = {str(item.get("name")): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "params.json").is_file():  # Mistral's own layout
            return {}
        raise EngineError(
            f"'{one_line(str(folder))}' has no config.json, so it is no model's folder: {_instead(folder)}"
        )
    config = _read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise EngineError(f"'{one_line(str(path))}' names no model_type: fetch the model's own config.json")
    if (folder / "generation_config.json").is_file():
        _read_object(folder / "generation_config.json")  # vLLM would go on without the stop ids in it
    return config


def _instead(folder: Path) -> str:
    """What to give in place of a folder that is none of a model's."""
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter, so merge that into its model first"
    found = sorted(item.name for item in folder.glob("*.gguf"))
    return f"its {found[0]} is for --engine llama_cpp" if found else "give a model's folder, or a hub name 'owner/repo'"


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise EngineError(f"'{one_line(str(path))}' is not JSON: fetch it again") from None
    if not isinstance(found, dict):
        raise EngineError(f"'{one_line(str(path))}' holds no JSON object: fetch it again")
    return found


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    name = one_line(str(folder))
    found = config.get("architectures")
    classes = [str(item) for item in found] if isinstance(found, list) else []
    kinds = [str(config.get("model_type", "")), *classes]
    is_filled_in = "auto_map" in config and isinstance(config.get("mask_token_id"), int)
    if is_filled_in or any(word in kind.lower() for kind in kinds for word in _DIFFUSION):
        raise EngineError(
            f"model '{name}' fills in tokens anywhere in a text ({', '.join(kinds)}), as masked diffusion does, and has"
            f" no place to fork: {_AUTOREGRESSIVE}"
        )
    if config.get("is_encoder_decoder") is True:
        raise EngineError(f"model '{name}' has an encoder, which reads the prompt apart: {_AUTOREGRESSIVE}")


def _check_weights(folder: Path) -> None:
    for path in sorted(folder.glob("*.index.json")):
        parts = _read_object(path).get("weight_map")
        missing = sorted({str(part) for part in parts.values()} if isinstance(parts, dict) else ())
        missing = [part for part in missing if not (folder / part).is_file()]
        if missing and not any(folder.glob("consolidated*.safetensors")):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise EngineError(f"'{one_line(str(folder))}' lacks {missing[0]}{more} of its weights: fetch the rest")
    weights = [path for pattern in _WEIGHTS for path in folder.glob(pattern)]
    if not weights:
        raise EngineError(f"'{one_line(str(folder))}' has no weights (.safetensors or .bin): fetch them")
    for path in sorted(folder.glob("*.safetensors")):
        _check_safetensors(path)
    for path in sorted(folder.glob("*.bin")):
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        if is_zip and not is_zipfile(path):  # a zip's table stands at its end
            raise cut_short(path, path.stat().st_size, None)


def _check_safetensors(path: Path) -> None:
    """The file: the length of its header in 8 bytes, the header, the tensors that it tells the places of."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        n_header = int.from_bytes(head, "little")
        if n_header <= _MOST_HEADER and size < 8 + n_header:
            raise cut_short(path, size, None)
        header = file.read(n_header) if n_header <= _MOST_HEADER else b""
    try:
        ends = [item["data_offsets"][1] for name, item in json.loads(header).items() if name != "__metadata__"]
        n_needed = 8 + n_header + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EngineError(f"'{one_line(str(path))}' is no safetensors file: fetch it again") from None
    if size < n_needed:
        raise cut_short(path, size, n_needed)


def _check_tokenizer(folder: Path) -> None:
    if not any(path for pattern in _TOKENIZERS for path in folder.glob(pattern)):
        raise EngineError(
            f"'{one_line(str(folder))}' has no tokenizer (tokenizer.json): fetch the model's tokenizer files"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _read_object(folder / name)
