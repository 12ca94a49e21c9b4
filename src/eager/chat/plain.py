"""Plain samples of a prompt, told as they come where the answer is streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence as Seq
from contextlib import aclosing

from eager.chat.errors import ChatError
from eager.chat.news import FinishReason, News, Piece, Scored, Spent
from eager.chat.request import Asked
from eager.chat.scoring import scored
from eager.chat.source import Decoded, Source
from eager.chat.text import TextStream
from eager.types import SequenceResult, Token, TreeJob
from eager.wire import Alive, Ended, Finished


async def samples(asked: Asked, job: TreeJob, source: Source, first_index: int) -> AsyncGenerator[News, None]:
    """The prompt's samples as choices from `first_index` on. Raises ChatError where one fails."""
    told = [_Sample(asked, source, first_index + i) for i in range(job.n_roots)]
    events = source.grow(job, tell_tokens=asked.stream or asked.n_top is not None)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Decoded):
                for piece in await _next_pieces(source, told, event.tokens):
                    yield piece
            elif isinstance(event, Ended):
                yield await told[event.seq].end(event.sequence)
            elif isinstance(event, Alive):
                yield event
            elif isinstance(event, Finished):
                yield Spent.on(event.tree, n_prompt=len(job.prompt_ids))


class _Sample:
    """One choice, of which a part may have been told."""

    def __init__(self, asked: Asked, source: Source, index: int) -> None:
        self._asked = asked
        self._source = source
        self._index = index
        self._n_told = 0
        self._untold: list[Token] = []  # of which log-probabilities are wanted
        self.text = TextStream(asked.stop)

    def add(self, tokens: Seq[Token]) -> None:
        """More of it, the stop token left out: it is no text."""
        kept = [token for token in tokens if token.id not in self._source.stops.stop_ids]
        self._n_told += len(kept)
        self.text.add([token.id for token in kept])
        self._untold += kept if self._asked.n_top is not None else ()

    async def piece(self, text: str) -> Piece:
        return Piece(self._index, text, scored=await self._scored())

    async def end(self, sequence: SequenceResult) -> Piece:
        """The rest of it."""
        if sequence.finish_reason == "error":
            raise ChatError(f"a sample failed: {sequence.error}", 500)
        ids = [i for i in sequence.token_ids if i not in self._source.stops.stop_ids]
        self.text.add(ids[self._n_told :])
        text = self.text.end(*await self._source.texts(self.text.windows))
        reason: FinishReason = "length" if sequence.finish_reason == "length" and not self.text.is_over else "stop"
        return Piece(self._index, text, reason, await self._scored())

    async def _scored(self) -> list[Scored]:
        tokens, self._untold = self._untold, []
        return await scored(self._source, tokens, self._asked.n_top or 0) if tokens else []


async def _next_pieces(source: Source, told: Seq[_Sample], tokens: Mapping[int, Seq[Token]]) -> list[Piece]:
    """What there is to tell of those that have new tokens, with one question to the source for all of them."""
    for seq, new in tokens.items():
        told[seq].add(new)
    windows = [window for seq in tokens for window in told[seq].text.windows]
    texts = iter(await source.texts(windows))
    shown = {seq: told[seq].text.take(next(texts), next(texts)) for seq in tokens}
    return [await told[seq].piece(text) for seq, text in shown.items() if text]
