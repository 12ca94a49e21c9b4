"""By answers that agree: trees of EAGer-init that end, and the prompts that EAGer-vote gives another tree."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import reduce

from eager.branching import IsSettled
from eager.budget import is_open, majority_certainty, vote_shares
from eager.recording import Recorder
from eager.results.experiment import Experiment
from eager.results.scores import Regrader
from eager.store.journal import Journal
from eager.store.records import PromptRecord, merged
from eager.types import SequenceResult


def settles(certainty: float, recorder: Recorder, regrader: Regrader, index: int) -> IsSettled:
    """Whether the answers of a tree's ended sequences are that certain of the vote of prompt `index`."""

    def is_settled(ended: Seq[SequenceResult]) -> bool:
        answers = [recorder.answer(sequence, index) for sequence in ended]
        return majority_certainty(regrader.group(answers)) >= certainty

    return is_settled


class Voting:
    """The votes of all prompts, from a finished `eager_init` on.

    The trees of an unfinished prompt lie in the journal as parts, each under the number of its first sequence: so a run
    that goes on meets every round as it was. Only answers are kept in memory.
    """

    def __init__(
        self,
        journal: Journal,
        experiment: Experiment,
        regrader: Regrader,
        max_sequences: int,
        settled: float,
        most: int | None = None,
    ) -> None:
        """`experiment` is the eager_vote whose base is finished; its prompts may have `most` sequences: None, M * N."""
        self._journal = journal
        self._name = experiment.name
        self._base = Experiment("eager_init", experiment.threshold).name
        self._regrader = regrader
        self._max_sequences = max_sequences
        self._settled = settled
        self._most = most
        self._answers: dict[int, list[str | None]] = {}  # by prompt index, as all of these
        self._groups: dict[int, list[int | None]] = {}
        for record in map(regrader.grouped, journal.records(self._base)):
            self._answers[record.prompt_index] = [sequence.answer for sequence in record.sequences]
            self._groups[record.prompt_index] = [sequence.group for sequence in record.sequences]
        self._used = {index: len(answers) for index, answers in self._answers.items()}
        self._parts: dict[int, list[int]] = {index: [] for index in self._answers}

    def next_round(self) -> dict[int, int]:
        """How many sequences each prompt may have now; {} where nobody may have any."""
        indices = list(self._groups)
        groups, used = list(self._groups.values()), list(self._used.values())
        shares = vote_shares(groups, used, self._max_sequences, self._settled, self._most)
        return {indices[place]: share for place, share in shares.items()}

    def is_open(self, index: int) -> bool:
        """Whether the prompt may still be given something."""
        return is_open(self._groups[index], self._used[index], self._max_sequences, self._settled)

    def n_init(self, index: int) -> int:
        """How many eager_init made."""
        return self._used[index]

    def n_sequences(self, index: int) -> int:
        """How many the prompt has: the number of the next one."""
        return len(self._answers[index])

    def recorded(self, index: int) -> PromptRecord | None:
        """The prompt's next tree, where an earlier run has grown it."""
        return self._journal.part(self._name, index, self.n_sequences(index), base=self._base)

    def count(self, index: int, tree: PromptRecord) -> None:
        """Let the prompt's next tree, which is in the journal by now, vote."""
        self._parts[index].append(self.n_sequences(index))
        self._answers[index] += [sequence.answer for sequence in tree.sequences]
        self._groups[index] = self._regrader.group(self._answers[index])

    def whole(self, index: int, empty: PromptRecord) -> PromptRecord:
        """The prompt's extra sequences: all its trees after the `empty` record."""
        trees = (self._journal.part(self._name, index, first, base=self._base) for first in self._parts[index])
        return reduce(merged, (tree for tree in trees if tree is not None), empty)
