"""What a server costs: trees of engine vllm in this process, and of engine openai in both its forms. Run by hand:

    python benchmarks/server_trees.py [--model demo] [--n_trees 1 4 16 32] [--rounds 5]
    python benchmarks/server_trees.py --base_url http://127.0.0.1:8000 --model_name NAME [--plain_url URL]

Without `--base_url` a vLLM server with gate and plugin is started on this machine, beside the engine in this process:
both hold the model, and one works at a time. With it, a server that runs already is measured alone. All trees of a row
are grown at once, in every way. They are grown in rounds, whose ways change their order; ratios are taken within a
round, and a figure is the median of the rounds, ratios with the lowest and the highest. Stop tokens are switched off,
so that every sequence has as many tokens as it is allowed. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager.engines import Engine, load_engine  # only now can it be found without installing
from eager.engines.openai import OpenAIEngine
from eager.generator import Generator
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob
from eager.whole_trees import TreeGenerator

_SAMPLING = SamplingParams(temperature=0.6)
_PLAIN_TOKENS = 32
_TEXT = "Tell me at length about the following rivers, where they rise and where they flow: "
_RIVERS = ("Rhine", "Danube", "Elbe", "Loire", "Ebro", "Po", "Oder", "Seine", "Tagus", "Douro", "Volga", "Don")
IN_PROCESS, WHOLE, STREAMS = "`vllm`, in process", "`openai`, whole trees", "`openai`, streams, gate"
UNTOUCHED, OWN_N = "`openai`, streams, server untouched", "the server's own `n`"


class Cost(NamedTuple):
    """Of some trees at once: kept tokens a second; this process's processor, recomputed and discarded a kept token."""

    rate: float
    driver_us: float
    recomputed: float
    discarded: float


Way = Callable[[list[TreeJob]], Cost]


class Server(NamedTuple):
    """Where one answers, by what name it serves the model, and its key."""

    url: str
    model: str
    key: str | None


# -- the ways ---------------------------------------------------------------------------------------------------


def cost_of_trees(generator: Generator | TreeGenerator, jobs: list[TreeJob]) -> Cost:
    for job in jobs:
        generator.add(job)
    start, used = time.perf_counter(), time.process_time()
    trees = [tree for _, tree in generator.run()]
    seconds, used = time.perf_counter() - start, time.process_time() - used
    n = sum(tree.n_tokens for tree in trees)
    thrown = sum(tree.recomputed for tree in trees), sum(tree.discarded for tree in trees)
    return Cost(n / seconds, used / n * 1e6, thrown[0] / n, thrown[1] / n)


def cost_of_n(server: Server, jobs: list[TreeJob]) -> Cost:
    """Of the server's own `n`, without seeds, whose draws cost something of their own."""

    def ask(job: TreeJob) -> int:
        n_tokens = job.max_length - len(job.prompt_ids)
        answer = complete(server, job.prompt_ids, n_tokens, n=job.config.max_sequences)
        return int(answer["usage"]["completion_tokens"])

    start, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(jobs)) as threads:
        n = sum(threads.map(ask, jobs))
    return Cost(n / (time.perf_counter() - start), (time.process_time() - used) / n * 1e6, 0.0, 0.0)


def complete(server: Server, prompt: Seq[int], n_tokens: int, **how: Any) -> Any:
    """A plain completion, and its whole answer."""
    plain = {"model": server.model, "prompt": list(prompt), "max_tokens": n_tokens, "ignore_eos": True}
    body = json.dumps({**plain, "temperature": _SAMPLING.temperature, **how}).encode()
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {server.key}"} if server.key else {})}
    request = urllib.request.Request(f"{server.url}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=3600) as answer:
        return json.load(answer)


@contextmanager
def own_server(options: argparse.Namespace) -> Iterator[Server]:
    """With gate and plugin, of the same options as the engine in this process."""
    from eager.engines._vllm_servers import Place, Servers
    from eager.engines._vllm_start import engine_values, find_model
    from eager.engines.options_vllm import VLLMOptions
    from eager.engines.vllm_replicas import OF_A_SERVER

    values = VLLMOptions.of(vllm_options(options))
    common = engine_values(options.model, find_model(options.model, values), values)
    worker = {"worker_extension_cls": "eager.engines.vllm_gate.GateWorker", "served_model_name": [options.model]}
    with mock.patch.dict(os.environ, VLLM_PLUGINS="eager"):
        servers = Servers([Place({})], {**common, **OF_A_SERVER, **worker})
    try:
        yield Server(servers.urls[0], options.model, servers.api_key)
    finally:
        servers.stop()


def vllm_options(options: argparse.Namespace) -> dict[str, Any]:
    """Prompts go through in one step: vLLM's CPU build breaks over a seeded request whose prompt takes several."""
    given = {name: getattr(options, name) for name in ("capacity", "kv_cache_gib", "max_model_len")}
    return {**given, "max_num_batched_tokens": 8192}


def openai_engine(server: Server, options: argparse.Namespace, **how: Any) -> OpenAIEngine:
    """With its stops off."""
    given = {"base_url": server.url, "max_in_flight": options.capacity, "stop_token_ids": [0], **how}
    engine = OpenAIEngine(server.model, **given, **({"api_key": server.key} if server.key else {}))
    engine.stops, engine._stop_ids = Stops(frozenset()), []
    if engine.whole_trees is not None:
        engine.whole_trees._stops = engine.stops
    return engine


def ways(options: argparse.Namespace, stack: ExitStack) -> tuple[dict[str, Way], OpenAIEngine, Server]:
    """All ways of growing trees; and the engine and the server of most of them."""
    found: dict[str, Way] = {}
    if options.base_url is None:
        engine = load_engine("vllm", options.model, **vllm_options(options))
        stack.callback(engine.shutdown)
        engine.stops = Stops(frozenset())
        found[IN_PROCESS] = lambda jobs: cost_of_trees(Generator(engine), jobs)
        server = stack.enter_context(own_server(options))
    else:
        server = Server(options.base_url, options.model_name, os.environ.get("EAGER_API_KEY"))
    gated, untouched = openai_engine(server, options), openai_engine(server, options, draws="opening")
    stack.callback(gated.shutdown)
    stack.callback(untouched.shutdown)
    trees = gated.whole_trees
    if trees is None:
        raise SystemExit(f"{server.url} has no plugin that grows trees: {'; '.join(gated.notices)}")
    found[WHOLE] = lambda jobs: cost_of_trees(TreeGenerator(gated, trees), jobs)
    found[STREAMS] = lambda jobs: cost_of_trees(Generator(gated), jobs)
    found[UNTOUCHED] = lambda jobs: cost_of_trees(Generator(untouched), jobs)
    found[OWN_N] = lambda jobs: cost_of_n(server, jobs)
    return found, gated, server


# -- rounds, and what came of them -------------------------------------------------------------------------------


def prompts_of(engine: Engine, n: int) -> list[tuple[int, ...]]:
    asked = (f"Question {i}. {_TEXT}{', '.join(_RIVERS[i % 12 :] + _RIVERS[: i % 12])}." for i in range(n))
    return [tuple(engine.encode_chat([{"role": "user", "content": text}])) for text in asked]


def measure(found: dict[str, Way], options: argparse.Namespace, prompts: Seq[tuple[int, ...]]) -> dict[str, list[Cost]]:
    """The costs of every round but the first, which warms up; as many trees at once as there are prompts."""
    rules = BranchConfig(options.max_sequences, options.entropy_threshold)
    costs: dict[str, list[Cost]] = {name: [] for name in found}
    names = list(found)
    for turn in range(options.rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            jobs = [
                TreeJob(i, prompt, rules, _SAMPLING, len(prompt) + options.max_tokens, seed=turn)
                for i, prompt in enumerate(prompts)
            ]
            cost = found[name](jobs)
            if turn:
                costs[name].append(cost)
            print(f"{len(prompts)} trees, round {turn}, {name}: {cost.rate:.1f} tokens/s", file=sys.stderr, flush=True)
    return costs


def spread(values: Iterable[float]) -> str:
    """Median, lowest and highest."""
    found = sorted(values)
    return f"{statistics.median(found):.2f}, {found[0]:.2f} to {found[-1]:.2f}"


def show_rates(rows: dict[int, dict[str, list[Cost]]]) -> None:
    names = list(next(iter(rows.values())))
    print(f"\nKept tokens a second; in brackets over {names[0]}.\n")
    print(f"| trees in flight | {' | '.join(names)} |\n|{'---:|' * (1 + len(names))}")
    for n_trees, costs in rows.items():
        cells = []
        for name in names:
            rates = [cost.rate for cost in costs[name]]
            ratios = (rate / first.rate for rate, first in zip(rates, costs[names[0]], strict=True))
            cells.append(f"{statistics.median(rates):,.0f}" + (f" ({spread(ratios)})" if name != names[0] else ""))
        print(f"| {n_trees} | {' | '.join(cells)} |", flush=True)


def show_costs(rows: dict[int, dict[str, list[Cost]]]) -> None:
    names = list(next(iter(rows.values())))
    print(
        "\nMicroseconds of the driver's processor a kept token (in process: the model's, too); recomputed, discarded.\n"
    )
    print(f"| trees in flight | {' | '.join(names)} |\n|{'---:|' * (1 + len(names))}")
    for n_trees, costs in rows.items():
        middle = ([statistics.median(column) for column in zip(*costs[name], strict=True)] for name in names)
        cells = (f"{us:,.0f}; {recomputed:.2f}, {discarded:.2f}" for _, us, recomputed, discarded in middle)
        print(f"| {n_trees} | {' | '.join(cells)} |", flush=True)


def show_plain(server: Server, plain: Server, prompts: Seq[tuple[int, ...]], rounds: int) -> None:
    """Seconds of plain requests, one after the other, with the plugin over without."""
    ratios = []
    for turn in range(2 * rounds + 1):
        seconds = {}
        for one in (server, plain) if turn % 2 else (plain, server):
            start = time.perf_counter()
            for prompt in prompts:
                complete(one, prompt, _PLAIN_TOKENS)
            seconds[one] = time.perf_counter() - start
        if turn:
            ratios.append(seconds[server] / seconds[plain])
    print(f"\nPlain requests, seconds with the plugin over without: {spread(ratios)}")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    for name in ("base_url", "model_name", "plain_url"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--n_trees", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--entropy_threshold", type=float, default=1.6)
    for name, default in (("max_sequences", 8), ("max_tokens", 128), ("rounds", 5), ("capacity", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--max_model_len", type=int, default=1024)
    parser.add_argument("--kv_cache_gib", type=float, default=2.0)
    options = parser.parse_args(given)
    if (options.base_url is None) != (options.model_name is None):
        parser.error("--base_url and --model_name go together")
    return options


def main() -> None:
    options = arguments()
    with ExitStack() as stack:
        found, engine, server = ways(options, stack)
        prompts = prompts_of(engine, max(options.n_trees))
        rows = {n_trees: measure(found, options, prompts[:n_trees]) for n_trees in options.n_trees}
        show_rates(rows)
        show_costs(rows)
        if options.plain_url:
            show_plain(server, server._replace(url=options.plain_url), prompts, options.rounds)


if __name__ == "__main__":
    main()
