"""What is told of an answer, as it comes and in OpenAI's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from eager.types import Generation
from eager.wire import Alive

FinishReason: TypeAlias = Literal["stop", "length"]


class Scored(NamedTuple):
    """A token with its raw log-probability (None: beyond what the engine tells) and the most likely ones beside it."""

    text: str
    logprob: float | None
    top: Seq[tuple[str, float]] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What comes next in choice `index`; with a `finish_reason` it is the last of it.

    `scored` where log-probabilities were asked for; `eager`, with the last of a tree's, says what sequence it is.
    """

    index: int
    text: str
    finish_reason: FinishReason | None = None
    scored: Seq[Scored] = ()
    eager: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What it took: tokens decoded, a shared prefix counted once, and what sampling the same sequences would take.

    `n_extra` of the sequences came out of what other requests left. `recomputed` and `discarded` count tokens that
    forking took beyond those kept.
    """

    n_prompt: int = 0
    n_tokens: int = 0
    n_tokens_naive: int = 0
    n_sequences: int = 0
    n_extra: int = 0
    n_branches: int = 0
    recomputed: int = 0
    discarded: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, name) + getattr(other, name) for name in Spent.__slots__))

    @classmethod
    def on(cls, tree: Generation, *, n_prompt: int = 0, is_extra: bool = False) -> Spent:
        """What one tree took."""
        n_sequences = len(tree.sequences)
        return cls(
            n_prompt=n_prompt,
            n_tokens=tree.n_tokens,
            n_tokens_naive=tree.n_tokens_naive,
            n_sequences=n_sequences,
            n_extra=n_sequences if is_extra else 0,
            n_branches=len(tree.branches),
            recomputed=tree.recomputed,
            discarded=tree.discarded,
        )


News: TypeAlias = Piece | Alive | Spent
"""`Alive`: nothing else has come for a while, and the request is at work."""
