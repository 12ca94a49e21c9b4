"""Sequences that an engine cannot decode: each is an error of its own, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from eager.engines.base import PromptError
from eager.types import Delta, Request


def failed(n_tokens: int, reason: str) -> str:
    """What is said of a sequence that has come to `n_tokens`, prompt included, and no further."""
    return f"the sequence failed after {n_tokens} tokens: {reason}"


def check_ids(ids: Seq[int], n_vocab: int) -> None:
    """Raises PromptError where an id has no text: native tokenizers end the process at one that they do not know."""
    reason = _foreign(ids, n_vocab) if ids else None
    if reason is not None:
        raise PromptError(f"the tokens have no text: {reason}")


def _foreign(ids: Seq[int], n_vocab: int) -> str | None:
    lowest, highest = min(ids), max(ids)
    if lowest >= 0 and highest < n_vocab:
        return None
    culprit = lowest if lowest < 0 else highest
    return f"token id {culprit} is outside the vocabulary of {n_vocab}: encode with this model's tokenizer"


class Refusals:
    """What is refused of an engine's requests, until its next step delivers it."""

    def __init__(self, n_vocab: int, max_model_len: int) -> None:
        self._n_vocab = n_vocab
        self._max_model_len = max_model_len
        self._deltas: list[Delta] = []

    def refuses(self, request: Request) -> bool:
        """Whether the engine cannot decode what is requested; then it delivers an error, and opens nothing."""
        reason = self._reason(request)
        if reason is not None:
            self.add(request.seq_id, f"the sequence cannot be decoded: {reason}")
        return reason is not None

    def add(self, seq_id: int, error: str) -> None:
        """Deliver this of a sequence that is not open."""
        self._deltas.append(Delta(seq_id, [], "error", error))

    def forget(self, seq_id: int) -> None:
        """The sequence is closed, or opened again: nothing is said of it any more."""
        self._deltas = [delta for delta in self._deltas if delta.seq_id != seq_id]

    def take(self) -> list[Delta]:
        """What the step in progress delivers."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def _reason(self, request: Request) -> str | None:
        ids, max_length = request.token_ids, request.max_length
        if len(ids) == 0:
            return "its prompt has no tokens"
        if max_length > self._max_model_len:
            return (
                f"max_length {max_length} is beyond the context of {self._max_model_len} tokens:"
                " lower it, or raise max_model_len"
            )
        if max_length <= len(ids):
            return f"max_length {max_length} leaves no token to a prompt of {len(ids)}: raise it"
        return _foreign(ids, self._n_vocab)
