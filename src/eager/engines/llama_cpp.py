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
import weakref
from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np

from eager.engines._advance import advanced
from eager.engines._chat import chat_identity
from eager.engines._draw import NoDistributionError, best_k, draw
from eager.engines._llama_batch import Feed, LlamaSequence, in_batches
from eager.engines._llama_cells import CacheNeeds
from eager.engines._llama_kv import KVCache
from eager.engines._llama_library import llama_cpp, made
from eager.engines._llama_model import LlamaModel
from eager.engines._llama_slots import Slots
from eager.engines._model_files import fingerprint
from eager.engines._refusals import Refusals, check_ids
from eager.engines.base import Engine, EngineError
from eager.engines.options_llama_cpp import CACHE_TYPES, LlamaCppOptions
from eager.entropy import top_k_entropy
from eager.machine import memory_bytes
from eager.randomness import uniform
from eager.types import Delta, Request, Token

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
_FLASH_ATTN = {
    True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

Logits = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class LlamaCppEngine(Engine):
    """See `Engine`; the options are those of `LlamaCppOptions`."""

    name = "llama_cpp"

    def __init__(self, model_name: str, **given: Any) -> None:
        options = LlamaCppOptions.of(given)
        self._gpu = _use_gpu(options.device)
        self.capacity = _check_capacity(options.capacity or (_GPU_CAPACITY if self._gpu else _CPU_CAPACITY))
        self.model_name = model_name
        self._batch_size = _GPU_BATCH if self._gpu else _CPU_BATCH
        with ExitStack() as native:
            self._model = LlamaModel(model_name, options, gpu=self._gpu)
            native.callback(self._model.free)
            self.stops = self._model.stops
            needs = CacheNeeds(self._model.kv_bytes_per_token, self._model.n_ctx_train, model_name)
            n_cells = needs.n_cells(options, memory=None if self._gpu else memory_bytes())
            self.max_model_len = min(options.max_model_len, self._model.n_ctx_train, n_cells)
            self._context = self._new_context(n_cells, options)
            native.callback(llama_cpp.llama_free, self._context)
            self._batch = llama_cpp.llama_batch_init(self._batch_size + 1, 0, 1)
            native.callback(llama_cpp.llama_batch_free, self._batch)
            # Given back once, by `shutdown` or when nobody refers to the engine any more.
            self._give_back = weakref.finalize(self, native.pop_all().close)
            self._give_back.atexit = False
        self._kv = KVCache(self._context, llama_cpp.llama_n_ctx(self._context), _N_SLOTS)
        self._refusals = Refusals(self._model.n_vocab, self.max_model_len)
        self._slots = Slots(self._kv, n_slots=_N_SLOTS, capacity=self.capacity)
        self._is_whole = True

    # -- the contract -------------------------------------------------------------------------------------------

    def open(self, request: Request) -> None:
        self._refuse_if_shut()
        self._mend()
        with self._whole():
            self._refusals.forget(request.seq_id)
            if self._refusals.refuses(request):
                self._slots.close(request.seq_id)
            else:
                is_fork = request.parent is not None
                self._slots.open(LlamaSequence(request, list(request.token_ids), request.monitor, is_fork))

    def close(self, seq_id: int) -> None:
        with self._whole():
            self._refusals.forget(seq_id)
            self._slots.close(seq_id)

    def unmonitor(self, seq_id: int) -> None:
        sequence = self._slots.find(seq_id)
        if sequence is not None:
            sequence.monitor = False

    @property
    def has_room(self) -> bool:
        return self._slots.has_room and not self.is_shut

    def step(self) -> list[Delta]:
        self._refuse_if_shut()
        self._mend()
        with self._whole():
            # 1. Slots of sequences that ended before the last step are free now; the waiting ones move up.
            self._slots.release_ended()
            self._slots.admit()
            # 2. Plan what to feed.
            feeds = self._slots.plan()
            # 3. Decode and draw. 4. Report, when nothing can fail any more.
            batches = in_batches(feeds, self._batch_size)
            drawn = [pair for batch in batches for pair in self._draw_tokens(batch, self._decode(batch))]
            return self._refusals.take() + [self._advance(sequence, token) for sequence, token in drawn]

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        self._refuse_if_shut()
        return self._model.encode_chat(messages)

    def encode(self, text: str) -> list[int]:
        self._refuse_if_shut()
        return self._model.begun(text)

    def decode(self, token_ids: Seq[int]) -> str:
        self._refuse_if_shut()
        check_ids(token_ids, self._model.n_vocab)
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
        super().shutdown()
        self._slots.clear()
        self._give_back()

    # -- what was broken off ------------------------------------------------------------------------------------

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """An error or an interrupt inside may leave cells and slots that nobody knows: see `_mend`."""
        was_whole, self._is_whole = self._is_whole, False
        yield
        self._is_whole = was_whole

    def _mend(self) -> None:
        """After something was broken off, what is open begins anew in an empty cache; it comes to the same tokens."""
        if not self._is_whole:
            self._slots.begin_anew()
            self._is_whole = True

    # -- decoding -----------------------------------------------------------------------------------------------

    def _decode(self, batch: list[Feed]) -> Logits:
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

    def _draw_tokens(self, batch: list[Feed], logits: Logits) -> list[tuple[LlamaSequence, Token | None]]:
        """Every sequence whose last token was fed, with the next one, drawn; None where nothing can be drawn.

        With entropies where monitored.
        """
        sequences = [feed.sequence for feed in batch if feed.is_last]
        tokens = [_draw(sequence, row) for sequence, row in zip(sequences, logits, strict=True)]
        drawn = {i: token for i, token in enumerate(tokens) if token is not None and sequences[i].monitor}
        if drawn:
            ids, logprobs = best_k([logits[i] for i in drawn])
            best = zip(top_k_entropy(logprobs).tolist(), ids.tolist(), logprobs.tolist(), strict=True)
            for (i, token), (entropy, best_ids, best_logprobs) in zip(drawn.items(), best, strict=True):
                below_best = float(logits[i, token.id]) - float(logits[i, best_ids[0]])
                tokens[i] = Token(token.id, entropy, best_ids, best_logprobs, below_best + best_logprobs[0])
        return list(zip(sequences, tokens, strict=True))

    def _advance(self, sequence: LlamaSequence, token: Token | None) -> Delta:
        delta = advanced(sequence, token, self.stops.stop_ids)
        if delta.finish_reason:
            self._slots.close(sequence.seq_id)
        return delta

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


def _draw(sequence: LlamaSequence, row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Token | None:
    request = sequence.request
    try:
        return Token(draw(row, request.sampling, uniform(request.seed, len(sequence.tokens))))
    except NoDistributionError:
        return None


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
