"""Where a model's thinking section ends, read off its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq

# The second is gpt-oss, which answers in harmony's channels: thinking is over where the channel "final" starts.
_MARKERS = (("</think>",), ("<|channel|>", "final", "<|message|>"))


def thinking_end_ids(encode: Callable[[str], Seq[int]]) -> tuple[int, ...]:
    """The run of ids that ends thinking, () for a model that has no such marker.

    `encode` must read special tokens in its text. A marker counts only where each of its parts is one token: one
    that falls apart into pieces is ordinary text to the model.
    """
    for parts in _MARKERS:
        ids = tuple(encode("".join(parts)))
        if len(ids) == len(parts):
            return ids
    return ()
