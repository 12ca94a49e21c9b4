"""The sequences of the llama.cpp engine: which are decoded, in which slots of the cache, and which wait.

A fork shares its parent's cells. Where the cache is full the youngest give up theirs, and are computed again later.
"""

from __future__ import annotations

from collections import deque

from eager.engines._llama_batch import Feed, LlamaSequence
from eager.engines._llama_kv import KVCache
from eager.engines.base import EngineError
from eager.prefix import common_prefix

_PREFILL_PER_STEP = 256  # tokens of prompts a step, so that the others' decoding is not held up
_CELLS_KEPT_FREE = 32  # a sequence, at admission: fewer preemptions soon after
# Moving a live cell takes as long as attention of so many tokens over a dead one: 75 for SmolLM2-135M, 22 for Qwen2.5
# 0.5B, on an AMD EPYC with AVX-512.
_ATTENTION_PER_MOVE = 50


class Slots:
    """At most `capacity` sequences are decoded at once, each in one of `n_slots` slots of the cache."""

    def __init__(self, kv: KVCache, *, n_slots: int, capacity: int) -> None:
        self._kv = kv
        self._n_slots = n_slots
        self._capacity = capacity
        self._open: dict[int, LlamaSequence] = {}  # decoding or waiting
        self.clear()

    def clear(self) -> None:
        """Close everything; the cache is not touched."""
        self._open.clear()
        self._wait_all()

    def begin_anew(self) -> None:
        """Whatever the cache holds is forgotten, and what is open waits to be computed again."""
        self._kv.clear()
        for sequence in self._open.values():
            sequence.slot, sequence.is_continued = None, True
        self._wait_all()

    def _wait_all(self) -> None:
        self._active: dict[int, LlamaSequence] = {}  # oldest first
        self._waiting: deque[LlamaSequence] = deque(self._open.values())
        self._n_wasted = 0  # times that attention of a token walked over a dead cell, since the last compaction
        self._ended: dict[int, LlamaSequence] = {}  # since the last step
        self._free_slots = list(range(self._n_slots))[::-1]

    @property
    def has_room(self) -> bool:
        """Whether one more would be decoded in the next step."""
        reserve = _CELLS_KEPT_FREE * (len(self._active) + 1)
        return self._has_slot and not self._waiting and self._kv.n_live + reserve < self._kv.n_cells

    @property
    def _has_slot(self) -> bool:
        return len(self._active) < self._capacity and bool(self._free_slots)

    def find(self, seq_id: int) -> LlamaSequence | None:
        """The open sequence of this number, or the one that has ended since the last step."""
        return self._open.get(seq_id) or self._ended.get(seq_id)

    def open(self, sequence: LlamaSequence) -> None:
        """Give the sequence the slot of the one it replaces, or share its parent's cells, or let it wait."""
        seq_id, parent = sequence.seq_id, sequence.request.parent
        old = self.find(seq_id)
        donor = None if parent is None else self.find(parent)
        if old is not None and old.slot is not None:
            self._take_over(sequence, old)
        else:
            self.close(seq_id)
            if donor is not None and donor.slot is not None and self._has_slot:
                self._give_slot(sequence, donor)
                self._active[seq_id] = sequence
            else:
                self._waiting.append(sequence)
        self._open[seq_id] = sequence

    def close(self, seq_id: int) -> None:
        """Decode it no more. Its cells are kept for the next step, where it may be a parent."""
        sequence = self._open.pop(seq_id, None)
        if self._active.pop(seq_id, None) is not None and sequence is not None:
            self._ended[seq_id] = sequence
        elif sequence is not None:
            self._waiting = deque(other for other in self._waiting if other is not sequence)

    def _take_over(self, sequence: LlamaSequence, old: LlamaSequence) -> None:
        """Re-opened: go on in the old one's slot, with the cells that still fit."""
        slot = sequence.slot = old.held_slot
        old.slot = None
        self._ended.pop(sequence.seq_id, None)
        self._active[sequence.seq_id] = sequence
        common = min(common_prefix(sequence.tokens, old.tokens), self._kv.length(slot))
        self._kv.truncate(slot, min(common, len(sequence.tokens) - 1))
        self._count_recomputed(sequence, common)

    def _give_slot(self, sequence: LlamaSequence, donor: LlamaSequence | None) -> None:
        """Put the sequence into a free slot, sharing the donor's cells as far as the two agree."""
        sequence.slot = self._free_slots.pop()
        common = 0
        if donor is not None and donor.slot is not None:
            common = min(common_prefix(sequence.tokens, donor.tokens), self._kv.length(donor.slot))
            shared = min(common, len(sequence.tokens) - 1)  # the last token is fed: its logits are wanted
            if shared:
                self._kv.fork(donor.slot, sequence.slot, shared)
        self._count_recomputed(sequence, common)

    def _count_recomputed(self, sequence: LlamaSequence, common: int) -> None:
        """Of a continued sequence only the last token may be new, and only if no cell holds it yet."""
        if sequence.is_continued:
            n_fed = len(sequence.tokens) - self._kv.length(sequence.held_slot)
            sequence.recomputed += n_fed - (common < len(sequence.tokens))

    def _free(self, sequence: LlamaSequence) -> None:
        if sequence.slot is not None:
            self._kv.truncate(sequence.slot, 0)
            self._free_slots.append(sequence.slot)
            sequence.slot = None

    def release_ended(self) -> None:
        """What ended before the last step gives up its slot."""
        for sequence in self._ended.values():
            self._free(sequence)
        self._ended.clear()

    def admit(self) -> None:
        """Move waiting sequences to free slots, in their order, while the cache has cells for them."""
        held_back: list[LlamaSequence] = []
        while self._waiting and self._has_slot:
            sequence = self._waiting.popleft()
            donor, agreed = self._best_donor(sequence)
            held = self._kv.length(donor.slot) if donor is not None and donor.slot is not None else 0
            if agreed > held + 1 and donor is not None:
                held_back.append(sequence)  # what it could share is just being computed
                continue
            n_new = len(sequence.tokens) - min(agreed, held)
            reserve = n_new + _CELLS_KEPT_FREE * (len(self._active) + 1)
            if self._active and self._kv.n_live + reserve > self._kv.n_cells:
                held_back.append(sequence)
                break
            self._give_slot(sequence, donor)
            self._active[sequence.seq_id] = sequence
        self._waiting.extendleft(reversed(held_back))

    def _best_donor(self, sequence: LlamaSequence) -> tuple[LlamaSequence | None, int]:
        """The decoded sequence that agrees longest with this one, and how far."""
        agreed = {s.seq_id: common_prefix(sequence.tokens, s.tokens) for s in self._active.values()}
        if not agreed or max(agreed.values()) == 0:
            return None, 0
        # Among equals the one whose cells are furthest.
        best = max(self._active.values(), key=lambda s: (agreed[s.seq_id], self._kv.length(s.held_slot)))
        return best, agreed[best.seq_id]

    # -- room in the cache --------------------------------------------------------------------------------------

    def plan(self) -> list[Feed]:
        """What to feed next: it fits into the cache, and some sequences may have given theirs up for it."""
        feeds = self._feeds()
        while not self._make_room(sum(feed.end - feed.start for feed in feeds) + 1):
            self._preempt(next(reversed(self._active.values())))
            feeds = self._feeds()
        return feeds

    def _make_room(self, n_tokens: int) -> bool:
        """Whether `n_tokens` fit, after compaction if need be. A lone sequence always fits.

        Attention walks over dead cells too. Compaction comes when they have cost as much as it will: whatever happens
        next, at most twice the least possible is lost.
        """
        n_dead = self._kv.n_taken - self._kv.n_live
        self._n_wasted += n_dead * n_tokens
        is_due = self._n_wasted > _ATTENTION_PER_MOVE * self._kv.n_live
        if n_dead and (is_due or not self._kv.has_cells_for(n_tokens)):
            self._kv.compact()
            self._n_wasted = 0
        return self._kv.has_cells_for(n_tokens)

    def _preempt(self, sequence: LlamaSequence) -> None:
        if len(self._active) == 1:
            raise EngineError(
                f"the KV cache of {self._kv.n_cells} tokens is too small for one sequence:"
                " raise it or lower max_model_len"
            )
        del self._active[sequence.seq_id]
        self._free(sequence)
        sequence.is_continued = True
        self._waiting.appendleft(sequence)

    def _feeds(self) -> list[Feed]:
        """One token of every decoding sequence, and as much of the prompts as a step may take."""
        feeds: list[Feed] = []
        budget = _PREFILL_PER_STEP
        for sequence in self._active.values():
            start, end = self._kv.length(sequence.held_slot), len(sequence.tokens)
            if end - start > 1:
                end = min(end, start + budget)
                budget -= end - start
            if end > start:
                feeds.append(Feed(sequence, start, end))
        return feeds
