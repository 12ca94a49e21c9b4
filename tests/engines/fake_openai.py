"""A server on this machine that answers as vLLM's does, with a made-up model, and fails where it is told to.

Its draws depend on (seed, position), as those of vLLM's V2 runner: so whatever happens on the way, a sequence has one
right continuation, and a test can say whether it came.
"""

import asyncio
import json
import threading
from contextlib import contextmanager

import numpy as np

from eager.engines._draw import draw
from eager.randomness import uniform
from eager.types import ENTROPY_TOP_K, SamplingParams

N_VOCAB = 64
STOP_ID = 2
MODEL = "made-up"
KEY = "sk-very-secret-5309"


def logits_of(ids):
    """The model."""
    rng = np.random.default_rng(abs(hash(tuple(ids[-6:]))))
    logits = rng.normal(scale=2.0, size=N_VOCAB).astype(np.float32)
    logits[STOP_ID] -= 3.0
    return logits


def continuation(ids, seed, sampling, n_tokens):
    """The tokens that a sequence gets, whatever happens to the server."""
    ids, start = list(ids), len(ids)
    while len(ids) - start < n_tokens and STOP_ID not in ids[start:]:
        ids.append(draw(logits_of(ids), sampling, uniform(seed, len(ids))))
    return ids[start:]


class FakeServer:
    """`faults` are popped by one completion each: (kind, after so many tokens). `bodies` and `headers` are what came.

    `lacks` names what it leaves out. `key` is demanded where it is given.
    """

    def __init__(
        self, *, key=None, lacks=(), max_model_len=512, n_vocab=N_VOCAB, seconds_per_token=0.0, port=0, tls=None
    ):
        self.key, self.lacks, self.max_model_len = key, set(lacks), max_model_len
        self.n_vocab = n_vocab
        self.seconds_per_token, self.seconds_before = seconds_per_token, 0.0
        self.faults, self.bodies, self.headers, self.paths = [], [], [], []
        self.n_open = self.most_open = self.n_sent = 0
        self.is_ill = False
        self.n_engines = None  # as vLLM's metrics say
        self.port, self.tls = port, tls

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def start(self):
        from aiohttp import web

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        asyncio.run_coroutine_threadsafe(self._listen(web), self._loop).result()
        return self

    async def _listen(self, web):
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    def stop(self):
        """As if it were killed: every connection breaks."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, request):
        from aiohttp import web

        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": f"Unauthorized: {request.headers.get('Authorization')}"}, status=401)
        body = await request.json() if request.can_read_body else {}
        name = request.path.removeprefix("/v1/").strip("/").replace("/", "_")
        return await getattr(self, f"_{name}", self._unknown)(request, body, web)

    async def _unknown(self, request, body, web):
        return web.json_response({"detail": "Not Found"}, status=404)

    async def _health(self, request, body, web):
        return web.Response(status=503 if self.is_ill else 200)

    async def _metrics(self, request, body, web):
        if self.n_engines is None:
            return await self._unknown(request, body, web)
        lines = [f'vllm:num_requests_running{{engine="{i}",model_name="{MODEL}"}} 0.0' for i in range(self.n_engines)]
        return web.Response(text="# HELP vllm:num_requests_running\n" + "\n".join(lines) + "\n")

    async def _version(self, request, body, web):
        return web.json_response({"version": f"0.0.fake {self.key or ''}".strip()})

    async def _models(self, request, body, web):
        if "models" in self.lacks:
            return web.json_response({"error": {"message": "say hello first"}}, status=400)
        about = {"id": MODEL, "root": "nobody/nothing"}
        if "context" not in self.lacks:
            about["max_model_len"] = self.max_model_len
        return web.json_response({"data": [about]})

    async def _tokenize(self, request, body, web):
        if "tokenize" in self.lacks:
            return await self._unknown(request, body, web)
        text = body["prompt"] if "prompt" in body else "".join(m["content"] for m in body["messages"])
        return web.json_response({"tokens": [3 + ord(c) % 60 for c in text]})

    async def _detokenize(self, request, body, web):
        return web.json_response({"prompt": "".join(chr(65 + i) for i in body["tokens"])})

    async def _completions(self, request, body, web):
        self.bodies.append(body)
        kind, after = self.faults.pop(0) if self.faults and body["model"] == MODEL else (None, 0)
        if body["model"] != MODEL:
            return _error(web, 404, "The model does not exist.")
        if max(body["prompt"]) >= self.n_vocab:
            return _error(web, 400, f"Token id {max(body['prompt'])} is out of vocabulary")
        if isinstance(kind, int):
            return _error(web, kind, "as it was told", headers={"Retry-After": str(after)} if kind == 429 else {})
        if kind == "redirect":
            return web.Response(status=307, headers={"Location": after + request.path})
        if kind == "mute":
            await asyncio.sleep(3600)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        try:
            await self._stream(request, body, response, kind, after)
        finally:
            self.n_open -= 1
        return response

    async def _stream(self, request, body, response, kind, after):
        ids, n_sent = list(body["prompt"]), 0
        await asyncio.sleep(self.seconds_before)
        while True:
            if kind is not None and n_sent >= after and await self._fail(kind, request, response):
                return
            if self.seconds_per_token:
                await asyncio.sleep(self.seconds_per_token)
            token, best = self._next(ids, body, n_sent)
            ids.append(token)
            n_sent += 1
            self.n_sent += 1
            finish = "stop" if token in body["stop_token_ids"] else "length" if n_sent == body["max_tokens"] else None
            if "stops" in self.lacks:
                finish = "length" if n_sent == body["max_tokens"] else None
            await response.write(_event(_chunk(token, best, finish, kind, self.lacks)))
            if finish and kind != "more tokens":
                break
        usage = {} if "cached" in self.lacks else {"prompt_tokens_details": {"cached_tokens": len(body["prompt"]) // 2}}
        await response.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")

    async def _fail(self, kind, request, response):
        """What this kind of fault does now; whether the stream is over with that."""
        if kind == "hang":
            await asyncio.sleep(3600)
        elif kind == "reset":
            request.transport.abort()
            await asyncio.sleep(0)
        elif kind == "truncated":
            await response.write(b'data: {"choices":[{"index":0,"token_ids":[5')
            request.transport.close()
        elif kind == "garbled":
            await response.write(b'data: {"choices":[{"index":0,"token_ids":["five"]}]}\n\ndata: [DONE]\n\n')
        elif kind == "no finish":
            await response.write(b"data: [DONE]\n\n")
        elif kind == "ends":
            pass
        elif kind == "broken engine":
            await response.write(_event({"error": {"message": "EngineCore died", "code": 500}}))
        elif kind == "refused inside":
            await response.write(_event({"error": {"message": f"no logprobs for {KEY}", "code": 400}}))
        elif kind == "long line":
            await response.write(b"data: " + b"x" * (3 << 20) + b"\n\n")
        elif kind == "two choices":
            await response.write(_event({"choices": [{"index": 0, "token_ids": [5]}, {"index": 1, "token_ids": [6]}]}))
        elif kind == "many tokens":
            await response.write(_event({"choices": [{"index": 0, "token_ids": [5] * 10_000}]}))
        elif kind == "nan":
            chunk = _chunk(5, dict.fromkeys(range(ENTROPY_TOP_K)), None, None, ())
            await response.write(_event(chunk))
        else:
            return False
        return True

    def _next(self, ids, body, n_sent):
        logits = logits_of(ids)
        sampling = SamplingParams(body["temperature"] or 1e-5, body["top_p"], body["top_k"], body["min_p"])
        position = n_sent if "positions" in self.lacks else len(ids)
        seed = np.random.randint(1 << 30) if "seeds" in self.lacks else body.get("seed", 0)
        token = draw(logits, sampling, uniform(int(seed), position))
        if "logprobs" not in body or "logprobs" in self.lacks:
            return token, None
        scaled = logits / sampling.temperature if "raw" in self.lacks else logits
        values = scaled - np.log(np.exp(scaled - scaled.max()).sum()) - scaled.max()
        best = dict.fromkeys([token, *np.argsort(-values)[:ENTROPY_TOP_K].tolist()])
        return token, {i: float(values[i]) for i in best}


def _chunk(token, best, finish, kind, lacks):
    choice = {"index": 0, "text": "", "finish_reason": finish, "token_ids": [token]}
    if "ids" in lacks:
        del choice["token_ids"]
    if best is not None:
        choice["logprobs"] = {"top_logprobs": [{f"token_id:{i}": value for i, value in best.items()}]}
    return {"choices": [choice]}


def _event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _error(web, status, message, headers=None):
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


@contextmanager
def running(**how):
    """A server that is up meanwhile."""
    server = FakeServer(**how).start()
    try:
        yield server
    finally:
        server.stop()
