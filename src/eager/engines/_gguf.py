"""What a GGUF file says of itself at its head: enough to tell a whole file from half of one, and a cache's size.

llama.cpp reads the same, but tells arrays to nobody, and of a file that is cut only that it cannot be loaded. Layout:
magic, version, number of tensors and of facts; the facts; the tensors' table; padding; the weights.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eager.engines._model_files import check_no_pointer, cut_short
from eager.engines.base import EngineError
from eager.words import one_line

_VERSIONS = (2, 3)
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# ggml's number of a tensor's type: weights in a block, bytes of a block. A type that is not here counts as nothing.
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)}
_BLOCKS |= {10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)}
_BLOCKS |= {16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)}
_BLOCKS |= {23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)}
_BLOCKS |= {34: (256, 54), 35: (256, 66), 39: (32, 17)}


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a GGUF by their names; arrays of texts are left out."""

    values: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    def of_model(self, name: str, default: Any = None) -> Any:
        """The fact `name` of the model's architecture."""
        return self.values.get(f"{self.architecture}.{name}", default)


def read_facts(path: Path) -> Facts:
    """The facts of the file. Raises EngineError where it is no GGUF, or ends before its last tensor does."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
            check_no_pointer(path, head)
            if head[:4] != b"GGUF":
                raise EngineError(f"'{one_line(str(path))}' is no GGUF: give a .gguf file of a model")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _facts(path, data)
    except OSError as error:
        raise EngineError(f"'{one_line(str(path))}' cannot be read ({error.strerror}): mend that") from None


def _facts(path: Path, data: mmap.mmap) -> Facts:
    reader = _Reader(data)
    try:
        version, n_tensors, n_facts = reader.numbers("4xIQQ")
        if version not in _VERSIONS:
            raise EngineError(
                f"'{one_line(str(path))}' is GGUF of version {version}, and llama.cpp reads 2 and 3: convert it again"
            )
        facts = Facts({name: value for name, value in reader.facts(n_facts) if value is not None})
        end = max((offset + n_bytes for offset, n_bytes in reader.tensors(n_tensors)), default=0)
        alignment = int(facts.values.get("general.alignment", 32)) or 1
        n_needed = -(-reader.at // alignment) * alignment + end if end else reader.at
    except (struct.error, IndexError):  # it asked for more than there is
        raise cut_short(path, len(data), None) from None
    except (UnicodeDecodeError, KeyError):
        raise EngineError(f"'{one_line(str(path))}' is a damaged GGUF: fetch it again") from None
    if n_needed > len(data):
        raise cut_short(path, len(data), n_needed)
    return facts


class _Reader:
    """Goes through the head; struct.error or IndexError where that ends too early."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self._data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def facts(self, n_facts: int) -> Iterator[tuple[str, Any]]:
        for _ in range(n_facts):
            name = self._text().decode()
            (kind,) = self.numbers("I")
            yield name, self._value(kind)

    def tensors(self, n_tensors: int) -> Iterator[tuple[int, int]]:
        """(offset among the weights, bytes) of each."""
        for _ in range(n_tensors):
            self._text()
            (n_dimensions,) = self.numbers("I")
            *shape, kind, offset = self.numbers(f"{n_dimensions}QIQ")
            n_weights = 1
            for size in shape:
                n_weights *= size
            per_block, n_bytes = _BLOCKS.get(kind, (1, 0))
            yield offset, n_weights // per_block * n_bytes

    def _text(self) -> bytes:
        (n_bytes,) = self.numbers("Q")
        return self._take(n_bytes)

    def _take(self, n_bytes: int) -> bytes:
        if self.at + n_bytes > len(self._data):
            raise IndexError("past the end of the file")
        taken = self._data[self.at : self.at + n_bytes]
        self.at += n_bytes
        return taken

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text().decode(errors="replace")
        if kind == _ARRAY:
            return self._array(*self.numbers("IQ"))
        return self.numbers(_FORMATS[kind])[0]

    def _array(self, kind: int, n_items: int) -> tuple[Any, ...] | None:
        if kind in (_TEXT, _ARRAY):
            for _ in range(n_items):
                self._value(kind)
            return None
        raw = self._take(n_items * struct.calcsize(f"<{_FORMATS[kind]}"))
        return struct.unpack(f"<{n_items}{_FORMATS[kind]}", raw)


def cache_numbers(facts: Facts) -> tuple[int, int]:
    """How many numbers a token's keys and values take in the KV cache of all layers.

    Heads may have a size of their own (Qwen3, Gemma 3: not the model's width by the number of heads), another in
    layers with a window, and their number may differ from layer to layer. Never too few.
    """
    n_layers = int(facts.of_model("block_count", 0))
    heads = _each_layer(facts.of_model("attention.head_count", 1), n_layers)
    kv_heads = _each_layer(facts.of_model("attention.head_count_kv", heads), n_layers)
    shared = int(facts.of_model("embedding_length", 0)) // max(1, min((n for n in heads if n), default=1))
    sizes = [
        max(
            int(facts.of_model(f"attention.{part}_length", shared)),
            int(facts.of_model(f"attention.{part}_length_swa", 0)),
        )
        for part in ("key", "value")
    ]
    return sum(kv_heads) * sizes[0], sum(kv_heads) * sizes[1]


def _each_layer(value: Any, n_layers: int) -> list[int]:
    return [int(n) for n in value] if isinstance(value, tuple | list) else [int(value)] * n_layers
