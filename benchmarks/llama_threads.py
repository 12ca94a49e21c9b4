"""How fast the llama.cpp engine is beside a busy neighbour, and what its threads' waiting costs when it is alone.

    python benchmarks/llama_threads.py [--neighbours 1] [--rounds 5]

llama.cpp's threads meet at a barrier some hundred times a token and spin there. Where another process holds one of the
CPUs, each spins away the time slice that the other needs. Every setting runs in a Python of its own, alone and beside
neighbours that compute without end; the settings in changing order, ratios within a round, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_THREAD_LIMIT": "1"},
}

_CHILD = """
import time
from eager.engines.llama_cpp import LlamaCppEngine
from eager.types import Request, SamplingParams
engine = LlamaCppEngine("demo", n_cells=8192)
engine.stops = type(engine.stops)(frozenset())
prompt = engine.encode_chat([{"role": "user", "content": "Write a story about the sea."}])
def run(n, n_tokens):
    for i in range(n):
        engine.open(Request(i, prompt, SamplingParams(), len(prompt) + n_tokens, seed=i))
    n_open, n_done, start = n, 0, time.perf_counter()
    while n_open:
        for delta in engine.step():
            n_done += len(delta.tokens)
            n_open -= delta.finish_reason is not None
    return n_done / (time.perf_counter() - start)
run(2, 4)
print(run(8, 32))
"""


def speed(setting: str) -> float:
    """Tokens a second of eight sequences."""
    env = {**os.environ, **SETTINGS[setting]}
    done = subprocess.run([sys.executable, "-c", _CHILD], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(rounds: int) -> list[dict[str, float]]:
    names = list(SETTINGS)
    return [{name: speed(name) for name in names[i % len(names) :] + names[: i % len(names)]} for i in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--neighbours", type=int, default=1, help="processes that compute without end")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    alone = measure(args.rounds)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(args.neighbours)]
    try:
        beside = measure(args.rounds)
    finally:
        for process in busy:
            process.kill()
    print(f"{'':<14}{'alone t/s':>10}{'/ as it comes':>15}{'beside t/s':>12}{'/ as it comes':>15}")
    for name in SETTINGS:
        columns = []
        for found in (alone, beside):
            columns.append(statistics.median(rates[name] for rates in found))
            columns.append(statistics.median(rates[name] / rates["as it comes"] for rates in found))
        print(f"{name:<14}{columns[0]:>10.1f}{columns[1]:>15.3f}{columns[2]:>12.1f}{columns[3]:>15.3f}")


if __name__ == "__main__":
    main()
