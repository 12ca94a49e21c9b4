"""What `eager serve` answers under load, and what it costs over the engine alone. Run by hand:

    python benchmarks/serve_load.py                                                      # the scripted engine
    python benchmarks/serve_load.py --engine llama_cpp --model_name demo --clients 1,8,32
    python benchmarks/serve_load.py … --tree                                             # the majority of a tree each

Each of so many clients asks one question after the other, without pause; the server is a process of its own. The
engine alone, in this process, grows the same jobs with the same seeds, as many at once. Both come in every round, in
changing order, after one round that does not count. A figure is the median of the rounds, in brackets the lowest and
the highest. Ratios are taken within a round. Needs the extras serve and openai.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import aiohttp

from eager.engines import Engine, load_engine
from eager.generator import Generator
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, TreeJob

_QUESTIONS = [f"What is {a} + {b} * {a + b}? Think step by step." for a in range(3, 19) for b in range(2, 18)]
_TREE = {"max_sequences": 8, "entropy_threshold": 1.5, "threshold_percentile": None}


class Load(NamedTuple):
    """What came of one round on one side."""

    seconds: float
    n_tokens: int
    latencies: list[float]

    @property
    def n_a_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def tokens_a_second(self) -> float:
        return self.n_tokens / self.seconds

    def latency(self, share: float) -> float:
        """The quantile, in milliseconds."""
        found = sorted(self.latencies)
        return 1000 * found[min(len(found) - 1, int(share * len(found)))]


def messages_of(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]}]


@contextmanager
def eager_serve(*options: str) -> Iterator[str]:
    """The address of `eager serve` with these options, in a process of its own."""
    command = [sys.executable, "-m", "eager", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            told = map(re.compile(r"at (http://\S+)/v1;").search, process.stderr)
            yield next(found[1] for found in told if found)
        finally:
            process.terminate()


async def over_http(url: str, n_clients: int, numbers: range, arguments: argparse.Namespace) -> Load:
    """The requests with these numbers, which are their seeds, too."""
    left, latencies, n_tokens = iter(numbers), [], 0
    block = {"eager": _TREE} if arguments.tree else {}

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal n_tokens
        for number in left:
            body: dict[str, Any] = {"model": arguments.model_name, "messages": messages_of(number), "seed": number}
            start = time.perf_counter()
            limits = {"max_tokens": arguments.max_tokens, "temperature": arguments.temperature}
            async with session.post(f"{url}/v1/chat/completions", json={**body, **limits, **block}) as response:
                answer = await response.json()
            latencies.append(time.perf_counter() - start)
            n_tokens += answer["usage"]["completion_tokens"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(n_clients)))
    return Load(time.perf_counter() - start, n_tokens, latencies)


def on_engine(engine: Engine, n_clients: int, numbers: range, arguments: argparse.Namespace) -> Load:
    """The same jobs, as many at once."""
    rules = BranchConfig(**_TREE) if arguments.tree else BranchConfig(1, MAX_ENTROPY)
    generator, left, latencies, begun, n_tokens = Generator(engine), iter(numbers), [], {}, 0

    def begin() -> None:
        number = next(left, None)
        if number is not None:
            ids = tuple(engine.encode_chat(messages_of(number)))
            most = min(engine.max_model_len, len(ids) + arguments.max_tokens)
            begun[number] = time.perf_counter()
            generator.add(TreeJob(0, ids, rules, SamplingParams(arguments.temperature), most, number))

    start = time.perf_counter()
    for _ in range(n_clients):
        begin()
    while generator.has_work:
        for job, tree in generator.step().finished:
            for sequence in tree.sequences:
                engine.decode(sequence.token_ids)  # as the server does
            latencies.append(time.perf_counter() - begun.pop(job.seed))
            n_tokens += tree.n_tokens
            begin()
    return Load(time.perf_counter() - start, n_tokens, latencies)


def spread(values: list[float], places: int = 1) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})"


def row(n_clients: int, url: str, engine: Engine, arguments: argparse.Namespace) -> str:
    """All rounds with so many clients."""
    served: list[Load] = []
    alone: list[Load] = []
    for round_number in range(arguments.rounds + 1):
        n_requests = n_clients * arguments.requests
        numbers = range(round_number * n_requests, (round_number + 1) * n_requests)
        sides = [
            lambda: served.append(asyncio.run(over_http(url, n_clients, numbers, arguments))),  # noqa: B023 - called here
            lambda: alone.append(on_engine(engine, n_clients, numbers, arguments)),  # noqa: B023 - called here
        ]
        for side in sides if round_number % 2 else sides[::-1]:
            side()
    pairs = list(zip(served[1:], alone[1:], strict=True))
    figures = [
        spread([load.n_a_second for load, _ in pairs]),
        spread([load.tokens_a_second for load, _ in pairs], 0),
        *(spread([load.latency(share) for load, _ in pairs]) for share in (0.5, 0.95)),
        spread([load.latency(0.5) for _, load in pairs]),
        spread([load.tokens_a_second / other.tokens_a_second for load, other in pairs], 3),
        spread([load.latency(0.5) / other.latency(0.5) for load, other in pairs], 3),
    ]
    return " | ".join([str(n_clients), *figures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="scripted")
    parser.add_argument("--model_name", default="chain")
    parser.add_argument("--clients", default="1,8,64,256")
    parser.add_argument("--requests", type=int, default=4, help="a client and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--tree", action="store_true")
    parser.add_argument("engine_arguments", nargs="*", help="after --: options of the engine, as for eager serve")
    arguments = parser.parse_args()
    engine = load_engine(arguments.engine, arguments.model_name)
    print("clients | requests/s | tokens/s | p50 ms | p95 ms | p50 ms, engine alone | tokens/s to it | p50 to it")
    asked = ("--engine", arguments.engine, "--model_name", arguments.model_name, *arguments.engine_arguments)
    with eager_serve(*asked) as url:
        for n_clients in map(int, arguments.clients.split(",")):
            print(row(n_clients, url, engine, arguments), flush=True)
    engine.shutdown()


if __name__ == "__main__":
    main()
