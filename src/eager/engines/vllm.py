"""Any model that vLLM serves, in this process, on a GPU or a CPU.

Sequences of all trees are vLLM requests over token ids, decoded together by vLLM's own scheduler. A fork is a request
on its parent's prefix, which vLLM finds in its prefix cache but for the last, incomplete block. Entropies of monitored
sequences are taken where the logits are (`_vllm_watch`); text is made by nobody in the loop.

Draws depend on the sequence's seed and the position alone: see `_vllm_draw` for a CPU; on a GPU vLLM's own sampler (V2
model runner) hashes the request's seed with the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from eager.engines._chat import chat_args, chat_identity, check_template, hf_chat_ids, hf_text, read_stops
from eager.engines._model_files import fingerprint
from eager.engines._refusals import Refusals
from eager.engines._vllm_api import (
    EngineDeadError,
    RequestOutputKind,
    SamplingParams as VLLMSamplingParams,
    VLLMClientError,
)
from eager.engines._vllm_draw import WATCH_KEY, draw_args
from eager.engines._vllm_requests import Requests
from eager.engines._vllm_room import Room
from eager.engines._vllm_start import Started, model_files, start, tell_of_death, vllm_versions
from eager.engines._vllm_watch import Watch
from eager.engines.base import Engine, EngineError, EngineLostError
from eager.engines.options_vllm import VLLMOptions
from eager.errors import first_line
from eager.types import ENTROPY_TOP_K, Delta, Request

_SEED_MASK = (1 << 63) - 1  # vLLM keeps seeds in signed 64 bits


class VLLMEngine(Engine):
    """See `Engine`; the options are those of `VLLMOptions`."""

    name = "vllm"

    def __init__(self, model_name: str, **given: Any) -> None:
        options = VLLMOptions.of(given)
        check_template(options.chat_template)
        started = start(model_name, options)
        self.model_name = model_name
        with ExitStack() as on_failure:
            on_failure.callback(started.llm.engine_core.shutdown)
            self._tokenizer = started.llm.get_tokenizer()
            self._chat_args, self._chat_date = chat_args(model_name, self._tokenizer, options)
            self.stops = read_stops(self._tokenizer, started.generation_config)
            on_failure.pop_all()
        self._options = options
        self._path = started.path
        self._take(started)

    def _take(self, started: Started) -> None:
        """Work with this vLLM from now on."""
        self.capacity = started.capacity
        self.max_model_len = started.max_model_len
        self._draws_inside = started.draws_inside
        self._is_in_process = started.is_in_process
        self._llm = started.llm
        tell_of_death(self._llm.engine_core)
        self._has_died = False
        self._n_vocab: int = self._llm.model_config.get_vocab_size()
        self._room = Room(started.n_cells)
        self._requests = Requests(
            self._llm,
            self._new_params,
            refusals=Refusals(self._n_vocab, self.max_model_len),
            room=self._room,
            capacity=self.capacity,
            errors_of_requests=(VLLMClientError, ValueError),
        )

    def open(self, request: Request) -> None:
        self._refuse_if_shut()
        if self._has_died:
            self._start_again()
        with self._as_engine_error():
            self._requests.open(request)

    def close(self, seq_id: int) -> None:
        with suppress(EngineDeadError):  # then nothing of it is decoded any more
            self._requests.close(seq_id)

    def unmonitor(self, seq_id: int) -> None:
        # Where entropies come as vLLM's log-probabilities the request goes on with them: to open it again without costs
        # more than it saves, since vLLM computes them for the whole batch as long as one request wants them.
        self._requests.unmonitor(seq_id)

    @property
    def has_room(self) -> bool:
        is_free = not self.is_shut and len(self._requests) < self.capacity
        return is_free and self._room.has_room_for_one_more(len(self._requests))

    def step(self) -> list[Delta]:
        self._refuse_if_shut()
        with self._as_engine_error():
            return self._requests.step()

    @contextmanager
    def _as_engine_error(self) -> Iterator[None]:
        try:
            yield
        except (EngineDeadError, RuntimeError) as error:
            request_ids = self._requests.forget_all()
            if isinstance(error, EngineDeadError):
                self._has_died = True
                self._llm.engine_core.shutdown()
            else:  # it may have been one step only
                self._llm.abort_request(request_ids)
            raise EngineError(
                f"vLLM broke with {len(request_ids)} sequences open ({first_line(error)}): "
                "start again, with a smaller capacity if the memory ran out"
            ) from error

    def _start_again(self) -> None:
        """Put another vLLM in the place of the one whose own process died."""
        try:
            started = start(self.model_name, self._options)
        except EngineError as error:
            raise EngineLostError(f"vLLM died, and does not start again: {error}") from error
        if started.max_model_len != self.max_model_len:
            started.llm.engine_core.shutdown()
            raise EngineLostError(
                f"vLLM died, and started again with a context of {started.max_model_len} tokens where it had"
                f" {self.max_model_len}: run the same command again with that as --max_model_len in another folder"
            )
        self._take(started)

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        self._refuse_if_shut()
        return hf_chat_ids(self._tokenizer, messages, self._chat_args)

    def encode(self, text: str) -> list[int]:
        self._refuse_if_shut()
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def decode(self, token_ids: Seq[int]) -> str:
        self._refuse_if_shut()
        return hf_text(self._tokenizer, token_ids, self._n_vocab)

    def versions(self) -> dict[str, str]:
        return vllm_versions()

    def identity(self) -> dict[str, Any]:
        files = model_files(self._path, self._options)
        return {
            **({"model_files": fingerprint(files)} if files else {}),
            "max_model_len": self.max_model_len,
            **chat_identity(self._chat_date),
        }

    def shutdown(self) -> None:
        super().shutdown()
        self._requests.forget_all()
        self._llm.engine_core.shutdown()

    def _new_params(self, request: Request, watch: Watch) -> VLLMSamplingParams:
        """vLLM's parameters of one request; made for it alone, so vLLM need not copy them (`skip_clone`)."""
        sampling, seed = request.sampling, request.seed
        handed = watch if self._is_in_process else None
        if self._draws_inside:
            drawn: dict[str, Any] = {"temperature": 0.0, "extra_args": draw_args(seed, sampling, handed)}
        else:
            drawn = {
                "extra_args": None if handed is None else {WATCH_KEY: handed},
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "seed": seed & _SEED_MASK,
            }
        return VLLMSamplingParams(
            **drawn,
            max_tokens=request.max_length - len(request.token_ids),
            stop_token_ids=sorted(self.stops.stop_ids),
            ignore_eos=True,  # the end-of-sequence id is among the stop ids, and is delivered like them
            detokenize=False,
            logprobs=ENTROPY_TOP_K if watch.is_on and handed is None else None,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
