"""An engine whose sequences end at texts, too, where they are asked to: what OpenAI calls `stop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import replace

from eager.engines.base import Engine
from eager.types import Delta, Request

_TOKENS_PER_CHARACTER = 4  # a byte each, at most


class TextStops(Engine):
    """`engine`, which is driven through this alone.

    A sequence whose own text holds one of its request's `stop_texts` ends there ("stop").
    The token that completes the text is delivered. One that is completed by a token which a branch put there is seen
    with the next.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.model_name = engine.model_name
        self.capacity = engine.capacity
        self.max_model_len = engine.max_model_len
        self.stops = engine.stops
        self._watched: dict[int, _Watched] = {}

    def open(self, request: Request) -> None:
        self._engine.open(request)
        self._watched.pop(request.seq_id, None)
        if request.stop_texts:
            self._watched[request.seq_id] = _Watched(request)

    def close(self, seq_id: int) -> None:
        self._watched.pop(seq_id, None)
        self._engine.close(seq_id)

    def unmonitor(self, seq_id: int) -> None:
        self._engine.unmonitor(seq_id)

    def step(self) -> list[Delta]:
        deltas = self._engine.step()
        return [self._stopped(delta) for delta in deltas] if self._watched else deltas

    @property
    def has_room(self) -> bool:
        return self._engine.has_room

    @property
    def waiting(self) -> str | None:
        return self._engine.waiting

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        return self._engine.encode_chat(messages)

    def encode(self, text: str) -> list[int]:
        return self._engine.encode(text)

    def decode(self, token_ids: Seq[int]) -> str:
        return self._engine.decode(token_ids)

    def shutdown(self) -> None:
        super().shutdown()
        self._engine.shutdown()

    def _stopped(self, delta: Delta) -> Delta:
        """The delta, cut behind the token that completes a stop text."""
        watched = self._watched.get(delta.seq_id)
        if watched is None:
            return delta
        n_kept = watched.n_to_stop(self._engine, [token.id for token in delta.tokens])
        if n_kept is not None:
            self.close(delta.seq_id)
            return replace(delta, tokens=delta.tokens[:n_kept], finish_reason="stop", error=None)
        if delta.finish_reason is not None:
            del self._watched[delta.seq_id]
        return delta


class _Watched:
    """A sequence that may end at a text: so many of its last tokens as can hold one."""

    def __init__(self, request: Request) -> None:
        self._stops = request.stop_texts
        self._n_most = _TOKENS_PER_CHARACTER * (max(map(len, self._stops)) + 1)
        self._tail = list(request.token_ids[request.n_prompt :][-self._n_most :])

    def n_to_stop(self, engine: Engine, ids: Seq[int]) -> int | None:
        """After how many of these new tokens it ends; None where it goes on."""
        tail, self._tail = self._tail, [*self._tail, *ids][-self._n_most :]
        if not self._has_stop(engine.decode([*tail, *ids])):
            return None
        return next(n for n in range(len(ids) + 1) if self._has_stop(engine.decode([*tail, *ids[:n]])))

    def _has_stop(self, text: str) -> bool:
        return any(stop in text for stop in self._stops)
