"""A made-up model that obeys the engine contract: for tests, golden traces, and trials of failure.

A *script* says, for any token ids, the distribution of the next one; the engine draws from it as a real one would.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np

from eager.engines._draw import NoDistributionError, draw
from eager.engines._refusals import Refusals, check_ids, failed
from eager.engines.base import Engine, EngineError
from eager.engines.options_scripted import Script, ScriptedOptions
from eager.entropy import top_k_entropy
from eager.randomness import sequence_seed, uniform
from eager.types import ENTROPY_TOP_K, Delta, FinishReason, Request, SamplingParams, Token


@dataclass(slots=True)
class _Sequence:
    request: Request
    tokens: list[int]
    monitor: bool


class ScriptedEngine(Engine):
    """Plays a script, by default one named in `MODELS`; the options are those of `ScriptedOptions`."""

    name = "scripted"

    def __init__(self, model_name: str = "chain", **given: Any) -> None:
        options = ScriptedOptions.of(given)
        if options.script is None and model_name not in MODELS:
            raise EngineError(f"engine scripted does not know model '{model_name}': choose from {', '.join(MODELS)}")
        self.model_name = model_name
        self.capacity = options.capacity
        self.max_model_len = options.max_model_len
        self.stops = options.stops
        self._script = options.script or MODELS[model_name]
        self._vocabulary = options.vocabulary or (_VOCABULARY if options.script is None else ())
        self._tokens_per_step = options.tokens_per_step
        self._seconds_per_step = options.seconds_per_step
        self._steps_left = options.fail_after
        self._failing_positions = options.failing_positions
        self._active: dict[int, _Sequence] = {}
        self._waiting: deque[int] = deque()
        self._opened: dict[int, _Sequence] = {}
        self._refusals = Refusals(_N_IDS, self.max_model_len)

    def open(self, request: Request) -> None:
        self._refuse_if_shut()
        self.close(request.seq_id)
        if self._refusals.refuses(request):
            return
        sequence = _Sequence(request, list(request.token_ids), request.monitor)
        if len(self._active) < self.capacity:
            self._active[request.seq_id] = sequence
        else:
            self._opened[request.seq_id] = sequence
            self._waiting.append(request.seq_id)

    def close(self, seq_id: int) -> None:
        self._refusals.forget(seq_id)
        self._active.pop(seq_id, None)
        if self._opened.pop(seq_id, None) is not None:
            self._waiting.remove(seq_id)

    def unmonitor(self, seq_id: int) -> None:
        sequence = self._active.get(seq_id) or self._opened.get(seq_id)
        if sequence is not None:
            sequence.monitor = False

    @property
    def has_room(self) -> bool:
        return len(self._active) + len(self._waiting) < self.capacity and not self.is_shut

    def step(self) -> list[Delta]:
        self._refuse_if_shut()
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise EngineError("the scripted engine broke, as it was told to")
        if self._seconds_per_step:
            time.sleep(self._seconds_per_step)
        while self._waiting and len(self._active) < self.capacity:
            seq_id = self._waiting.popleft()
            self._active[seq_id] = self._opened.pop(seq_id)
        decoded = [self._decode(seq_id, sequence) for seq_id, sequence in list(self._active.items())]
        return self._refusals.take() + decoded

    def shutdown(self) -> None:
        super().shutdown()
        for seq_id in [*self._active, *self._opened]:
            self.close(seq_id)

    def _decode(self, seq_id: int, sequence: _Sequence) -> Delta:
        tokens: list[Token] = []
        finish: FinishReason | None = None
        error: str | None = None
        while finish is None and len(tokens) < self._tokens_per_step:
            if len(sequence.tokens) in self._failing_positions:
                finish, error = "error", "the sequence failed, as it was told to"
                continue
            try:
                tokens.append(self._next_token(sequence))
                finish = self._finish(sequence)
            except NoDistributionError as reason:
                finish, error = "error", failed(len(sequence.tokens), str(reason))
        if finish is not None:
            del self._active[seq_id]
        return Delta(seq_id, tokens, finish, error)

    def _next_token(self, sequence: _Sequence) -> Token:
        probabilities = self._script(sequence.tokens)
        u = uniform(sequence.request.seed, len(sequence.tokens))
        token_id = draw_scripted(probabilities, sequence.request.sampling, u)
        sequence.tokens.append(token_id)
        return _monitored(token_id, probabilities) if sequence.monitor else Token(token_id)

    def _finish(self, sequence: _Sequence) -> FinishReason | None:
        if sequence.tokens[-1] in self.stops.stop_ids:
            return "stop"
        return "length" if len(sequence.tokens) >= sequence.request.max_length else None

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        return [i for message in messages for i in self.encode(message["content"])] or [_FIRST_PROMPT_ID]

    def encode(self, text: str) -> list[int]:
        self._refuse_if_shut()
        # Ids beyond the vocabulary: one a word, so that long prompts are long.
        return [_FIRST_PROMPT_ID + sum(word.encode()) % 997 for word in text.split()]

    def decode(self, token_ids: Seq[int]) -> str:
        self._refuse_if_shut()
        check_ids(token_ids, _N_IDS)
        return "".join(self._vocabulary[i] if i < len(self._vocabulary) else f"<{i}>" for i in token_ids)


def draw_scripted(probabilities: Mapping[int, float], sampling: SamplingParams, u: float) -> int:
    """The token at `u` in [0, 1) of the distribution, tempered and truncated as every engine does."""
    with np.errstate(divide="ignore"):
        row = np.log(np.fromiter(probabilities.values(), np.float32))
    return list(probabilities)[draw(row, sampling, u)]


def _monitored(token_id: int, probabilities: Mapping[int, float]) -> Token:
    best = sorted(probabilities.items(), key=lambda item: (-item[1], item[0]))[:ENTROPY_TOP_K]
    logprobs = [math.log(p) if p > 0 else -math.inf for _, p in best]
    ids, p = [token for token, _ in best], probabilities[token_id]
    return Token(token_id, float(top_k_entropy(logprobs)), ids, logprobs, math.log(p))


_N_IDS = 2**31  # a script may use any; libraries hold them in 32 bits
_FIRST_PROMPT_ID = 1000
_VOCABULARY = (
    "<end>",
    "so ",
    "then ",
    "add ",
    "carry ",
    "check ",
    "the ",
    "sum ",
    "is ",
    "\\boxed{1}",
    "\\boxed{2}",
    "\\boxed{3}",
)
_ANSWERS = (9, 10, 11)


def _chain(token_ids: Seq[int]) -> Mapping[int, float]:
    """Words at random, certain at some places and torn at others, until an answer; hard prompts tear more often."""
    last = token_ids[-1]
    if last in _ANSWERS:
        return {0: 1.0}
    prompt_length = next((i for i, token in enumerate(token_ids) if token < _FIRST_PROMPT_ID), len(token_ids))
    difficulty = sum(token_ids[:prompt_length]) % 5
    place = sequence_seed(difficulty, len(token_ids), last) % 10
    if len(token_ids) - prompt_length > 10 + 4 * difficulty:
        return {9: 0.6 - 0.1 * difficulty, 10: 0.3 + 0.05 * difficulty, 11: 0.1 + 0.05 * difficulty}
    if place < difficulty:
        return dict.fromkeys(range(12), 1 / 12)
    return {1 + place % 8: 0.9, 1 + (place + 3) % 8: 0.1}


MODELS: dict[str, Script] = {"chain": _chain}
