"""From finished trees to what is kept of a prompt: texts, answers, grades, seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence as Seq
from dataclasses import replace

from eager.engines import Engine
from eager.grading import Graded, MathGrader
from eager.store.records import PromptRecord, SequenceRecord
from eager.tasks import LoadedTask, Problem
from eager.texts import shifted, text_of, with_text
from eager.types import Branch, Generation, SequenceResult


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
            branches.extend(with_text(self._engine, branch, child, offset, prompt_text) for branch, child in pairs)
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
        return self._task.grade(text_of(self._engine, sequence), problem, self._grader).answer

    def _sequence_record(self, sequence: SequenceResult, problem: Problem, offset: int) -> SequenceRecord:
        text = text_of(self._engine, sequence)
        graded = Graded(None, None)
        if sequence.finish_reason not in ("error", "cut"):
            graded = self._task.grade(text, problem, self._grader)
        return SequenceRecord(
            token_ids=sequence.token_ids[sequence.fork :],
            entropies=sequence.entropies[sequence.fork :],
            text=text,
            finish_reason=sequence.finish_reason,
            parent=shifted(sequence.parent, offset),
            fork=sequence.fork,
            answer=graded.answer,
            correct=graded.correct,
            error=sequence.error,
            lenient=None if graded.lenient is None else graded.lenient.correct,
        )
