"""Trees from a vLLM server: whole ones, sequence by sequence, and the server's own n. Run by hand:

    python benchmarks/server_trees.py --base_url http://127.0.0.1:8000 --model_name demo --data_path gsm8k.jsonl
    python benchmarks/server_trees.py … --plain_url http://127.0.0.1:8001     # and what the plugin costs plain requests

Both servers serve the same model, the second without plugin and gate. Everything is asked in rounds whose parts change
their order; ratios are taken within a round, and a figure is the median of the rounds' ratios, with the lowest and the
highest. Stop tokens are switched off, so that every sequence has as many tokens as it is allowed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eager.engines.openai import OpenAIEngine
from eager.generator import Generator
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob
from eager.whole_trees import TreeGenerator

_SAMPLING = SamplingParams(temperature=0.6)
_PLAIN_TOKENS = 32


def spread(values: Iterable[float]) -> str:
    """Median, lowest and highest."""
    found = sorted(values)
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


def rate_of_trees(generator: Generator | TreeGenerator, jobs: list[TreeJob]) -> float:
    """Kept tokens a second of these trees, all at once."""
    for job in jobs:
        generator.add(job)
    start = time.perf_counter()
    n_tokens = sum(tree.n_tokens for _, tree in generator.run())
    return n_tokens / (time.perf_counter() - start)


def rate_of_n(engine: OpenAIEngine, jobs: list[TreeJob]) -> float:
    """The same of the server's own `n`, without seeds, whose draws cost something of their own."""

    def ask(job: TreeJob) -> int:
        body = completion(engine, job.prompt_ids, job.max_length - len(job.prompt_ids), n=job.config.max_sequences)
        n_tokens: int = engine._connection.ask("/v1/completions", body)["usage"]["completion_tokens"]
        return n_tokens

    start = time.perf_counter()
    with ThreadPoolExecutor(len(jobs)) as threads:
        n_tokens = sum(threads.map(ask, jobs))
    return n_tokens / (time.perf_counter() - start)


def completion(engine: OpenAIEngine, prompt: tuple[int, ...], n_tokens: int, **how: Any) -> dict[str, Any]:
    plain = {"model": engine.model_name, "prompt": list(prompt), "max_tokens": n_tokens, "ignore_eos": True}
    return {**plain, "temperature": _SAMPLING.temperature, **how}


def seconds_of_plain(engine: OpenAIEngine, prompt: tuple[int, ...]) -> float:
    """A plain request alone on its server."""
    start = time.perf_counter()
    engine._connection.ask("/v1/completions", completion(engine, prompt, _PLAIN_TOKENS))
    return time.perf_counter() - start


def prompts_of(engine: OpenAIEngine, path: str, n: int) -> list[tuple[int, ...]]:
    with open(path, encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for _, line in zip(range(n), file, strict=False)]
    return [tuple(engine.encode_chat([{"role": "user", "content": question}])) for question in questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base_url", "model_name", "data_path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--plain_url")
    parser.add_argument("--n_trees", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max_sequences", type=int, default=8)
    parser.add_argument("--entropy_threshold", type=float, default=2.0)
    parser.add_argument("--max_tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    engine = OpenAIEngine(given.model_name, base_url=given.base_url)
    engine.stops = Stops(frozenset())
    engine._stop_ids = []
    if engine.whole_trees is None:
        parser.error(f"{given.base_url} has no plugin that grows trees")
    engine.whole_trees._stops = engine.stops
    prompts = prompts_of(engine, given.data_path, max(given.n_trees))
    for n_trees in given.n_trees:
        compare(engine, given, prompts[:n_trees])
    if given.plain_url:
        compare_plain(engine, OpenAIEngine(given.model_name, base_url=given.plain_url), prompts, given.rounds)
    engine.shutdown()


def compare(engine: OpenAIEngine, given: argparse.Namespace, prompts: list[tuple[int, ...]]) -> None:
    """Tokens a second of the three ways, with as many trees at once as there are prompts."""
    rules = BranchConfig(given.max_sequences, given.entropy_threshold)
    trees = engine.whole_trees
    assert trees is not None
    ways: dict[str, Callable[[list[TreeJob]], float]] = {
        "whole trees": lambda jobs: rate_of_trees(TreeGenerator(engine, trees), jobs),
        "by sequences": lambda jobs: rate_of_trees(Generator(engine), jobs),
        "server's own n": lambda jobs: rate_of_n(engine, jobs),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):  # the first warms up
        names = list(ways)
        for name in names[turn % 3 :] + names[: turn % 3]:
            jobs = [
                TreeJob(i, prompt, rules, _SAMPLING, len(prompt) + given.max_tokens, seed=turn)
                for i, prompt in enumerate(prompts)
            ]
            rate = ways[name](jobs)
            if turn:
                rates[name].append(rate)
    for name, found in rates.items():
        ratios = (a / b for a, b in zip(found, rates["server's own n"], strict=True))
        print(f"{len(prompts)} trees, {name}: {spread(found)} tokens/s, {spread(ratios)} of the server's own n")


def compare_plain(engine: OpenAIEngine, plain: OpenAIEngine, prompts: list[tuple[int, ...]], rounds: int) -> None:
    """Seconds of a plain request with the plugin over without."""
    ratios = []
    for turn in range(2 * rounds + 1):
        pair = {}
        for one in (engine, plain) if turn % 2 else (plain, engine):
            pair[one] = sum(seconds_of_plain(one, prompt) for prompt in prompts)
        if turn:
            ratios.append(pair[engine] / pair[plain])
    print(f"plain requests, seconds with the plugin over without: {spread(ratios)}")
    plain.shutdown()


if __name__ == "__main__":
    main()
