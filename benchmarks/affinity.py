"""What it is worth that a tree stays with its replica: prefix-cache hits of two of vLLM's servers, with and without.

    python benchmarks/affinity.py [--model demo] [--replicas 2] [--trees 12] [--sequences 8] [--tokens 160]

The servers run on this machine, on a CPU with an equal part of its processors each. The trees are grown twice on the
same servers, from other prompts each time: where a request goes to its tree's replica, and where it goes to the least
busy one. The hits are those that the servers count themselves (/metrics), over the tokens that they looked for.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.engines import Engine, load_engine  # only now can it be found without installing
from eager.engines._openai_replicas import Family, Replica, Replicas
from eager.generator import Generator
from eager.types import BranchConfig, Generation, SamplingParams, TreeJob

_COUNTERS = ("prefix_cache_queries_total", "prefix_cache_hits_total", "generation_tokens_total")
_TEXT = "Tell me at length about the following rivers, where they rise and where they flow: "
_RIVERS = ("Rhine", "Danube", "Elbe", "Loire", "Ebro", "Po", "Oder", "Seine", "Tagus", "Douro", "Volga", "Don")


@dataclass(frozen=True)
class Counts:
    """What one server has counted."""

    looked_for: float
    found: float
    generated: float

    @classmethod
    def of(cls, url: str) -> Counts:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return cls(*(sum(map(float, re.findall(rf"(?m)^vllm:{name}{{.*}} (\S+)$", text))) for name in _COUNTERS))

    def since(self, before: Counts) -> Counts:
        return Counts(self.looked_for - before.looked_for, self.found - before.found, self.generated - before.generated)


def _least_busy(replicas: Replicas, family: Family, avoid: Replica | None) -> Replica:
    return min(replicas.all, key=lambda replica: replica.n_open)


@contextmanager
def strewn() -> Iterator[None]:
    """Requests go to the least busy replica, whatever tree they are of."""
    with mock.patch.object(Replicas, "_best", _least_busy):
        yield


def grow(engine: Engine, first: int, options: argparse.Namespace) -> list[Generation]:
    """Trees from prompts that no others share, but for what the chat template begins with."""
    generator = Generator(engine)
    rules = BranchConfig(options.sequences, options.threshold, threshold_percentile=None)
    for index in range(first, first + options.trees):
        asked = f"Question {index}. {_TEXT}{', '.join(_RIVERS[index % 12 :] + _RIVERS[: index % 12])}."
        prompt = tuple(engine.encode_chat([{"role": "user", "content": asked}]))
        sampling = SamplingParams(temperature=0.8)
        generator.add(TreeJob(index, prompt, rules, sampling, len(prompt) + options.tokens, seed=7))
    return [tree for _, tree in generator.run()]


def show(name: str, urls: tuple[str, ...], engine: Engine, first: int, options: argparse.Namespace) -> None:
    """Grow the trees, and print what the servers counted meanwhile."""
    before = [Counts.of(url) for url in urls]
    start = time.monotonic()
    trees = grow(engine, first, options)
    seconds = time.monotonic() - start
    counted = [Counts.of(url).since(old) for url, old in zip(urls, before, strict=True)]
    looked_for, found = sum(c.looked_for for c in counted), sum(c.found for c in counted)
    n_sequences = sum(len(tree.sequences) for tree in trees)
    shares = " ".join(f"{100 * c.found / max(1, c.looked_for):.1f}%" for c in counted)
    load = " ".join(f"{c.generated:,.0f}" for c in counted)
    print(
        f"{name:9} {n_sequences:5} sequences  hits {100 * found / looked_for:5.1f} % ({shares}) of"
        f" {looked_for:,.0f} prefix tokens, {looked_for - found:,.0f} computed;"
        f" by the engine {sum(tree.recomputed for tree in trees):,} recomputed; decoded {load}; {seconds:.0f} s",
        flush=True,
    )


def measure(engine: Engine, urls: tuple[str, ...], options: argparse.Namespace) -> None:
    """Both ways, after a tree that warms the servers up."""
    grow(engine, 10_000, argparse.Namespace(**{**vars(options), "trees": len(urls)}))
    show("with", urls, engine, 0, options)
    with strewn():
        show("without", urls, engine, 1_000, options)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    for name, default in (("replicas", 2), ("trees", 12), ("sequences", 8), ("tokens", 160)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threshold", type=float, default=1.0)
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    engine = load_engine(
        "vllm", options.model, data_parallel_size=options.replicas, kv_cache_gib=1.0, max_model_len=1024
    )
    try:
        measure(engine, engine.servers.urls, options)  # type: ignore[attr-defined] # of several replicas
    finally:
        engine.shutdown()


if __name__ == "__main__":
    main()
