"""Log-probabilities as they are shown: tokens as texts."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from eager.chat.news import Scored
from eager.chat.source import Source
from eager.types import Token


async def scored(source: Source, tokens: Seq[Token], n_top: int) -> list[Scored]:
    """Each token with its own log-probability and the `n_top` highest of its place."""
    ids = list(dict.fromkeys(i for token in tokens for i in (token.id, *token.best_ids[:n_top])))
    texts = dict(zip(ids, await source.texts([[i] for i in ids]), strict=True))
    return [
        Scored(
            texts[token.id],
            token.logprob_of(token.id),
            [
                (texts[i], logprob)
                for i, logprob in zip(token.best_ids[:n_top], token.best_logprobs[:n_top], strict=True)
            ],
        )
        for token in tokens
    ]
