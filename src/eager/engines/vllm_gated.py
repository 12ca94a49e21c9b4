"""The vLLM server that this code runs inside, as a plugin of it: what a tree asks of it, and whether it can."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from eager.engines._chat import read_stops
from eager.engines._pause_token import pause_token
from eager.engines._vllm_api import (
    RequestOutputKind,
    SamplingParams as VLLMSamplingParams,
    VLLMClientError,
    VLLMError,
    tokens_input,
)
from eager.engines._vllm_draw import draw_args
from eager.engines.base import EngineError
from eager.engines.gated_tree import Decoded, GatedRequest
from eager.errors import first_line
from eager.types import FinishReason, SamplingParams, Stops

_PULSE_SECONDS = 1.0
_SEED_MASK = (1 << 63) - 1  # vLLM keeps seeds in signed 64 bits
_GATE = "--logits-processors eager.engines.vllm_gate:Gate"
_WORKER = "--worker-extension-cls eager.engines.vllm_gate.GateWorker"
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class GatedServer:
    """`client` is vLLM's `EngineClient`; `missing` says, a sentence each, why it can grow no trees: ask it first."""

    def __init__(self, client: Any) -> None:
        self._client = client
        config = client.vllm_config
        self.max_model_len: int = config.model_config.max_model_len
        self.n_vocab: int = config.model_config.get_vocab_size()
        self.model: str = str(config.model_config.served_model_name or config.model_config.model)
        self.pause_id: int | None = None
        self.runner: int | None = None
        self.settings: Any = _settings(config)
        """What the server was started with for EAGer: --additional-config '{"eager": {...}}'."""
        self._pulse: asyncio.Task[Any] | None = None
        self._pulse_time = 0.0

    async def missing(self) -> list[str]:
        """What the server was started without."""
        found = [*_unfit(self._client.vllm_config)]
        if not found:
            gates = [gate for gate in await self._ask_workers("eager_gate") if gate is not None]
            self.runner = gates[0]["runner"] if gates else None
            found += [] if gates else [f"the server has no gate: start it with {_GATE}"]
        self.pause_id = self._pause_id()
        if self.pause_id is None:
            found.append(
                "no token is known to be reserved: name one that the model never gives,"
                """ --additional-config '{"eager": {"pause_id": ID}}'"""
            )
        return found

    @property
    def tokenizer(self) -> Any:
        """vLLM's, which threads may share; None where the server was started without."""
        return self._client.renderer.tokenizer

    def stops(self) -> Stops:
        """Where sequences of this model end, and their thinking; only with a tokenizer."""
        return read_stops(self.tokenizer, self._client.vllm_config.model_config.try_get_generation_config())

    def generation(self) -> Mapping[str, Any]:
        """How vLLM draws where a request says nothing, and where it stops (`max_tokens`): what of it is not neutral."""
        found: Mapping[str, Any] = self._client.vllm_config.model_config.get_diff_sampling_param()
        return found

    def wrong_id(self, ids: Iterable[int]) -> str | None:
        """What is wrong with ids that the model does not have; None where it has all of them."""
        largest = max(ids, default=0)
        if largest < self.n_vocab:
            return None
        return f"token id {largest} is outside the vocabulary of {self.n_vocab}: encode with this model's tokenizer"

    async def decode(self, request: GatedRequest, sampling: SamplingParams) -> Decoded:
        """What comes of the request until it is over. Cancelled, it is taken out of the server.

        Raises EngineError where the server, not the request, is what failed.
        """
        prompt, last = tokens_input(list(request.token_ids)), None
        try:
            params = self._params(request, sampling)
            async for output in self._client.generate(prompt, params, f"eager-{uuid.uuid4().hex}"):
                last = output
        except (VLLMClientError, ValueError) as error:
            reason = f"vLLM refuses a sequence of {len(request.token_ids)} tokens: {first_line(error)}"
            return Decoded((), "error", reason)
        except VLLMError as error:
            raise EngineError(f"the server broke off a sequence ({first_line(error)}): ask again") from error
        finish = None if last is None else _FINISH.get(last.outputs[0].finish_reason)
        if last is None or finish is None:
            raise EngineError("the server broke off a sequence: ask again")
        return Decoded(last.outputs[0].token_ids, finish, n_cached=last.num_cached_tokens or 0)

    async def take(self, tree: str) -> Mapping[str, Any] | None:
        """What the gate keeps of a tree, and forgets with that. Raises EngineError where the engine is dead."""
        answers = await self._ask_workers("eager_take", tree)
        return next((answer for answer in answers if answer is not None), None)

    async def pulse(self) -> None:
        """Returns once the engine has answered, now or a moment ago: one that hangs never does."""
        now = asyncio.get_running_loop().time()
        if self._pulse is None or (self._pulse.done() and now - self._pulse_time > _PULSE_SECONDS):
            self._pulse_time = now
            self._pulse = asyncio.create_task(self._ask_workers("eager_gate"))
        await asyncio.shield(self._pulse)

    async def _ask_workers(self, method: str, *args: str) -> list[Any]:
        try:
            answers: list[Any] = await self._client.collective_rpc(method, args=args)
        except VLLMError as error:
            raise EngineError(f"the server's engine does not answer ({first_line(error)}): ask again") from error
        return answers

    def _pause_id(self) -> int | None:
        given = self.settings.get("pause_id") if isinstance(self.settings, dict) else None
        if isinstance(given, int):
            return given
        tokenizer = self.tokenizer
        if tokenizer is None:
            return None
        return pause_token(self.n_vocab, len(tokenizer), tokenizer.get_added_vocab(), self._end_ids(tokenizer))

    def _end_ids(self, tokenizer: Any) -> set[int]:
        configured = self._client.vllm_config.model_config.try_get_generation_config().get("eos_token_id")
        ends = configured if isinstance(configured, list) else [configured]
        return {token for token in (*ends, tokenizer.eos_token_id, tokenizer.bos_token_id) if token is not None}

    def _params(self, request: GatedRequest, sampling: SamplingParams) -> VLLMSamplingParams:
        rule_args = {} if request.rule is None else request.rule.args
        if self.runner == 1:
            args = {**rule_args, **draw_args(request.seed, sampling)}
            drawn: dict[str, Any] = {"temperature": 0.0, "extra_args": args}
        else:
            drawn = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "seed": request.seed & _SEED_MASK,
                "extra_args": rule_args,
            }
        return VLLMSamplingParams(
            **drawn,
            max_tokens=request.max_tokens,
            stop_token_ids=list(request.stop_ids),
            ignore_eos=True,  # the end-of-sequence id is among the stop ids, and is delivered like them
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _settings(config: Any) -> Any:
    return config.additional_config.get("eager", {}) if isinstance(config.additional_config, dict) else {}


def _unfit(config: Any) -> list[str]:
    """What of vLLM's configuration does not go with trees."""
    found, parallel = [], config.parallel_config
    name = parallel.worker_extension_cls
    if not name or not hasattr(_class_of(name), "eager_take"):
        found.append(f"the server's workers cannot be asked for what the gate keeps: start it with {_WORKER}")
    if parallel.data_parallel_size > 1 and not parallel.data_parallel_external_lb:
        found.append(
            "one address has several replicas, and vLLM hands out what the gate of the first keeps alone:"
            " start each replica with an address of its own (--data-parallel-external-lb, or a server each)"
        )
    return found


def _class_of(name: str) -> Any:
    """As vLLM's workers find theirs."""
    module, _, class_name = name.rpartition(".")
    return getattr(import_module(module), class_name)
