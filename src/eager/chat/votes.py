"""The vote among the texts of a tree: where an answer stands in them, and which answers are one."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from functools import partial
from typing import TypeAlias

from eager.api.answers import Vote, counted
from eager.budget import majority_certainty
from eager.chat.tables import VoteKind
from eager.chat.text import cut
from eager.grading import MathGrader, extract_answer, same_answer
from eager.grading.extract import after_thinking
from eager.results.scores import Regrader

SettledBy: TypeAlias = Callable[[Seq[str]], bool]
"""Whether the texts of a tree that have ended are enough for it to end."""

_MOST_REMEMBERED = 20_000


def _whole(text: str) -> str | None:
    """What was said after thinking, by its words."""
    return " ".join(after_thinking(text).split()) or None


_BOXED, _NUMBER = partial(extract_answer, kind="math"), partial(extract_answer, kind="math", fallback="last_number")
_LETTER = partial(extract_answer, kind="choice", strict=True)
_SAID_LETTER = partial(extract_answer, kind="choice")
_WAYS: dict[VoteKind, tuple[Callable[[str], str | None], ...]] = {
    "math": (_BOXED, _NUMBER),
    "choice": (_LETTER, _SAID_LETTER),
    "text": (),
}


def answers_in(texts: Seq[str | None], kind: VoteKind) -> tuple[list[str | None], bool]:
    """What each text answers, and whether these are the whole texts.

    By the first way in which any of them answers at all: a box before a number that is only said, for all alike; whole
    texts where none of them has either. None: nothing, as of a sequence without a text.
    """
    for find in _WAYS[kind]:
        found = [None if text is None else find(text) for text in texts]
        if any(answer is not None for answer in found):
            return found, False
    return [None if text is None else _whole(text) for text in texts], True


class Voter:
    """Counts votes, with Math-Verify in a process of its own where answers need it. Threads take turns."""

    def __init__(self) -> None:
        self._grader = MathGrader()
        self._regrader = Regrader(self._grader)

    def vote(self, texts: Seq[str | None], kind: VoteKind) -> Vote:
        """The majority among the texts; takes a second where Math-Verify has to start."""
        answers, are_whole = answers_in(texts, kind)
        if are_whole:
            return counted(answers, _grouped(answers, str.__eq__))
        vote = counted(answers, self._regrader.group(answers), self._regrader.fallback)
        if self._grader.outcomes.total() > _MOST_REMEMBERED:
            self._grader.forget()
        return vote

    def close(self) -> None:
        self._grader.close()


def settles(certainty: float, kind: VoteKind, stops: Seq[str]) -> SettledBy:
    """Whether the majority is that certain, texts cut at `stops`.

    It is asked while all trees wait, so that equal answers are those that cheap rules see as equal.
    """

    def is_settled(texts: Seq[str]) -> bool:
        answers, are_whole = answers_in([cut(text, stops)[0] for text in texts], kind)
        groups = _grouped(answers, str.__eq__ if are_whole else lambda a, b: same_answer(a, b) is True)
        return majority_certainty(groups) >= certainty

    return is_settled


def _grouped(answers: Seq[str | None], is_same: Callable[[str, str], bool]) -> list[int | None]:
    """The classes of equal answers, numbered from 0 by first appearance."""
    firsts: list[str] = []
    groups: list[int | None] = []
    for answer in answers:
        if answer is None:
            groups.append(None)
            continue
        group = next((i for i, first in enumerate(firsts) if is_same(first, answer)), len(firsts))
        if group == len(firsts):
            firsts.append(answer)
        groups.append(group)
    return groups
