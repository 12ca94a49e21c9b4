"""What sequences answer: the vote among a tree's, and a grader that knows the right answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass
from types import TracebackType

from eager.api.errors import ApiError
from eager.api.trees import Sequence, Tree
from eager.budget import majority_certainty
from eager.grading import AnswerKind, Fallback, MathGrader, extract_answer, grade
from eager.metrics import GradedPrompt, leading_groups
from eager.results.scores import Regrader


@dataclass(frozen=True, slots=True)
class Vote:
    """What a tree's sequences answer by majority; a draw goes to the answer that appears first.

    `sequence` is the first one that gives the majority's `answer`; both are None where none gives any. `answers` and
    `groups` run parallel to the tree's sequences: what each answers, and the class of equivalent answers that it
    belongs to. `certainty` is how certain it is that the lead is the model's most likely answer (0.5: nobody leads).
    `problem` says why equal texts were counted instead, where Math-Verify was needed and missing.
    """

    answer: str | None
    sequence: int | None
    n_votes: int
    n_voters: int
    is_tie: bool
    certainty: float
    answers: tuple[str | None, ...]
    groups: tuple[int | None, ...]
    problem: str | None = None


def vote(
    tree: Tree, *, kind: AnswerKind = "math", fallback: Fallback = "none", grader: MathGrader | None = None
) -> Vote:
    r"""The majority among the answers of a tree's sequences, equivalent ones counted as one (0.5 and \frac{1}{2}).

    `kind` and `fallback` say where an answer stands in a text (docs/grading.md). With a `grader` many votes share one
    Math-Verify process. Sequences that failed or were cut do not vote.
    """
    if kind == "code":
        raise ApiError("programs cannot be compared: vote over answers of kind 'math' or 'choice'")
    answers = [_answer(sequence, kind, fallback) for sequence in tree.sequences]
    if grader is not None:
        return _voted(answers, Regrader(grader))
    with MathGrader() as own:
        return _voted(answers, Regrader(own))


def _voted(answers: Seq[str | None], regrader: Regrader) -> Vote:
    return counted(answers, regrader.group(answers), regrader.fallback)


def _answer(sequence: Sequence, kind: AnswerKind, fallback: Fallback) -> str | None:
    is_whole = sequence.finish_reason not in ("error", "cut")
    return extract_answer(sequence.text, kind, fallback, strict=True) if is_whole else None


def counted(answers: Seq[str | None], groups: Seq[int | None], problem: str | None = None) -> Vote:
    """The vote among answers whose classes are known."""
    leading = leading_groups(GradedPrompt((None,) * len(groups), tuple(groups)))
    votes = Counter(group for group in groups if group is not None)
    first = groups.index(leading[0]) if leading else None
    return Vote(
        answer=None if first is None else answers[first],
        sequence=first,
        n_votes=votes[leading[0]] if leading else 0,
        n_voters=votes.total(),
        is_tie=len(leading) > 1,
        certainty=majority_certainty(groups),
        answers=tuple(answers),
        groups=tuple(groups),
        problem=problem,
    )


class AnswerGrader:
    """A grader for `allocate`: whether a sequence gives its prompt's right answer. A context manager.

    `targets` are by prompt, in the order of the prompts or by their indices; None where nobody knows. Answers that the
    cheap rules cannot compare need Math-Verify: GradingUnavailable without it.
    """

    def __init__(
        self,
        targets: Seq[str | None] | Mapping[int, str | None],
        *,
        kind: AnswerKind = "math",
        fallback: Fallback = "none",
    ) -> None:
        if kind == "code":
            raise ApiError("programs are graded by running them: give a grader of your own")
        self._targets = targets if isinstance(targets, Mapping) else dict(enumerate(targets))
        self._kind: AnswerKind = kind
        self._fallback: Fallback = fallback
        self._grader = MathGrader()

    def __call__(self, tree: Tree, sequence: Sequence) -> bool | None:
        target = self._targets.get(tree.prompt_index)
        return grade(sequence.text, target, self._kind, self._grader, self._fallback).correct

    def __enter__(self) -> AnswerGrader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._grader.close()
