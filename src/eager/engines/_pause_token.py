"""Which token may stand for a branch: one that the model never gives."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_RESERVED = re.compile(
    r"reserved|unused|dummy|extra_id|special_|control_|fim|repo|file|gh_|jupyter|issue|pad", re.IGNORECASE
)
"""What tokens are called that stand in no chat: room for later, or of code repositories."""


def pause_token(n_vocab: int, n_known: int, added: Mapping[str, int], used: Collection[int]) -> int | None:
    """The id of a token that no text needs, and not one of those `used`; None where none is sure to be one.

    `n_vocab` rows of the model, of which the tokenizer knows the first `n_known`; `added`: what was added to those that
    it learned.
    """
    if n_known < n_vocab and n_vocab - 1 not in used:
        return n_vocab - 1  # padding: no text becomes it, so the model was never taught it
    found = (token for text, token in added.items() if _RESERVED.search(text) and token not in used)
    return min(found, default=None)
