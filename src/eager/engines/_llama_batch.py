"""What a step of the llama.cpp engine feeds to the model, and its cutting into batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from eager.types import Request


@dataclass(slots=True, eq=False)
class LlamaSequence:
    """A sequence in decoding, waiting (`slot` None) or just ended. `tokens` beyond the slot's cells are to be fed."""

    request: Request
    tokens: list[int]
    monitor: bool
    is_continued: bool  # a fork, or back after a preemption: what it feeds again counts as recomputed
    slot: int | None = None
    recomputed: int = 0

    @property
    def seq_id(self) -> int:
        return self.request.seq_id

    @property
    def held_slot(self) -> int:
        """The slot of a sequence that must have one."""
        if self.slot is None:
            raise RuntimeError(f"sequence {self.seq_id} has no slot")
        return self.slot


@dataclass(slots=True)
class Feed:
    """What a step feeds for one sequence: `tokens[start:end]`; logits are wanted where that reaches the last token."""

    sequence: LlamaSequence
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        return self.end == len(self.sequence.tokens)


def in_batches(feeds: list[Feed], batch_size: int) -> Iterator[list[Feed]]:
    """Cut the feeds into batches of nearly equal size, so that none is left with a lone token."""
    n_tokens = sum(feed.end - feed.start for feed in feeds)
    n_batches = math.ceil(n_tokens / batch_size)
    borders = [n_tokens * (i + 1) // n_batches for i in range(n_batches)]
    batch: list[Feed] = []
    done = 0
    for feed in feeds:
        while feed.start < feed.end:
            n_taken = min(feed.end - feed.start, borders[0] - done)
            batch.append(Feed(feed.sequence, feed.start, feed.start + n_taken))
            done, feed.start = done + n_taken, feed.start + n_taken
            if done == borders[0]:
                yield batch
                batch = []
                borders.pop(0)
