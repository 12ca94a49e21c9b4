"""What plain requests pay for the plugin in their vLLM server, and what trees gain over a gateway before it. By hand:

    python benchmarks/plain_requests.py                             # the embedded model; starts and ends the servers
    python benchmarks/plain_requests.py --model Qwen/Qwen3-4B --clients 1,64 --tokens 512 -- --max-model-len 4096

Three comparisons. In one server, the plugin's route against vLLM's own, which is kept under another path for this: all
that differs is the look at the request. A server with plugin and gate against one without either, one after the other,
`--blocks` times in changing order. And trees (`eager`) by the plugin against trees by `eager serve --engine openai` in
front of the same server. Each of so many clients asks one request after the other, without pause. The sides of a
comparison are asked in every round, in changing order, after one round that does not count; ratios are taken within a
round, and a figure is the median, in brackets the lowest and the highest. Needs the extras openai and serve, and vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import aiohttp
from fastapi import FastAPI
from serve_load import eager_serve

from eager.server.vllm_plugin import TreePlugin

_CHAT = "/v1/chat/completions"
_OWN = "/own" + _CHAT
_GATE = (
    *("--logits-processors", "eager.engines.vllm_gate:Gate"),
    *("--worker-extension-cls", "eager.engines.vllm_gate.GateWorker"),
)
# Blocks of 32: the CPU build's own, of 128, find little of a short prefix in the cache.
_SMALL = ("--max-model-len", "2048", "--max-num-seqs", "64", "--block-size", "32", "--enforce-eager")
_TREE = {"max_sequences": 8, "entropy_threshold": 1.5, "threshold_percentile": None, "vote": "text"}
_QUESTIONS = [f"What is {a} + {b} * {a + b}? Think step by step." for a in range(3, 19) for b in range(2, 18)]


class PluginAndOwn(TreePlugin):
    """The plugin, with vLLM's own route under another path beside it. Loaded by the server."""

    def attach_router(self, app: FastAPI) -> None:
        (own,) = [route for route in app.routes if getattr(route, "path", "") == _CHAT]
        aside = copy(own)
        aside.path, aside.path_regex = _OWN, re.compile(f"^{_OWN}$")
        app.router.routes.append(aside)
        super().attach_router(app)


class Load(NamedTuple):
    """What came of one round on one side."""

    seconds: float
    n_tokens: int
    latencies: list[float]

    @property
    def tokens_a_second(self) -> float:
        return self.n_tokens / self.seconds

    @property
    def milliseconds(self) -> float:
        return 1000 * statistics.median(self.latencies)


Side = tuple[str, Mapping[str, Any]]
"""The address of a route, and what a request has there beyond the question."""


async def asked(side: Side, n_clients: int, numbers: Iterable[int], arguments: argparse.Namespace) -> Load:
    """The requests with these numbers, which are their seeds, too."""
    url, more = side
    left, latencies, n_tokens = iter(numbers), [], 0
    plain = {"model": arguments.name, "max_tokens": arguments.tokens, "temperature": 0.6, **more}

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal n_tokens
        for number in left:
            messages = [{"role": "user", "content": _QUESTIONS[number % len(_QUESTIONS)]}]
            start = time.perf_counter()
            async with session.post(url, json={**plain, "seed": number, "messages": messages}) as response:
                answer = await response.json()
            latencies.append(time.perf_counter() - start)
            if response.status != 200:
                raise SystemExit(f"{url} answers {response.status}: {answer}")
            n_tokens += answer["usage"]["completion_tokens"]

    start = time.perf_counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        await asyncio.gather(*(client(session) for _ in range(n_clients)))
    return Load(time.perf_counter() - start, n_tokens, latencies)


def rounds(
    sides: Mapping[str, Side], n_clients: int, n_each: int, arguments: argparse.Namespace
) -> dict[str, list[Load]]:
    """What each side did in each round."""
    found: dict[str, list[Load]] = {name: [] for name in sides}
    for turn in range(arguments.rounds + 1):
        names = list(sides) if turn % 2 else list(reversed(sides))
        for name in names:
            load = asyncio.run(asked(sides[name], n_clients, range(turn * n_each, (turn + 1) * n_each), arguments))
            if turn:
                found[name].append(load)
    return found


def spread(values: Iterable[float]) -> str:
    """Median, lowest and highest."""
    found = sorted(values)
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"


def show(what: str, n_clients: int, found: Mapping[str, list[Load]]) -> None:
    """A line a side, and the first over the second."""
    (first, ours), (second, others) = found.items()
    print(f"{what}, {n_clients} at once")
    for name, loads in found.items():
        latency, rate = spread(x.milliseconds for x in loads), spread(x.tokens_a_second for x in loads)
        print(f"  {name}: {latency} ms a request, {rate} tokens/s")
    pairs = list(zip(ours, others, strict=True))
    latency = spread(a.milliseconds / b.milliseconds for a, b in pairs)
    rate = spread(a.tokens_a_second / b.tokens_a_second for a, b in pairs)
    print(f"  {first} over {second}: latency {latency}, tokens/s {rate}", flush=True)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def vllm(arguments: argparse.Namespace, *, is_ours: bool) -> Iterator[str]:
    """The address of a vLLM server, with plugin and gate or without."""
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_of(arguments.model)]
        command += ["--served-model-name", arguments.name, "--host", "127.0.0.1", "--port", str(port)]
        command += [*(_GATE if is_ours else ()), *(arguments.options or _SMALL)]
        log = Path(folder, "log")
        environment = {**os.environ, **(_plugin(Path(folder)) if is_ours else {"VLLM_PLUGINS": ""})}
        with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
            try:
                _wait(f"http://127.0.0.1:{port}", process, log)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def _plugin(folder: Path) -> dict[str, str]:
    """Variables with which a server loads `PluginAndOwn`, by an entry point that is made for it."""
    info = folder / "plain_requests-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-requests\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.endpoint_plugins]\nplain_requests = plain_requests:PluginAndOwn\n")
    path = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"VLLM_PLUGINS": "plain_requests", "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(f"vLLM has ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)


def model_of(name: str) -> str:
    if name != "demo":
        return name
    from eager.engines._demo import hf_demo

    return str(hf_demo())


# -- comparisons ------------------------------------------------------------------------------------------------------


def compare_routes(url: str, arguments: argparse.Namespace) -> None:
    sides: dict[str, Side] = {
        "the plugin's route": (url + _CHAT, {"ignore_eos": True}),
        "vLLM's own route": (url + _OWN, {"ignore_eos": True}),
    }
    for n_clients in arguments.clients:
        show("plain requests, one server", n_clients, rounds(sides, n_clients, arguments.requests, arguments))


def compare_gateway(url: str, arguments: argparse.Namespace) -> None:
    with eager_serve("--engine", "openai", "--base_url", url, "--model_name", arguments.name) as before:
        sides: dict[str, Side] = {
            "the plugin": (url + _CHAT, {"eager": _TREE}),
            "eager serve": (before + _CHAT, {"eager": _TREE}),
        }
        for n_clients in arguments.clients:
            show("trees", n_clients, rounds(sides, n_clients, arguments.trees, arguments))


def compare_servers(arguments: argparse.Namespace) -> None:
    """One after the other: machines that hold one model hold no two."""
    found: dict[int, dict[str, list[Load]]] = {n: {"with": [], "without": []} for n in arguments.clients}
    for block in range(arguments.blocks):
        for is_ours in (True, False) if block % 2 else (False, True):
            name = "with" if is_ours else "without"
            with vllm(arguments, is_ours=is_ours) as url:
                sides: dict[str, Side] = {name: (url + _CHAT, {"ignore_eos": True})}
                for n_clients in arguments.clients:
                    loads = rounds(sides, n_clients, arguments.requests, arguments)
                    found[n_clients][name] += loads[name]
    for n_clients, loads in found.items():
        show("plain requests, a server with plugin and gate and one without", n_clients, loads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    for name, default, what in (
        ("rounds", 5, "that count, of every comparison"),
        ("requests", 16, "plain ones a round and side"),
        ("trees", 8, "a round and side"),
        ("tokens", 64, "the most a sequence"),
        ("blocks", 2, "starts of either server; 0: no comparison of servers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)
    parser.add_argument("options", nargs="*", help="vLLM's, behind --")
    arguments = parser.parse_args()
    arguments.name = "model"
    with vllm(arguments, is_ours=True) as url:
        compare_routes(url, arguments)
        compare_gateway(url, arguments)
    if arguments.blocks:
        compare_servers(arguments)


if __name__ == "__main__":
    main()
