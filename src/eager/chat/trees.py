"""The answer of a tree: grown within the budget, then one or all of its sequences."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from eager.api.answers import Vote
from eager.budget import ExtraRounds
from eager.chat.errors import ChatError
from eager.chat.news import FinishReason, News, Piece, Scored, Spent
from eager.chat.request import Asked, TreeAsked
from eager.chat.savings import Savings
from eager.chat.scoring import scored
from eager.chat.source import Source
from eager.chat.text import cut
from eager.chat.votes import Voter, settles
from eager.types import Generation, SequenceResult, Token, TreeJob
from eager.wire import Alive, Ended, Finished


class TreeAnswer:
    """One prompt's tree, with the extra trees that the budget pays for, and what of them is the answer."""

    def __init__(self, asked: Asked, want: TreeAsked, job: TreeJob, source: Source, voter: Voter) -> None:
        self._asked = asked
        self._want = want
        self._job = job
        self._source = source
        self._voter = voter
        self._settled_by = None if want.settle is None else settles(want.settle, want.vote, asked.stop)
        # Whether every sequence is an answer as soon as it has ended, and known well enough. In one object choices
        # stand by their numbers, whatever ended first.
        self._tells_early = (
            asked.stream
            and want.select == "all"
            and want.settle is None
            and want.rules.stop_after is None
            and asked.n_top is None
        )
        self._sequences: list[SequenceResult] = []  # of the finished trees
        self._told: list[int] = []  # their numbers, in the order of the choices

    async def news(self, savings: Savings | None) -> AsyncGenerator[News, None]:
        """The choices, and what each tree took. Raises ChatError where no sequence came to an end of its own."""
        n_most = self._want.rules.max_sequences
        n_own = n_most if savings is None else savings.begin(n_most)
        rules = replace(self._want.rules, max_sequences=n_own)
        async with aclosing(self._grown(replace(self._job, config=rules))) as grown:
            async for item in grown:
                yield item
        n_used = len(self._sequences)
        if savings is not None and n_used < n_own:
            savings.give_back(n_own - n_used)
        elif savings is not None and all(map(_is_whole, self._sequences)):
            rounds = ExtraRounds.of(savings.draw(n_most - n_own), n_used, rules)
            async with aclosing(self._extra(rounds)) as extra:
                async for item in extra:
                    yield item
        async for piece in self._choices():
            yield piece

    async def _extra(self, rounds: ExtraRounds) -> AsyncGenerator[News, None]:
        """A saturated tree gets what others left, as in EAGer-adapt: fresh trees until it has its share."""
        while not rounds.is_done:
            n_before = len(self._sequences)
            rules = rounds.next_rules(self._want.rules)
            job = replace(self._job, config=rules, first_sequence=n_before)
            async with aclosing(self._grown(job)) as grown:
                async for item in grown:
                    yield item
            rounds.finish_round(len(self._sequences) - n_before)

    async def _grown(self, job: TreeJob) -> AsyncGenerator[News, None]:
        """One tree, to its end."""
        offset = job.first_sequence
        async with aclosing(self._source.grow(job, self._settled_by)) as events:
            async for event in events:
                if isinstance(event, Alive):
                    yield event
                elif isinstance(event, Ended) and self._tells_early and _is_whole(event.sequence):
                    yield await self._choice(event.seq + offset, event.sequence, {})
                elif isinstance(event, Finished):
                    self._sequences += _whole_sequences(event.tree, offset)
                    yield Spent.on(event.tree, n_prompt=0 if offset else len(job.prompt_ids), is_extra=offset > 0)

    # -- what is the answer -------------------------------------------------------------------------------------------

    async def _choices(self) -> AsyncGenerator[Piece, None]:
        """Those that have not been told."""
        whole = [number for number, sequence in enumerate(self._sequences) if _is_whole(sequence)]
        if not whole:
            reasons = [sequence.error for sequence in self._sequences if sequence.error]
            raise ChatError(f"every sequence failed: {reasons[0] if reasons else 'the tree was cut'}", 500)
        about: Mapping[str, Any] = {}
        if self._want.select == "majority":
            vote = await self._vote(whole)
            chosen, about = [whole[vote.sequence or 0]], _in_words(vote)
        else:
            chosen = whole[:1] if self._want.select == "first" else whole
        for number in chosen:
            if number not in self._told:
                yield await self._choice(number, self._sequences[number], about)

    async def _vote(self, whole: list[int]) -> Vote:
        """Among the sequences that came to an end of their own. In a thread: Math-Verify takes its time."""
        texts = await self._source.texts([self._ids(self._sequences[number]) for number in whole])
        answers = [cut(text, self._asked.stop)[0] for text in texts]
        return await asyncio.to_thread(self._voter.vote, answers, self._want.vote)

    async def _choice(self, number: int, sequence: SequenceResult, about: Mapping[str, Any]) -> Piece:
        ids = self._ids(sequence)
        text, was_cut = cut((await self._source.texts([ids]))[0], self._asked.stop)
        reason: FinishReason = "length" if sequence.finish_reason == "length" and not was_cut else "stop"
        lineage = {"sequence": number, "parent": sequence.parent, "fork": sequence.fork}
        # Several prompts have one choice each, one prompt may have many: their numbers follow the order of telling.
        index = self._job.prompt_index + len(self._told)
        self._told.append(number)
        return Piece(index, text, reason, await self._scored(ids, sequence), {**lineage, **about})

    async def _scored(self, ids: list[int], sequence: SequenceResult) -> list[Scored]:
        if self._asked.n_top is None:
            return []
        logprobs = sequence.logprobs or (None,) * len(ids)
        return await scored(self._source, [Token(i, logprob=logprobs[place]) for place, i in enumerate(ids)], 0)

    def _ids(self, sequence: SequenceResult) -> list[int]:
        """Its tokens without the stop token, which is no text."""
        return [i for i in sequence.token_ids if i not in self._source.stops.stop_ids]


def _is_whole(sequence: SequenceResult) -> bool:
    return sequence.finish_reason in ("stop", "length")


def _whole_sequences(tree: Generation, offset: int) -> Iterator[SequenceResult]:
    """The tree's sequences, numbered behind `offset` earlier ones, each with its parents' log-probabilities, too."""
    logprobs: list[tuple[float | None, ...]] = []
    for sequence in tree.sequences:
        inherited = () if sequence.parent is None else logprobs[sequence.parent][: sequence.fork]
        logprobs.append((*inherited, *sequence.logprobs[len(inherited) :]))
        parent = None if sequence.parent is None else sequence.parent + offset
        yield replace(sequence, parent=parent, logprobs=logprobs[-1])


def _in_words(vote: Vote) -> dict[str, Any]:
    """The vote as the choice tells it: the answers with their votes by first appearance."""
    votes = Counter(group for group in vote.groups if group is not None)
    named = {group: answer for answer, group in reversed(list(zip(vote.answers, vote.groups, strict=True)))}
    return {
        "answer": vote.answer,
        "n_votes": vote.n_votes,
        "n_voters": vote.n_voters,
        "is_tie": vote.is_tie,
        "certainty": round(vote.certainty, 6),
        "votes": [{"answer": named[group], "n_votes": n_votes} for group, n_votes in votes.items()],
    }
