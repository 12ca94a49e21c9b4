"""Answers a request on a source: plain samples as they come, or of trees what was selected."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from eager.chat.errors import ChatError
from eager.chat.merging import merged
from eager.chat.news import News, Spent
from eager.chat.plain import samples
from eager.chat.request import Asked, Prompt
from eager.chat.savings import Savings
from eager.chat.source import Source
from eager.chat.trees import TreeAnswer
from eager.chat.votes import Voter
from eager.types import MAX_ENTROPY, BranchConfig, TreeJob
from eager.words import one_line

_SEED_BITS = 63


async def answered(asked: Asked, source: Source, voter: Voter, savings: Savings | None) -> AsyncGenerator[News, None]:
    """All that comes of it, what it took last. Closed or cancelled, everything of it ends at once.

    Raises ChatError, before anything comes, for what this model cannot do, and later for an answer that failed;
    EngineError where the source fails.
    """
    _check(asked, source)
    seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
    jobs = [await _job(asked, prompt, place, seed, source) for place, prompt in enumerate(asked.prompts)]
    if asked.tree is None:
        streams = [samples(asked, job, source, job.prompt_index * asked.n) for job in jobs]
    else:
        streams = [TreeAnswer(asked, asked.tree, job, source, voter).news(savings) for job in jobs]
    spent = Spent()
    async with aclosing(merged(streams)) as all_news:
        async for news in all_news:
            if isinstance(news, Spent):
                spent += news
            else:
                yield news
    yield spent


def _check(asked: Asked, source: Source) -> None:
    if asked.model != source.model_name:
        raise no_model(asked.model, source)
    reason = source.why_not(asked)
    if reason is not None:
        raise ChatError(reason)


def no_model(name: str, source: Source) -> ChatError:
    """What to raise where another model is asked for."""
    message = f"there is no model '{one_line(name, 80)}' here: ask for '{source.model_name}'"
    return ChatError(message, 404, param="model", code="model_not_found")


async def _job(asked: Asked, prompt: Prompt, place: int, seed: int, source: Source) -> TreeJob:
    """The tree of one of the prompts. Several draw differently, also where they are the same."""
    ids = tuple(await source.encode(prompt))
    most, param = source.max_model_len, "messages" if asked.operation == "chat" else "prompt"
    if len(ids) >= most:
        message = f"the prompt has {len(ids)} tokens, and the context holds {most} with the answer: shorten it"
        raise ChatError(message, param=param, code="context_length_exceeded")
    if not ids:
        raise ChatError("the prompt has no tokens: give some text", param=param)
    return TreeJob(
        prompt_index=place,
        prompt_ids=ids,
        config=BranchConfig(asked.n, MAX_ENTROPY) if asked.tree is None else asked.tree.rules,
        sampling=asked.sampling,
        max_length=most if asked.max_tokens is None else min(most, len(ids) + asked.max_tokens),
        seed=seed,
        n_roots=asked.n,
        record_entropies=asked.n_top is not None,
        stop_texts=asked.stop,
    )
