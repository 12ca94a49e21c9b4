"""From finished trees to what is kept of a prompt: texts, answers, grades, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence as Seq
from dataclasses import replace

from eager.engines import Engine
from eager.grading import Graded, MathGrader
from eager.store.records import PromptRecord, SequenceRecord
from eager.tasks import LoadedTask, Problem
from eager.types import Branch, Generation, SequenceResult

# Text kept with a branch, as published: so many characters, and more tokens than they can be.
_CHARACTERS_BEFORE, _TOKENS_BEFORE = 50, 200


class Clock:
    """Shares out the wall time among the lines of the journal."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        last, self._last = self._last, time.monotonic()
        return self._last - last


class Recorder:
    """Makes the records of a task's prompts; `prompts` are their token ids, by index."""

    def __init__(self, engine: Engine, task: LoadedTask, prompts: Mapping[int, Seq[int]], grader: MathGrader) -> None:
        self._engine = engine
        self._task = task
        self._prompts = prompts
        self._grader = grader

    def record(self, name: str, index: int, trees: Seq[Generation], first_sequence: int) -> PromptRecord:
        """The prompt's record in experiment `name`; its sequences are numbered from `first_sequence`."""
        problem = self._task.problems[index]
        prompt_text = self._engine.decode(self._prompts[index])
        sequences: list[SequenceRecord] = []
        branches: list[Branch] = []
        for tree in trees:
            offset = first_sequence + len(sequences)
            pairs = zip(tree.branches, tree.children, strict=True)
            branches.extend(self._with_text(branch, child, offset, prompt_text) for branch, child in pairs)
            sequences.extend(self._sequence_record(sequence, problem, offset) for sequence in tree.sequences)
        return PromptRecord(
            experiment=name,
            prompt_index=index,
            prompt=problem.prompt,
            prompt_text=prompt_text,
            target=problem.target,
            sequences=tuple(sequences),
            branches=tuple(branches),
            n_recomputed=sum(tree.recomputed for tree in trees),
            n_discarded=sum(tree.discarded for tree in trees),
            meta=dict(problem.meta),
        )

    def answer(self, sequence: SequenceResult, index: int) -> str | None:
        """What a sequence of prompt `index` answers, whatever is right."""
        problem = replace(self._task.problems[index], target=None)
        return self._task.grade(self._own_text(sequence), problem, self._grader).answer

    def _own_text(self, sequence: SequenceResult) -> str:
        tokens = sequence.token_ids
        if tokens and tokens[-1] in self._engine.stops.stop_ids:
            tokens = tokens[:-1]
        return self._engine.decode(tokens)

    def _sequence_record(self, sequence: SequenceResult, problem: Problem, offset: int) -> SequenceRecord:
        text = self._own_text(sequence)
        graded = Graded(None, None)
        if sequence.finish_reason not in ("error", "cut"):
            graded = self._task.grade(text, problem, self._grader)
        return SequenceRecord(
            token_ids=sequence.token_ids[sequence.fork :],
            entropies=sequence.entropies[sequence.fork :],
            text=text,
            finish_reason=sequence.finish_reason,
            parent=_shifted(sequence.parent, offset),
            fork=sequence.fork,
            answer=graded.answer,
            correct=graded.correct,
            error=sequence.error,
            lenient=None if graded.lenient is None else graded.lenient.correct,
        )

    def _with_text(self, branch: Branch, child: SequenceResult, offset: int, prompt_text: str) -> Branch:
        """The branch as the record has it: numbered among the prompt's sequences, its tokens as text."""
        before = self._engine.decode(child.token_ids[max(0, branch.position - _TOKENS_BEFORE) : branch.position])
        return replace(
            branch,
            seq=_shifted(branch.seq, offset),
            new_seq=_shifted(branch.new_seq, offset),
            sampled_token=self._text(branch.sampled_id),
            kept_token=self._text(branch.kept_id),
            new_token=self._text(branch.new_id),
            text_before=(prompt_text + before)[-_CHARACTERS_BEFORE:],
        )

    def _text(self, token_id: int | None) -> str | None:
        return None if token_id is None else self._engine.decode([token_id])


def _shifted(seq: int | None, offset: int) -> int | None:
    return None if seq is None else seq + offset
