"""What vLLM hands its plugins, over a made-up model: its requests are decoded together, through the real gate."""

import asyncio
import math
import random
from functools import lru_cache
from types import SimpleNamespace

import torch
from fake_runners import Request, RunnerV1
from jinja2 import TemplateError
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
from vllm.v1.engine.exceptions import EngineDeadError

N_VOCAB, END, PAUSE = 40, 0, 35
MAX_MODEL_LEN = 60


@lru_cache(None)
def probabilities(token_ids):
    """A distribution at every prefix that is random but fixed: sharp in places, flat in others."""
    rng = random.Random(hash((3, *token_ids)))
    sharpness = rng.choice([0.2, 1, 5])
    weights = [1.0, *(math.exp(sharpness * rng.gauss(0, 1)) for _ in range(30))]
    return {i: weight / sum(weights) for i, weight in enumerate(weights)}


class _Runner(RunnerV1):
    """Takes the most likely token, as vLLM does of requests that the gate draws for."""

    def _sample(self, requests, logits):
        for request, token in zip(requests, logits.argmax(dim=-1).tolist(), strict=True):
            request.outputs.append(token)


class _Model:
    vocabulary = N_VOCAB

    def logits(self, tokens):
        row = torch.full((N_VOCAB,), -math.inf)
        for token, p in probabilities(tuple(tokens)).items():
            row[token] = math.log(p)
        return row


class _Tokenizer:
    eos_token_id, bos_token_id = END, 1

    def __len__(self):
        return N_VOCAB

    def get_added_vocab(self):
        return {"<end>": END, "<unused0>": PAUSE}

    def encode(self, text, add_special_tokens=False):
        """A letter a token: no marker is one token."""
        return [1 + ord(letter) % 30 for letter in text]

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(96 + i) for i in ids)


class FakeRenderer:
    """vLLM's `OnlineRenderer`, as far as the plugin knows it: `chats` are those that it rendered."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.chats = []

    async def render_chat(self, request):
        self.chats.append(request)
        if request.chat_template is not None:
            return ErrorResponse(error=ErrorInfo(message="this template is not trusted", type="", code=400))
        text = "".join(message["content"] for message in request.messages)
        if "{" in text:
            raise TemplateError("no braces")
        return [], [{"prompt_token_ids": self._tokenizer.encode(text)}]

    async def render_completion(self, request):
        return [{"prompt_token_ids": self._tokenizer.encode(request.prompt)}]


class FakeClient:
    """vLLM's `EngineClient`, as far as the plugin knows it. `is_dead` once its engine is."""

    def __init__(
        self,
        *,
        has_gate=True,
        worker="eager.engines.vllm_gate.GateWorker",
        data_parallel_size=1,
        added=None,
        sampling=None,
    ):
        model = SimpleNamespace(
            max_model_len=MAX_MODEL_LEN,
            get_vocab_size=lambda: N_VOCAB,
            served_model_name="made-up",
            try_get_generation_config=lambda: {"eos_token_id": [END]},
            get_diff_sampling_param=lambda: dict(sampling or {}),
        )
        parallel = SimpleNamespace(
            worker_extension_cls=worker, data_parallel_size=data_parallel_size, data_parallel_external_lb=False
        )
        self.vllm_config = SimpleNamespace(model_config=model, parallel_config=parallel, additional_config=added or {})
        self.renderer = SimpleNamespace(tokenizer=_Tokenizer())
        self.is_dead = False
        self.seconds_per_step = 0.0
        self._has_gate = has_gate
        self._runner = _Runner(_Model())
        self._rng = random.Random(1)
        self._open = {}
        self._loop_task = None

    @property
    def n_open(self):
        return len(self._open)

    @property
    def n_trees(self):
        return len(self._runner.gate)

    async def collective_rpc(self, method, args=()):
        if self.is_dead:
            raise EngineDeadError
        if method == "eager_gate":
            return [{"runner": 1, "trees": self.n_trees} if self._has_gate else None]
        return [self._runner.gate.take(*args)]

    async def generate(self, prompt, params, request_id):
        request = Request(params, list(prompt["prompt_token_ids"]), seed=0)
        over = self._open[request] = asyncio.get_running_loop().create_future()
        if self._loop_task is None or self._loop_task.done():
            self._loop_task = asyncio.create_task(self._decode())
        try:
            yield await over
        finally:
            self._open.pop(request, None)

    async def _decode(self):
        while self._open:
            await asyncio.sleep(self.seconds_per_step)
            # Never all at once, so that some run ahead of others.
            asked = [request for request in self._open if self._rng.random() < 0.7]
            if self.is_dead:
                for request in list(self._open):
                    self._open.pop(request).set_exception(EngineDeadError())
            elif asked:
                self._runner.step(asked)
            for request in asked:
                self._end_if_over(request)

    def _end_if_over(self, request):
        outputs = request.outputs
        has_stopped = bool(outputs) and outputs[-1] in request.params.stop_token_ids
        if request in self._open and (has_stopped or len(outputs) == request.params.max_tokens):
            completion = SimpleNamespace(token_ids=outputs, finish_reason="stop" if has_stopped else "length")
            output = SimpleNamespace(outputs=[completion], num_cached_tokens=len(request.prompt) // 2)
            self._open.pop(request).set_result(output)
