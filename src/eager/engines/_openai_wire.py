"""What is said to a server, and what of its answer is believed: chunks of a streamed completion, checked.

Types are checked while the JSON is read. Of what a server may send beside it nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from eager.engines._draw import NO_DISTRIBUTION
from eager.engines._openai_faults import FaultError, RefusalError, said
from eager.randomness import sequence_seed
from eager.types import ENTROPY_TOP_K, FinishReason, SamplingParams

COMPLETIONS = "/v1/completions"
_SEED_MASK = (1 << 63) - 1  # vLLM takes seeds of signed 64 bits
_DRAW_MASK = (1 << 64) - 1
_DONE = b"[DONE]"
_MOST_BEST = 64  # of one token; vLLM sends 20, or 21
_PREFIX = "token_id:"


class _Logprobs(msgspec.Struct, gc=False):
    top_logprobs: list[dict[str, float | None] | None]


class _Choice(msgspec.Struct, gc=False):
    token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    index: int = 0


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _PlainChoice(msgspec.Struct, gc=False):
    """Without log-probabilities, which are then skipped, not read."""

    token_ids: list[int] | None = None
    finish_reason: str | None = None
    index: int = 0


class _PlainChunk(msgspec.Struct, gc=False):
    choices: list[_PlainChoice] = []
    usage: _Usage | None = None
    error: Any = None


_read_chunk = msgspec.json.Decoder(_Chunk).decode
_read_plain = msgspec.json.Decoder(_PlainChunk).decode


class Raw(NamedTuple):
    """A token as it came: where it is watched with the best ids and their log-probabilities, the sampled one first."""

    id: int
    best_ids: list[int] | None = None
    best_logprobs: list[float] | None = None


class TokenNames(dict[str, int]):
    """ "token_id:5" -> 5. To look one up takes half of what reading it does; there are as many as token ids."""

    def __init__(self, n_vocab: int) -> None:
        super().__init__()
        self._n_vocab = n_vocab

    def __missing__(self, name: str) -> int:
        digits = name.removeprefix(_PREFIX)
        if digits == name or not digits.isdecimal() or not digits.isascii() or len(digits) > 10:
            raise FaultError("the server names a token in another way than by its id")
        token_id = int(digits)
        if token_id >= self._n_vocab:
            raise FaultError(f"the server sends token id {token_id} of a vocabulary of {self._n_vocab}")
        self[name] = token_id
        return token_id


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request for a server: go on from `ids` until a stop id, or until there are `max_length`.

    `draws` is "gate" (the server draws by our processor, from seed and position), "server" (its own seeds do that), or
    "opening": a seed derived from the sequence's and the position at which the request begins.
    """

    model: str
    ids: Seq[int]
    max_length: int
    sampling: SamplingParams
    seed: int
    stop_ids: Seq[int]
    is_watched: bool
    draws: str

    def body(self) -> dict[str, Any]:
        """The JSON of /v1/completions."""
        watching = {"logprobs": ENTROPY_TOP_K, "return_tokens_as_token_ids": True} if self.is_watched else {}
        return {
            "model": self.model,
            "prompt": list(self.ids),
            "max_tokens": self.max_length - len(self.ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "stop_token_ids": list(self.stop_ids),
            "ignore_eos": True,  # the end-of-sequence id is among the stop ids, and is delivered like them
            "repetition_penalty": 1.0,  # a model's generation config may hold another
            **watching,
            **self._drawn(),
        }

    def _drawn(self) -> dict[str, Any]:
        sampling = self.sampling
        how = [sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p]
        if self.draws == "gate":
            drawn = {"eager_draw": [self.seed & _DRAW_MASK, *how]}
            return {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "vllm_xargs": drawn}
        # The seed of a request begun elsewhere would repeat, or shift, the draws of the one that it goes on from.
        seed = self.seed if self.draws == "server" else sequence_seed(self.seed, len(self.ids), 0)
        return {**dict(zip(("temperature", "top_p", "top_k", "min_p"), how, strict=True)), "seed": seed & _SEED_MASK}


class Reading:
    """Reads one request's answer, chunk by chunk; it may come in many, with several tokens each.

    `finish` is why the sequence ended, `error` what was wrong with it then. `n_cached` tokens of the prompt were
    found in the server's cache, where it says so; `n_beyond` came after the end. `is_over` when nothing more will come.
    """

    def __init__(self, wanted: Wanted, names: TokenNames, n_vocab: int, scrub: Callable[[str], str]) -> None:
        self._wanted = wanted
        self._stop_ids = frozenset(wanted.stop_ids)
        self._names = names
        self._n_vocab = n_vocab
        self._scrub = scrub
        self._length = len(wanted.ids)
        self.is_watched = wanted.is_watched
        self.finish: FinishReason | None = None
        self.error: str | None = None
        self.n_cached: int | None = None
        self.n_beyond = 0
        self.is_over = False

    def read(self, event: bytes) -> list[Raw]:
        """The tokens in one event. Raises FaultError for what is garbled, RefusalError for what nobody asked for."""
        if event == _DONE:
            self.is_over = True
        if self.is_over:
            return []
        try:
            chunk = _read_chunk(event) if self.is_watched else _read_plain(event)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise FaultError(f"the server sent a garbled chunk ({error})") from None
        if chunk.error is not None:
            raise _complaint(chunk.error, self._scrub)
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            self.n_cached = chunk.usage.prompt_tokens_details.cached_tokens
        if not chunk.choices:
            return []
        if len(chunk.choices) > 1 or chunk.choices[0].index != 0:
            raise RefusalError("the server sent more choices than the one that was asked for")
        return self._read_choice(chunk.choices[0])

    def end(self) -> None:
        """The stream is over. Raises FaultError where the sequence is not."""
        if self.finish is None:
            raise FaultError("the stream ended without a finish reason")

    def _read_choice(self, choice: _Choice | _PlainChoice) -> list[Raw]:
        ids = choice.token_ids or []
        if self.finish is not None:
            self.n_beyond += len(ids)
            return []
        self._check_ids(ids)
        tokens = self._watched(ids, choice) if isinstance(choice, _Choice) else [Raw(token_id) for token_id in ids]
        tokens = self._until_the_end(tokens)
        self._length += len(tokens)
        if self.finish is None and self._length == self._wanted.max_length:
            self.finish = "length"
        if self.finish is None and choice.finish_reason is not None:
            self._end_early(choice.finish_reason)
        return tokens

    def _check_ids(self, ids: Seq[int]) -> None:
        if len(ids) > self._wanted.max_length - self._length:
            raise RefusalError("the server sent more tokens than were asked for")
        if ids and not (min(ids) >= 0 and max(ids) < self._n_vocab):
            raise FaultError(f"the server sent a token id outside the vocabulary of {self._n_vocab}")

    def _watched(self, ids: Seq[int], choice: _Choice) -> list[Raw]:
        found = choice.logprobs.top_logprobs if choice.logprobs is not None else []
        if len(found) != len(ids):
            raise FaultError("the server sent tokens without their log-probabilities")
        tokens = []
        for token_id, best in zip(ids, found, strict=True):
            values: list[Any] = list(best.values()) if best else []
            if None in values:  # JSON has no nan
                self.finish, self.error, self.is_over = "error", NO_DISTRIBUTION, True
                break
            if not min(ENTROPY_TOP_K, self._n_vocab) <= len(values) <= _MOST_BEST:
                raise FaultError(f"the server sent {len(values)} log-probabilities of a token, not {ENTROPY_TOP_K}")
            tokens.append(Raw(token_id, list(map(self._names.__getitem__, best or ())), values))
        return tokens

    def _until_the_end(self, tokens: list[Raw]) -> list[Raw]:
        for i, token in enumerate(tokens):
            if token.id in self._stop_ids:
                self.finish, self.error = "stop", None
                self.n_beyond += len(tokens) - i - 1
                return tokens[: i + 1]
        return tokens

    def _end_early(self, reason: str) -> None:
        """The server is through before the sequence is."""
        if reason == "stop":
            raise RefusalError(
                "the server ended the sequence with no stop id that it was given: name those of the model as"
                " --engine_option stop_token_ids=[…]"
            )
        if reason == "length":
            raise RefusalError(
                f"the server ended the sequence at {self._length} of {self._wanted.max_length} tokens: its context is"
                " shorter than it said, so give that as --max_model_len"
            )
        raise FaultError(f"the server ended the sequence with '{self._scrub(reason)[:40]}'")


def _complaint(error: Any, scrub: Callable[[str], str]) -> FaultError | RefusalError:
    """What an error inside a stream is, by the code in it."""
    code = error.get("code") if isinstance(error, Mapping) else None
    sentence = f"the server broke off ({scrub(said({'error': error}))})"
    if isinstance(code, int) and 400 <= code < 500 and code not in (408, 425, 429):
        return RefusalError(sentence)
    return FaultError(sentence)
