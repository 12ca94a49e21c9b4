"""What the project costs outside the engine: microseconds a token at so many open sequences.

    python benchmarks/bookkeeping.py [n_open]

The scripted engine is replaced by one that hands out prepared deltas, so that everything that is timed is ours:
grouping by tree, examining, branching, settling.
"""

from __future__ import annotations

import sys
import time

from eager.engines.scripted import ScriptedEngine
from eager.generator import Generator
from eager.types import BranchConfig, Delta, SamplingParams, Stops, Token, TreeJob

N_TOKENS = 300


class PreparedEngine(ScriptedEngine):
    """Gives every open sequence one token a step, of an entropy that says whether to branch."""

    def __init__(self, entropy: float) -> None:
        super().__init__(stops=Stops(frozenset({0})), capacity=10**6)
        self._tokens = {
            True: [Token(1, entropy, list(range(1, 21)), [-3.0] * 20)],
            False: [Token(1)],
        }
        self.seconds = 0.0

    def step(self) -> list[Delta]:
        start = time.perf_counter()
        deltas = []
        for seq_id, sequence in list(self._active.items()):
            sequence.tokens.append(1)
            delta = Delta(seq_id, self._tokens[sequence.monitor])
            if len(sequence.tokens) >= sequence.request.max_length:
                delta.finish_reason = "length"
                del self._active[seq_id]
            deltas.append(delta)
        self.seconds += time.perf_counter() - start
        return deltas


def microseconds_a_token(n_open: int, *, entropy: float, threshold: float, n_roots: int, max_sequences: int) -> float:
    engine = PreparedEngine(entropy)
    generator = Generator(engine)
    for index in range(n_open // n_roots):
        rules = BranchConfig(max_sequences, threshold)
        generator.add(TreeJob(index, (1,), rules, SamplingParams(), N_TOKENS + 1, seed=index, n_roots=n_roots))
    start = time.perf_counter()
    for _ in generator.run():
        pass
    return 1e6 * (time.perf_counter() - start - engine.seconds) / generator.progress.n_tokens


def main() -> None:
    n_open = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"microseconds a token outside the engine, {n_open} open sequences, {N_TOKENS} tokens each")
    cases = {
        "unmonitored (parallel, M = 8)": {"entropy": 1.0, "threshold": 2.0, "n_roots": 8, "max_sequences": 8},
        "monitored, no branch": {"entropy": 1.0, "threshold": 2.0, "n_roots": 1, "max_sequences": 8},
        "monitored trees of 7 roots, M = 8": {"entropy": 1.0, "threshold": 2.0, "n_roots": 7, "max_sequences": 8},
    }
    for name, case in cases.items():
        print(f"{name:36} {microseconds_a_token(n_open, **case):6.2f}")


if __name__ == "__main__":
    main()
