"""The llama.cpp engine beside a bare batched decode loop, at 1, 8 and 32 sequences, in one run.

    python benchmarks/llama_speed.py [model]

Bare: `llama_decode` over the same number of sequences with made-up tokens, no drawing, no entropies; once with the
settings of the engine (flash attention and small batches, which make it bit-exact) and once with llama.cpp's fastest on
a CPU (no flash attention). The engine: `Generator` and `Brancher` on top of it, every sequence monitored. The time in
the model, and that of drawing and entropies, are taken inside the engine. Medians of several rounds, the three in turn;
ratios within a round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable

import llama_cpp
import numpy as np

from eager.engines.llama_cpp import LlamaCppEngine
from eager.generator import Generator
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, TreeJob

N_TOKENS = 64
N_ROUNDS = 5
PROMPT = "Natalia sold clips to 48 of her friends in April, and then half as many in May. How many clips did she sell?"


class TimedEngine(LlamaCppEngine):
    """Adds up the time in the model and the time for drawing and entropies."""

    seconds_model = seconds_drawing = 0.0

    def _decode(self, batch):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        logits = super()._decode(batch)
        self.seconds_model += time.perf_counter() - start
        return logits

    def _draw_tokens(self, batch, logits):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        drawn = super()._draw_tokens(batch, logits)
        self.seconds_drawing += time.perf_counter() - start
        return drawn


class BareLoop:
    """llama_decode and nothing else."""

    def __init__(self, engine: LlamaCppEngine, *, flash_attention: bool, n_ubatch: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 8192, 512, n_ubatch, 64
        params.n_threads = params.n_threads_batch = llama_cpp.llama_n_threads(engine._context)
        params.flash_attn_type = int(flash_attention)
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(engine._model.handle, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def tokens_per_second(self, prompt: list[int], n_sequences: int) -> float:
        llama_cpp.llama_memory_clear(self._memory, False)
        self._decode([(token, position, 0) for position, token in enumerate(prompt)])
        for sequence in range(1, n_sequences):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, sequence, 0, -1)
        tokens = np.random.default_rng(0).integers(100, 40000, (N_TOKENS, n_sequences))
        start = time.perf_counter()
        for step in range(N_TOKENS):
            self._decode([(int(tokens[step, s]), len(prompt) + step, s) for s in range(n_sequences)])
            llama_cpp.llama_get_logits(self._context)
        return N_TOKENS * n_sequences / (time.perf_counter() - start)

    def _decode(self, rows: list[tuple[int, int, int]]) -> None:
        for row, (token, position, sequence) in enumerate(rows):
            self._batch.token[row], self._batch.pos[row] = token, position
            self._batch.n_seq_id[row], self._batch.logits[row] = 1, 1
            self._batch.seq_id[row][0] = sequence
        self._batch.n_tokens = len(rows)
        assert llama_cpp.llama_decode(self._context, self._batch) == 0


def engine_speed(engine: TimedEngine, prompt: list[int], n_sequences: int) -> tuple[float, float, float]:
    """After the prompt: tokens a second, those of the time in the model alone, and drawing's share of all time."""
    generator = Generator(engine)
    # Roots of trees that may still branch are monitored; nothing exceeds the threshold, so nothing does.
    rules = BranchConfig(n_sequences + 1, MAX_ENTROPY)
    engine.stops = type(engine.stops)(frozenset())  # no sequence ends early
    max_length = len(prompt) + N_TOKENS + 1
    generator.add(TreeJob(0, tuple(prompt), rules, SamplingParams(), max_length, seed=1, n_roots=n_sequences))
    while generator.progress.n_tokens < n_sequences:  # the prompt
        generator.step()
    n_before, start = generator.progress.n_tokens, time.perf_counter()
    engine.seconds_model = engine.seconds_drawing = 0.0
    while generator.has_work:
        generator.step()
    seconds = time.perf_counter() - start
    n_tokens = generator.progress.n_tokens - n_before
    return n_tokens / seconds, n_tokens / engine.seconds_model, engine.seconds_drawing / seconds


def main() -> None:
    engine = TimedEngine(sys.argv[1] if len(sys.argv) > 1 else "demo", n_cells=8192)
    prompt = engine.encode_chat([{"role": "user", "content": PROMPT}])
    same = BareLoop(engine, flash_attention=True, n_ubatch=48)
    fastest = BareLoop(engine, flash_attention=False, n_ubatch=512)
    print(f"{engine.model_name}, {N_TOKENS} tokens a sequence, medians of {N_ROUNDS} rounds; tokens a second")
    columns = ("sequences", "bare, same", "bare, fastest", "engine", "engine/same", "its model/same", "drawing+entropy")
    print("{:>9} {:>11} {:>14} {:>8} {:>22} {:>22} {:>16}".format(*columns))
    for n in (1, 8, 32):
        rounds = [
            (same.tokens_per_second(prompt, n), fastest.tokens_per_second(prompt, n), *engine_speed(engine, prompt, n))
            for _ in range(N_ROUNDS)
        ]
        bare, fast, whole, _, share = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratios = [spread(row[column] / row[0] for row in rounds) for column in (2, 3)]
        print(f"{n:>9} {bare:>11.1f} {fast:>14.1f} {whole:>8.1f} {ratios[0]:>22} {ratios[1]:>22} {share:>15.1%}")


def spread(ratios: Iterable[float]) -> str:
    """Median, lowest and highest."""
    found = sorted(ratios)
    return f"{statistics.median(found):.3f} ({found[0]:.3f}-{found[-1]:.3f})"


if __name__ == "__main__":
    main()
