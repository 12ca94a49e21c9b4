"""How many tokens llama.cpp's KV cache holds: what was asked for, or what its default size is good for."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from eager.engines.base import EngineError
from eager.engines.options_llama_cpp import LlamaCppOptions
from eager.words import one_line

_GIB = 1 << 30
_DEFAULT_BYTES = 2 * _GIB
_CELL_STEP = 256  # llama.cpp rounds the size of the cache up to this
_LARGEST = 1 << 30  # it counts cells in 32 bits
_MOST_BY_DEFAULT = 32768  # however small a model is


@dataclass(frozen=True, slots=True)
class CacheNeeds:
    """What of a model decides on its cache: the bytes of a token in it, the longest context, the model's name."""

    bytes_per_token: int
    n_ctx_train: int
    model_name: str

    def n_cells(self, options: LlamaCppOptions, *, memory: int | None) -> int:
        """The size of the cache in tokens; `memory` bounds its bytes where that is known.

        Raises EngineError where it cannot be had, or is too small for the context that was asked for.
        """
        if options.n_cells is not None:
            n_cells = options.n_cells
        elif options.kv_cache_gib is not None:
            n_cells = self._affordable(int(options.kv_cache_gib * _GIB), f"{options.kv_cache_gib:g} GiB")
        else:
            n_cells = self._default(options)
        n_bytes = n_cells * self.bytes_per_token
        if memory is not None and n_bytes > memory:
            raise EngineError(
                f"a KV cache of {n_cells} tokens of '{one_line(self.model_name)}' takes {n_bytes / _GIB:.1f} GiB, and"
                f" this machine has {memory / _GIB:.1f} in all: give a smaller n_cells or --kv_cache_gib"
            )
        return n_cells

    def _default(self, options: LlamaCppOptions) -> int:
        """What 2 GiB hold, but no more than is of use; a context that was asked for must fit."""
        affordable = self._affordable(_DEFAULT_BYTES, "2 GiB, the default,")
        wanted = min(options.max_model_len, self.n_ctx_train) + 1
        if wanted > affordable and options.max_model_len != LlamaCppOptions().max_model_len:
            needed = wanted * self.bytes_per_token / _GIB
            raise EngineError(
                f"a context of {wanted - 1} tokens of '{one_line(self.model_name)}' takes {needed:.2f} GiB of KV cache,"
                f" and by default it has 2: give --kv_cache_gib {ceil(needed)}, or --max_model_len {affordable - 1}"
            )
        return min(affordable, max(wanted, _MOST_BY_DEFAULT))

    def _affordable(self, n_bytes: int, size: str) -> int:
        """How many tokens so many bytes hold, which the user knows as `size`."""
        affordable = min(n_bytes // self.bytes_per_token, _LARGEST)
        if affordable < _CELL_STEP:
            raise EngineError(
                f"a KV cache of {size} holds {affordable} tokens of '{one_line(self.model_name)}', and"
                f" {_CELL_STEP} are the least: raise --kv_cache_gib"
            )
        return affordable // _CELL_STEP * _CELL_STEP
