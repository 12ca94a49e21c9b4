"""What a streamed token costs this side of the wire: HTTP clients, JSON parsers, and the whole of engine openai.

    python benchmarks/http_client.py [--streams 64] [--tokens 200] [--rounds 3]

A server in a process of its own sends one token an event, as vLLM does: with 20 log-probabilities, or without. Every
client reads the same streams; measured is the processor time of the reading process for a token, so that neither the
server nor a neighbour counts. All ways in every round, in changing order; the median of the rounds, and all of them.
Parsers are measured apart, on such events in memory; the last rows are the engine itself, entropies included. Needs
httpx, httpx-sse and orjson beside the extra openai.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx_sse
import msgspec
import orjson

from eager.engines._openai_wire import Reading, TokenNames, Wanted
from eager.engines.openai import OpenAIEngine
from eager.types import Request, SamplingParams

N_VOCAB = 50_000
MODEL = "fast"


def _event(i: int, is_watched: bool, finish: str | None) -> bytes:
    """As vLLM 0.32 writes it."""
    names = [f"token_id:{(i * 7919 + 31 * k) % N_VOCAB}" for k in range(20)]
    values = [-0.1234567890123456 - k * 1.0101010101 for k in range(20)]
    watched = {
        "text_offset": [i],
        "token_logprobs": [values[0]],
        "tokens": [names[0]],
        "top_logprobs": [dict(zip(names, values, strict=True))],
    }
    choice = {
        "index": 0,
        "text": " word",
        "logprobs": watched if is_watched else None,
        "finish_reason": finish,
        "stop_reason": None,
        "prompt_token_ids": None,
        "token_ids": [i * 7919 % N_VOCAB],
    }
    chunk = {"id": "cmpl-0123456789abcdef", "object": "text_completion", "created": 1795722466, "model": MODEL}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


class _FastServer(asyncio.Protocol):
    """HTTP/1.1 as far as these clients speak it."""

    events: dict[tuple[int, bool], list[bytes]] = {}  # noqa: RUF012 - filled once, for all connections

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next((int(v) for n, _, v in _headers(head) if n.lower() == b"content-length"), 0)
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._answer(head.split(b" ", 2)[1].decode(), json.loads(body[:length]) if length else {})

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        if path == "/v1/completions":
            self._answering = asyncio.ensure_future(self._stream(body))
            return
        answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": MODEL, "max_model_len": 1 << 20}]},
            "/tokenize": {"tokens": [5, 6, 7]},
        }
        text = json.dumps(answers.get(path, {})).encode()
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    async def _stream(self, body: dict[str, Any]) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self._transport.write(head)
        for event in self._events(body["max_tokens"], "logprobs" in body):
            self._transport.write(event)
            await asyncio.sleep(0)  # the next stream's turn: events of one stream come one by one
        self._transport.write(_chunked(b'data: {"choices":[]}\n\ndata: [DONE]\n\n') + b"0\r\n\r\n")

    def _events(self, n_tokens: int, is_watched: bool) -> list[bytes]:
        key = (n_tokens, is_watched)
        if key not in self.events:
            ends = [None] * (n_tokens - 1) + ["length"]
            self.events[key] = [_chunked(_event(i, is_watched, end)) for i, end in enumerate(ends)]
        return self.events[key]


def _headers(head: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        yield name.strip(), colon, value.strip()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


def _serve(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_FastServer, "127.0.0.1", 0, backlog=1024)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(run())


# -- clients: each reads `n_streams` streams and counts events ---------------------------------------------------

Read = Callable[[str, dict[str, Any], int], Awaitable[int]]


async def with_aiohttp(url: str, body: dict[str, Any], n_streams: int) -> int:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> int:
            n_events, rest = 0, b""
            async with session.post(url, json=body) as response:
                async for piece in response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    n_events += sum(line.startswith(b"data:") for line in lines)
            return n_events

        return sum(await asyncio.gather(*(one() for _ in range(n_streams))))


async def with_httpx(url: str, body: dict[str, Any], n_streams: int) -> int:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=None) as client:

        async def one() -> int:
            n_events, rest = 0, b""
            async with client.stream("POST", url, json=body) as response:
                async for piece in response.aiter_raw():
                    *lines, rest = (rest + piece).split(b"\n")
                    n_events += sum(line.startswith(b"data:") for line in lines)
            return n_events

        return sum(await asyncio.gather(*(one() for _ in range(n_streams))))


async def with_httpx_sse(url: str, body: dict[str, Any], n_streams: int) -> int:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=None) as client:

        async def one() -> int:
            async with httpx_sse.aconnect_sse(client, "POST", url, json=body) as source:
                return sum([1 async for _ in source.aiter_sse()])

        return sum(await asyncio.gather(*(one() for _ in range(n_streams))))


CLIENTS: dict[str, Read] = {"aiohttp": with_aiohttp, "httpx": with_httpx, "httpx + httpx-sse": with_httpx_sse}


def client_cost(read: Read, url: str, n_streams: int, n_tokens: int, is_watched: bool) -> tuple[float, float]:
    """(microseconds of processor time a token, tokens a second)."""
    body = {"max_tokens": n_tokens, "stream": True, **({"logprobs": 20} if is_watched else {})}
    used, start = time.process_time(), time.perf_counter()
    n_events = asyncio.run(read(f"{url}/v1/completions", body, n_streams))
    used, seconds = time.process_time() - used, time.perf_counter() - start
    n_all = n_streams * n_tokens
    assert n_events == n_all + 2 * n_streams, n_events
    return used / n_all * 1e6, n_all / seconds


# -- parsers -----------------------------------------------------------------------------------------------------


def _plain_top(chunk: Any) -> list[int]:
    return [int(name[9:]) for name in chunk["choices"][0]["logprobs"]["top_logprobs"][0]]


def parsers() -> dict[str, Callable[[bytes], Any]]:
    wanted = Wanted(MODEL, [1], 1 << 30, SamplingParams(), 1, [2], True, "server")
    reading = Reading(wanted, TokenNames(N_VOCAB), N_VOCAB, str)
    return {
        "json": lambda event: _plain_top(json.loads(event)),
        "orjson": lambda event: _plain_top(orjson.loads(event)),
        "msgspec, untyped": lambda event: _plain_top(msgspec.json.decode(event)),
        "msgspec, typed; checked (the engine's)": reading.read,
    }


def parser_cost(parse: Callable[[bytes], Any], events: list[bytes]) -> float:
    for event in events:  # what is remembered from one event to the next is so in a long run, too
        parse(event)
    start = time.process_time()
    for event in events:
        parse(event)
    return (time.process_time() - start) / len(events) * 1e6


# -- the engine --------------------------------------------------------------------------------------------------


def engine_cost(engine: OpenAIEngine, n_streams: int, n_tokens: int, is_watched: bool) -> tuple[float, float]:
    """As `client_cost`, both threads together: reading, parsing, entropies, and handing over."""
    used, start = time.process_time(), time.perf_counter()
    for i in range(n_streams):
        engine.open(Request(i, (5, 6, 7), SamplingParams(), 3 + n_tokens, seed=i, monitor=is_watched))
    n_open, n_done = n_streams, 0
    while n_open:
        for delta in engine.step():
            n_done += len(delta.tokens)
            n_open -= delta.finish_reason is not None
    used, seconds = time.process_time() - used, time.perf_counter() - start
    assert n_done == n_streams * n_tokens, n_done
    return used / n_done * 1e6, n_done / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{port.value}"
    try:
        _measure(url, asked.streams, asked.tokens, asked.rounds)
    finally:
        server.terminate()


def _measure(url: str, n_streams: int, n_tokens: int, n_rounds: int) -> None:
    engine = _engine(url, n_streams)
    ways: dict[str, Callable[[bool], tuple[float, float]]] = {
        name: lambda is_watched, read=read: client_cost(read, url, n_streams, n_tokens, is_watched)  # type: ignore[misc]
        for name, read in CLIENTS.items()
    }
    ways["engine openai"] = lambda is_watched: engine_cost(engine, n_streams, n_tokens, is_watched)
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for i in range(n_rounds):
        names = list(ways)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            for is_watched in (True, False):
                found.setdefault((name, is_watched), []).append(ways[name](is_watched))
    engine.shutdown()
    print(f"{n_streams} streams of {n_tokens} tokens, {n_rounds} rounds; microseconds of processor time a token")
    for (name, is_watched), costs in found.items():
        used, speed = (statistics.median(column) for column in zip(*costs, strict=True))
        all_used = ", ".join(f"{cost:.1f}" for cost, _ in costs)
        asked = "20 log-probabilities" if is_watched else "ids alone"
        print(f"{name:20} {asked:20} {used:7.1f}  ({all_used})  {speed:7.0f} tokens/s")
    events = [_event(i, True, None)[6:].strip() for i in range(2000)]
    print(f"parsing {len(events[0])} bytes, token ids as numbers; microseconds an event")
    for name, parse in parsers().items():
        print(f"{name:41} {min(parser_cost(parse, events) for _ in range(n_rounds)):7.1f}")


def _engine(url: str, n_streams: int) -> OpenAIEngine:
    """Unprobed: this server draws nothing."""
    from eager.engines import _openai_start
    from eager.engines._openai_probe import Facts

    async def facts(client: Any, url: str, model: str, options: Any) -> Facts:
        return Facts(url, 1 << 20, N_VOCAB, "server", False)

    _openai_start.probe = facts
    how = {"max_in_flight": n_streams, "max_model_len": 1 << 20, "stop_token_ids": [N_VOCAB - 1]}
    return OpenAIEngine(MODEL, base_url=url, **how)


if __name__ == "__main__":
    main()
