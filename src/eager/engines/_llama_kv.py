"""Bookkeeping of llama.cpp's unified KV cache: which slot holds which cells, and compaction.

llama.cpp's attention adds up a sequence's cells in the order in which they lie in the cache. If cells are reused as
they become free, that order, and with it the last bits of every logit, depends on what else was decoded. So cells are
handed out in increasing order only: what a sequence gives up stays occupied by a *graveyard* sequence until
`compact()` moves all that is alive to the front, parents before children. Every sequence's cells then always lie in
the order of their positions, and its logits do not depend on the rest of the batch.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from eager.engines._llama_library import llama_cpp


class _Segment:
    """A run of positions [start, end) whose cells every one of `holders` holds."""

    __slots__ = ("end", "holders", "start")

    def __init__(self, start: int, end: int, holders: set[int]) -> None:
        self.start = start
        self.end = end
        self.holders = holders

    def __len__(self) -> int:
        return self.end - self.start


class KVCache:
    """The cells of one context. A slot is a llama.cpp sequence id below `n_slots`; it holds its first positions."""

    def __init__(self, context: Any, n_cells: int, n_slots: int) -> None:
        self.n_cells = n_cells
        self.n_taken = 0  # cells handed out since the last compaction
        self.n_live = 0  # of these, cells that a slot holds
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._paths: list[list[_Segment]] = [[] for _ in range(n_slots)]
        self._graveyard, self._courier = n_slots, n_slots + 1
        self.padding_slot = n_slots + 2

    N_EXTRA_SLOTS = 3

    def length(self, slot: int) -> int:
        """How many positions the slot holds."""
        path = self._paths[slot]
        return path[-1].end if path else 0

    def has_cells_for(self, n_tokens: int) -> bool:
        return self.n_taken + n_tokens <= self.n_cells

    def append(self, slot: int, n_tokens: int) -> None:
        """The decode just done put `n_tokens` more of the slot into the next cells."""
        path = self._paths[slot]
        if path and path[-1].holders == {slot}:
            path[-1].end += n_tokens
        else:
            start = self.length(slot)
            path.append(_Segment(start, start + n_tokens, {slot}))
        self.n_taken += n_tokens
        self.n_live += n_tokens

    def bury_padding(self) -> None:
        """The decode just done put one token of the padding slot into the next cell."""
        llama_cpp.llama_memory_seq_cp(self._memory, self.padding_slot, self._graveyard, -1, -1)
        llama_cpp.llama_memory_seq_rm(self._memory, self.padding_slot, -1, -1)
        self.n_taken += 1

    def fork(self, source: int, target: int, length: int) -> None:
        """Let the empty slot `target` hold the first `length` positions of `source`; nothing is recomputed."""
        self._split(source, length)
        for segment in self._paths[source]:
            if segment.end <= length:
                segment.holders.add(target)
                self._paths[target].append(segment)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def truncate(self, slot: int, length: int) -> None:
        """Let the slot hold its first `length` positions only."""
        if self.length(slot) <= length:
            return
        self._split(slot, length)
        path = self._paths[slot]
        while path and path[-1].end > length:
            segment = path.pop()
            segment.holders.remove(slot)
            if not segment.holders:
                self.n_live -= len(segment)
                llama_cpp.llama_memory_seq_cp(self._memory, slot, self._graveyard, segment.start, segment.end)
        llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1)

    def compact(self) -> None:
        """Move all live cells to the front of the cache, bit for bit, in the order of their positions."""
        segments = {id(segment): segment for path in self._paths for segment in path}
        in_order = sorted(segments.values(), key=lambda segment: segment.start)
        states = [self._export(segment) for segment in in_order]
        llama_cpp.llama_memory_clear(self._memory, False)
        for segment, state in zip(in_order, states, strict=True):
            self._restore(segment, state)
        self.n_taken = self.n_live

    def clear(self) -> None:
        """Let no slot hold anything, whatever the cache holds."""
        llama_cpp.llama_memory_clear(self._memory, False)
        self._paths = [[] for _ in self._paths]
        self.n_taken = self.n_live = 0

    def _split(self, slot: int, position: int) -> None:
        """Make `position` the border of two segments of the slot."""
        for segment in self._paths[slot]:
            if segment.start < position < segment.end:
                tail = _Segment(position, segment.end, set(segment.holders))
                segment.end = position
                for holder in tail.holders:
                    path = self._paths[holder]
                    path.insert(path.index(segment) + 1, tail)
                return

    def _export(self, segment: _Segment) -> npt.NDArray[np.uint8]:
        holder = next(iter(segment.holders))
        llama_cpp.llama_memory_seq_cp(self._memory, holder, self._courier, segment.start, segment.end)
        state = np.empty(llama_cpp.llama_state_seq_get_size(self._context, self._courier), dtype=np.uint8)
        n_bytes = llama_cpp.llama_state_seq_get_data(self._context, _pointer(state), state.size, self._courier)
        llama_cpp.llama_memory_seq_rm(self._memory, self._courier, -1, -1)
        return state[:n_bytes]

    def _restore(self, segment: _Segment, state: npt.NDArray[np.uint8]) -> None:
        if not llama_cpp.llama_state_seq_set_data(self._context, _pointer(state), state.size, self._courier):
            raise RuntimeError(f"llama.cpp refused to restore {len(segment)} cells of its own state")
        for holder in segment.holders:
            llama_cpp.llama_memory_seq_cp(self._memory, self._courier, holder, -1, -1)
        llama_cpp.llama_memory_seq_rm(self._memory, self._courier, -1, -1)


def _pointer(buffer: npt.NDArray[np.uint8]) -> Any:
    return buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
