"""What a server can do, found out by trying: vLLM leaves out in silence what it does not know."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass, replace
from typing import Any

from eager.engines._openai_faults import FaultError, RefusalError
from eager.engines._openai_http import Client
from eager.engines._openai_wire import COMPLETIONS, Raw, Reading, TokenNames, Wanted
from eager.engines.base import EngineError
from eager.engines.options_openai import OpenAIOptions
from eager.types import ENTROPY_TOP_K, SamplingParams
from eager.words import one_line

_ENGINE = re.compile(r'^vllm:num_requests_running\{[^}\n]*?engine="(\d{1,6})"', re.MULTILINE)
_MOST_ENGINES = 4096
_TEXT = "Once upon a time, in a land far away, there lived"
_ANY_IDS = range(5, 13)
_N_TOKENS, _N_TRIES = 8, 3
_ANY = 1 << 31
_WILD = SamplingParams(temperature=2.0)  # the highest that vLLM takes, so that other seeds draw other tokens
_SHARP = SamplingParams(temperature=0.05, top_k=3)
_SAME = 0.05  # between log-probabilities of one token in two batches, in 16 bits

_TOKENIZE = "token ids of a text (/tokenize): use vllm serve, which has it, or give --tokenizer FOLDER"
_CONTEXT = "its context length (max_model_len in /v1/models): use vllm serve, which says it"
_IDS = "token ids in the answer (return_token_ids): use vLLM 0.10.2 or later"
_LOGPROBS = f"{ENTROPY_TOP_K} log-probabilities of each token: start it with --max-logprobs {ENTROPY_TOP_K}"
_RAW = "log-probabilities of the raw distribution: start it with --logprobs-mode raw_logprobs"
_SEEDS = "a seed that gives the same tokens again: start it without speculative decoding, and without other processors"
_STOPS = "stop ids (stop_token_ids), each delivered as a token: use vLLM 0.10.2 or later"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server is and can. `root` is the model's path or hub name on its machine."""

    url: str
    max_model_len: int
    n_vocab: int
    draws: str
    tells_cached: bool
    root: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class _Answer:
    tokens: list[Raw]
    n_cached: int | None
    n_beyond: int

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


async def probe(client: Client, url: str, model: str, options: OpenAIOptions) -> Facts:
    """The facts about a server, as far as the options leave them open.

    Raises EngineError, with the list of what it lacks and the flag that gives it; FaultError where it does not answer.
    """
    return await _Probe(client, url, model).facts(options)


async def n_engines(client: Client, url: str) -> int:
    """How many data-parallel engines vLLM runs there, each with a cache of its own; 1 where it says none."""
    try:
        metrics = await client.text(url, "/metrics")
    except (FaultError, RefusalError, EngineError):
        return 1
    return max(1, len(set(_ENGINE.findall(metrics)[:_MOST_ENGINES])))


class _Probe:
    def __init__(self, client: Client, url: str, model: str) -> None:
        self._client = client
        self._url = url
        self._model = model
        self._said = ""  # by the server, of the last request that it refused

    async def facts(self, options: OpenAIOptions) -> Facts:
        about = await self._about_model()
        missing = [] if isinstance(about.get("max_model_len"), int) else [_CONTEXT]
        ids = await self._ids_of_text()
        missing += [] if ids or options.tokenizer else [_TOKENIZE]
        ids = ids or list(_ANY_IDS)
        missing += await self._missing(ids)
        if missing:
            raise self._lacks(missing)
        n_vocab, found, is_cached, version = await asyncio.gather(
            self._n_vocab(), self._draws(ids, options.draws), self._tells_cached(ids), self._version()
        )
        return Facts(self._url, about["max_model_len"], n_vocab, found, is_cached, str(about.get("root", "")), version)

    async def _about_model(self) -> Mapping[str, Any]:
        answer = await self._client.get(self._url, "/v1/models")
        served = answer.get("data") if isinstance(answer, Mapping) else None
        if not isinstance(served, list):
            raise EngineError(f"{self._url} lists no models, so it is none of vLLM's servers: check --base_url")
        models = [item for item in served if isinstance(item, Mapping)]
        found = next((item for item in models if item.get("id") == self._model), None)
        if found is None:
            names = self._client.scrub(", ".join(str(item.get("id")) for item in models))
            raise EngineError(
                f"{self._url} does not serve '{one_line(self._model)}': give --model_name as one of {names}"
            )
        return found

    async def _ids_of_text(self) -> list[int] | None:
        """None where the server has no /tokenize."""
        body = {"model": self._model, "prompt": _TEXT}
        try:
            answer = await self._client.post(self._url, "/tokenize", body)
        except (RefusalError, EngineError):
            return None
        found = answer.get("tokens") if isinstance(answer, Mapping) else None
        return found if isinstance(found, list) and found and all(isinstance(i, int) for i in found) else None

    async def _missing(self, ids: Seq[int]) -> list[str]:
        """What the server lacks, in words."""
        plain, watched = await asyncio.gather(
            self._try(self._wanted(ids)), self._try(self._wanted(ids, is_watched=True))
        )
        if plain is None or not plain.ids:
            return [f"{_IDS}{self._said}"]
        if watched is None:
            return [f"{_LOGPROBS}{self._said}"]
        missing = [] if await self._has_seeds(ids, plain) else [_SEEDS]
        missing += [] if await self._is_raw(ids, watched) else [_RAW]
        # Of three tokens one is drawn, and twenty are stop ids: the first ends the sequence.
        stopped = await self._try(
            replace(self._wanted(ids, stop_ids=sorted(_best(watched.tokens[0]))), sampling=_SHARP)
        )
        is_stopped = stopped is not None and len(stopped.ids) == 1 and stopped.n_beyond == 0
        return missing if is_stopped else [*missing, _STOPS]

    async def _has_seeds(self, ids: Seq[int], first: _Answer) -> bool:
        """Whether one seed draws the same again, and others draw something else.

        Beside other requests a rounding may change a token: one of some tries is enough.
        """
        others = await asyncio.gather(*(self._try(self._wanted(ids, seed=seed)) for seed in (2, 3)))
        if all(other is None or other.ids == first.ids for other in others):
            return False
        again = await asyncio.gather(*(self._try(self._wanted(ids)) for _ in range(_N_TRIES)))
        return any(other is not None and other.ids == first.ids for other in again)

    async def _is_raw(self, ids: Seq[int], watched: _Answer) -> bool:
        """Whether neither temperature nor truncation moves the log-probabilities."""
        sharp = await self._try(replace(self._wanted(ids, is_watched=True), sampling=_SHARP))
        if sharp is None:
            return False
        one, other = _best(watched.tokens[0]), _best(sharp.tokens[0])
        shared = one.keys() & other.keys()
        is_near = all(abs(one[token_id] - other[token_id]) <= _SAME * (1 - one[token_id]) for token_id in shared)
        is_share = sum(map(math.exp, sorted(one.values())[-ENTROPY_TOP_K:])) <= 1 + 1e-3
        return len(shared) >= ENTROPY_TOP_K // 2 and is_near and is_share

    async def _draws(self, ids: Seq[int], asked: str) -> str:
        """The best way of drawing that the server has, or the one that was asked for. EngineError where it has not."""
        for draws in ("gate", "server"):
            if asked in ("auto", draws) and await self._goes_on(ids, draws):
                return draws
        if asked in ("auto", "opening"):
            return "opening"
        flag = "--logits-processors eager.engines.vllm_gate:Gate" if asked == "gate" else "vLLM's V2 model runner"
        raise self._lacks([f"draws by seed and position ({asked}): start it with {flag}, or leave out draws"])

    async def _goes_on(self, ids: Seq[int], draws: str) -> bool:
        """Whether a sequence that is begun in its middle gets the tokens that it would have got, and seeds differ."""
        whole, other = await asyncio.gather(*(self._try(self._wanted(ids, draws=draws, seed=seed)) for seed in (1, 2)))
        if whole is None or other is None or whole.ids == other.ids:
            return False
        half = len(whole.ids) // 2
        wanted = self._wanted([*ids, *whole.ids[:half]], draws=draws, n_tokens=len(whole.ids) - half)
        rest = await self._try(wanted)
        return rest is not None and rest.ids == whole.ids[half:]

    async def _tells_cached(self, ids: Seq[int]) -> bool:
        answer = await self._try(self._wanted(ids, n_tokens=1))
        return answer is not None and answer.n_cached is not None

    async def _n_vocab(self) -> int:
        """The number of token ids that it takes: the first that it refuses, found by halving."""
        taken, refused = 0, _ANY
        guess = 1 << 15
        while refused - taken > 1:
            if await self._try(self._wanted([guess], n_tokens=1)) is not None:
                taken = guess
            else:
                refused = guess
            guess = min(2 * taken, _ANY - 1) if refused == _ANY else (taken + refused) // 2
        return refused

    async def _version(self) -> str:
        try:
            answer = await self._client.get(self._url, "/version")
        except (FaultError, RefusalError, EngineError):
            return ""
        return self._client.scrub(str(answer.get("version", "")))[:80] if isinstance(answer, Mapping) else ""

    def _wanted(
        self,
        ids: Seq[int],
        *,
        n_tokens: int = _N_TOKENS,
        seed: int = 1,
        is_watched: bool = False,
        stop_ids: Seq[int] = (),
        draws: str = "server",
    ) -> Wanted:
        return Wanted(self._model, ids, len(ids) + n_tokens, _WILD, seed, stop_ids, is_watched, draws)

    async def _try(self, wanted: Wanted) -> _Answer | None:
        """What comes of a request; None where it is refused, or something else than what was asked for."""
        reading = Reading(wanted, TokenNames(_ANY), _ANY, self._client.scrub)
        tokens: list[Raw] = []
        try:
            async with self._client.stream(self._url, COMPLETIONS, wanted.body(), {}) as stream:
                async for events in stream.data():
                    for event in events:
                        tokens += reading.read(event)
            reading.end()
        except RefusalError as refusal:
            self._said = f" ({refusal})"
            return None
        except FaultError as fault:
            if fault.is_down or fault.pause is not None:
                raise
            self._said = f" ({fault})"
            return None
        return _Answer(tokens, reading.n_cached, reading.n_beyond)

    def _lacks(self, missing: Seq[str]) -> EngineError:
        return EngineError(f"the server at {self._url} cannot do what EAGer needs. It lacks {'; '.join(missing)}")


def _best(token: Raw) -> dict[int, float]:
    return dict(zip(token.best_ids or (), token.best_logprobs or (), strict=True))
