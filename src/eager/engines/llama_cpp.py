"""The embedded engine: GGUF models on this machine through llama-cpp-python's low-level API.

One context, a unified KV cache, one llama.cpp sequence id (*slot*) a decoded sequence; every step decodes all of
them together. A fork copies the ownership of cells and recomputes nothing. When the cache is full the youngest
sequences give up their cells and are recomputed later.

On a CPU the results of most files are the same to the last bit whatever else is decoded (docs/engines.md): batches are
kept below the size at which llama.cpp changes its attention kernel, a lone token is padded to two, and cells keep their
order (see `_llama_kv`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence as Seq
from importlib.metadata import version
from typing import Any

import numpy as np

from eager.engines._chat import chat_identity
from eager.engines._draw import best_k, draw
from eager.engines._llama_batch import Feed, LlamaSequence, in_batches
from eager.engines._llama_cells import CacheNeeds
from eager.engines._llama_kv import KVCache
from eager.engines._llama_library import llama_cpp, made
from eager.engines._llama_model import LlamaModel
from eager.engines._model_files import fingerprint
from eager.engines.base import Engine, EngineError
from eager.engines.options_llama_cpp import CACHE_TYPES, LlamaCppOptions
from eager.entropy import top_k_entropy
from eager.machine import memory_bytes
from eager.prefix import common_prefix
from eager.randomness import uniform
from eager.types import Delta, FinishReason, Request, Token

_LLAMA_MAX_SEQ = 256  # compiled into llama.cpp
_N_SLOTS = _LLAMA_MAX_SEQ - KVCache.N_EXTRA_SLOTS
# On a CPU llama.cpp computes attention in tiles from 64 tokens on, and splits the cache between threads for a lone
# token once it holds 512 cells (rounded up to 256s): both change the order of additions.
_CPU_BATCH = 48
_GPU_BATCH = 512
_LONE_TOKEN_CELLS = 256
# Sequences at once: a CPU gains nothing from more, and attention walks over everybody's cells.
_CPU_CAPACITY = 32
_GPU_CAPACITY = 128
_PREFILL_PER_STEP = 256  # tokens of prompts a step, so that the others' decoding is not held up
_FLASH_ATTN = {
    True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_CELLS_KEPT_FREE = 32  # a sequence, at admission: fewer preemptions soon after


class LlamaCppEngine(Engine):
    """See `Engine`; the options are those of `LlamaCppOptions`."""

    name = "llama_cpp"

    def __init__(self, model_name: str, **given: Any) -> None:
        options = LlamaCppOptions.of(given)
        self._gpu = _use_gpu(options.device)
        self.capacity = _check_capacity(options.capacity or (_GPU_CAPACITY if self._gpu else _CPU_CAPACITY))
        self._model = LlamaModel(model_name, options, gpu=self._gpu)
        self.model_name = model_name
        self.stops = self._model.stops
        self._batch_size = _GPU_BATCH if self._gpu else _CPU_BATCH
        try:
            needs = CacheNeeds(self._model.kv_bytes_per_token, self._model.n_ctx_train, model_name)
            n_cells = needs.n_cells(options, memory=None if self._gpu else memory_bytes())
            self.max_model_len = min(options.max_model_len, self._model.n_ctx_train, n_cells)
            self._context = self._new_context(n_cells, options)
        except EngineError:
            llama_cpp.llama_model_free(self._model.handle)
            raise
        self._kv = KVCache(self._context, llama_cpp.llama_n_ctx(self._context), _N_SLOTS)
        self._batch = llama_cpp.llama_batch_init(self._batch_size + 1, 0, 1)
        self._active: dict[int, LlamaSequence] = {}  # oldest first
        self._waiting: deque[LlamaSequence] = deque()
        self._ended: dict[int, LlamaSequence] = {}  # since the last step
        self._free_slots = list(range(_N_SLOTS))[::-1]

    # -- the contract -------------------------------------------------------------------------------------------

    def open(self, request: Request) -> None:
        is_continued = request.parent is not None
        sequence = LlamaSequence(request, list(request.token_ids), request.monitor, is_continued)
        old = self._find(request.seq_id)
        donor = None if request.parent is None else self._find(request.parent)
        if old is not None and old.slot is not None:
            self._take_over(sequence, old)
        elif donor is not None and donor.slot is not None and self._free_slots and len(self._active) < self.capacity:
            self._give_slot(sequence, donor)
            self._active[request.seq_id] = sequence
        else:
            self.close(request.seq_id)
            self._waiting.append(sequence)

    def close(self, seq_id: int) -> None:
        sequence = self._active.pop(seq_id, None)
        if sequence is not None:
            self._ended[seq_id] = sequence
        else:
            self._waiting = deque(s for s in self._waiting if s.seq_id != seq_id)

    def unmonitor(self, seq_id: int) -> None:
        sequence = self._find(seq_id)
        if sequence is not None:
            sequence.monitor = False

    @property
    def has_room(self) -> bool:
        reserve = _CELLS_KEPT_FREE * (len(self._active) + 1)
        has_slot = len(self._active) < self.capacity and bool(self._free_slots)
        return has_slot and not self._waiting and self._kv.n_live + reserve < self._kv.n_cells

    def step(self) -> list[Delta]:
        # 1. Slots of sequences that ended before the last step are free now; the waiting ones move up.
        self._release_ended()
        self._admit()
        # 2. Plan what to feed, and make room for it in the cache.
        feeds = self._plan()
        while not self._make_room(sum(feed.end - feed.start for feed in feeds) + 1):
            self._preempt(next(reversed(self._active.values())))
            feeds = self._plan()
        # 3. Decode, draw, report.
        deltas: list[Delta] = []
        for batch in in_batches(feeds, self._batch_size):
            deltas.extend(self._draw_tokens(batch, self._decode(batch)))
        return deltas

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        return self._model.encode_chat(messages)

    def decode(self, token_ids: Seq[int]) -> str:
        return self._model.decode(token_ids)

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": version("llama-cpp-python")}

    def identity(self) -> dict[str, Any]:
        return {
            "model_files": fingerprint(self._model.files),
            "max_model_len": self.max_model_len,
            **chat_identity(self._model.chat_date),
        }

    def shutdown(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model.handle)

    # -- sequences and slots ------------------------------------------------------------------------------------

    def _find(self, seq_id: int) -> LlamaSequence | None:
        found = self._active.get(seq_id) or self._ended.get(seq_id)
        return found or next((s for s in self._waiting if s.seq_id == seq_id), None)

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

    def _release_ended(self) -> None:
        for sequence in self._ended.values():
            self._free(sequence)
        self._ended.clear()

    def _admit(self) -> None:
        """Move waiting sequences to free slots, in their order, while the cache has cells for them."""
        held_back: list[LlamaSequence] = []
        while self._waiting and len(self._active) < self.capacity and self._free_slots:
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

    def _make_room(self, n_tokens: int) -> bool:
        """Whether `n_tokens` fit, after compaction if need be. A lone sequence always fits."""
        n_dead = self._kv.n_taken - self._kv.n_live
        is_mostly_dead = n_dead > self._kv.n_live + 2048  # attention walks over dead cells too
        if n_dead and (is_mostly_dead or not self._kv.has_cells_for(n_tokens)):
            self._kv.compact()
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

    # -- decoding -----------------------------------------------------------------------------------------------

    def _plan(self) -> list[Feed]:
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

    def _decode(self, batch: list[Feed]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Run the batch through the model. Logits (n, vocabulary) of its last tokens, valid until the next decode."""
        row = 0
        for feed in batch:
            for position in range(feed.start, feed.end):
                is_wanted = position == len(feed.sequence.tokens) - 1
                self._fill(row, feed.sequence.tokens[position], position, feed.sequence.held_slot, is_wanted)
                row += 1
        is_padded = not self._gpu and row == 1 and self._kv.n_taken >= _LONE_TOKEN_CELLS
        if is_padded:
            self._fill(row, batch[0].sequence.tokens[0], 0, self._kv.padding_slot, False)
        self._batch.n_tokens = row + is_padded
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise EngineError(
                f"llama.cpp failed to decode a batch of {row} tokens (status {status}): try a smaller capacity"
            )
        for feed in batch:
            self._kv.append(feed.sequence.held_slot, feed.end - feed.start)
        if is_padded:
            self._kv.bury_padding()
        n_wanted = sum(feed.is_last for feed in batch)
        logits = llama_cpp.llama_get_logits(self._context)
        return (
            np.ctypeslib.as_array(logits, shape=(n_wanted, self._model.n_vocab))
            if n_wanted
            else np.empty((0, 0), np.float32)
        )

    def _fill(self, row: int, token: int, position: int, slot: int, is_wanted: bool) -> None:
        batch = self._batch
        batch.token[row] = token
        batch.pos[row] = position
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = slot
        batch.logits[row] = is_wanted

    def _draw_tokens(self, batch: list[Feed], logits: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> list[Delta]:
        """Draw one token for every sequence whose last token was fed; entropies where monitored."""
        sequences = [feed.sequence for feed in batch if feed.is_last]
        tokens = [Token(_draw(sequence, row)) for sequence, row in zip(sequences, logits, strict=True)]
        monitored = [i for i, sequence in enumerate(sequences) if sequence.monitor]
        if monitored:
            ids, logprobs = best_k([logits[i] for i in monitored])
            best = zip(top_k_entropy(logprobs).tolist(), ids.tolist(), logprobs.tolist(), strict=True)
            for i, (entropy, best_ids, best_logprobs) in zip(monitored, best, strict=True):
                tokens[i] = Token(tokens[i].id, entropy, best_ids, best_logprobs)
        return [self._advance(sequence, token) for sequence, token in zip(sequences, tokens, strict=True)]

    def _advance(self, sequence: LlamaSequence, token: Token) -> Delta:
        sequence.tokens.append(token.id)
        finish: FinishReason | None = None
        if token.id in self.stops.stop_ids:
            finish = "stop"
        elif len(sequence.tokens) >= sequence.request.max_length:
            finish = "length"
        if finish:
            self.close(sequence.seq_id)
        recomputed, sequence.recomputed = sequence.recomputed, 0
        return Delta(sequence.seq_id, [token], finish_reason=finish, recomputed=recomputed)

    # -- set-up -------------------------------------------------------------------------------------------------

    def _new_context(self, n_cells: int, options: LlamaCppOptions) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_cells
        params.n_batch = max(self._batch_size, _LLAMA_MAX_SEQ)  # llama.cpp reserves an output a sequence id
        params.n_ubatch = self._batch_size
        params.n_seq_max = _LLAMA_MAX_SEQ
        params.n_threads = params.n_threads_batch = options.n_threads or _n_cpus()
        params.flash_attn_type = _FLASH_ATTN[options.flash_attn]
        params.type_k = CACHE_TYPES[options.type_k].ggml_type
        params.type_v = CACHE_TYPES[options.type_v].ggml_type
        params.kv_unified = True
        params.swa_full = True  # a fork may begin before the attention window
        params.offload_kqv = params.op_offload = self._gpu
        options.set_on(params)
        context, reason = made(lambda: llama_cpp.llama_init_from_model(self._model.handle, params))
        if not context:
            remedy = (
                "lower --max_model_len or --kv_cache_gib" if "alloc" in reason else "change the option it speaks of"
            )
            raise EngineError(
                f"llama.cpp cannot make a context of {n_cells} tokens for '{self.model_name}' ({reason}): {remedy}"
            )
        return context


def _draw(sequence: LlamaSequence, row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    return draw(row, sequence.request.sampling, uniform(sequence.request.seed, len(sequence.tokens)))


def _check_capacity(capacity: int) -> int:
    if capacity > _N_SLOTS:
        raise EngineError(f"llama.cpp decodes at most {_N_SLOTS} sequences at once, not {capacity}: lower --capacity")
    return capacity


def _use_gpu(device: str) -> bool:
    can_offload = bool(llama_cpp.llama_supports_gpu_offload())
    if device == "cuda" and not can_offload:
        raise EngineError(
            "this llama-cpp-python was built without GPU support: use --device cpu, or rebuild it for the GPU"
        )
    return can_offload and device != "cpu"


def _n_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
