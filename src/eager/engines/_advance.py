"""What one drawn token makes of a sequence, for the engines that draw for themselves."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

from eager.engines._draw import NO_DISTRIBUTION
from eager.engines._refusals import failed
from eager.types import Delta, Request, Token


class Decoding(Protocol):
    """A sequence in decoding: `tokens` with its prompt, and how many were `recomputed` since its last delta."""

    request: Request
    tokens: list[int]
    recomputed: int


def advanced(sequence: Decoding, token: Token | None, stop_ids: AbstractSet[int]) -> Delta:
    """Append the token, and say so; a finish reason ends the sequence. None: nothing could be drawn."""
    recomputed, sequence.recomputed = sequence.recomputed, 0
    delta = Delta(sequence.request.seq_id, [], recomputed=recomputed)
    if token is None:
        delta.finish_reason, delta.error = "error", failed(len(sequence.tokens), NO_DISTRIBUTION)
        return delta
    delta.tokens = [token]
    sequence.tokens.append(token.id)
    if token.id in stop_ids:
        delta.finish_reason = "stop"
    elif len(sequence.tokens) >= sequence.request.max_length:
        delta.finish_reason = "length"
    return delta
