"""From finished trees to what is kept of a prompt: texts, answers, grades, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
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
    """Makes the records of one task's prompts; `prompts` are their token ids."""

    def __init__(self, engine: Engine, task: LoadedTask, prompts: Seq[tuple[int, ...]], grader: MathGrader) -> None:
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


def text_of(engine: Engine, sequence: SequenceResult) -> str:
    """All that was generated, without the stop token."""
    tokens = sequence.token_ids
    if tokens and tokens[-1] in engine.stops.stop_ids:
        tokens = tokens[:-1]
    return engine.decode(tokens)


def with_tokens(engine: Engine, branch: Branch, offset: int) -> Branch:
    """The branch with its tokens as text, and numbered among the prompt's sequences: its tree's begin at `offset`."""

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else engine.decode([token_id])

    return replace(
        branch,
        seq=shifted(branch.seq, offset),
        new_seq=shifted(branch.new_seq, offset),
        sampled_token=text(branch.sampled_id),
        kept_token=text(branch.kept_id),
        new_token=text(branch.new_id),
    )


def with_text(engine: Engine, branch: Branch, child: SequenceResult, offset: int, prompt_text: str) -> Branch:
    """The same with what stood before the branch, the prompt included."""
    before = engine.decode(child.token_ids[max(0, branch.position - _TOKENS_BEFORE) : branch.position])
    return replace(with_tokens(engine, branch, offset), text_before=(prompt_text + before)[-_CHARACTERS_BEFORE:])


def shifted(seq: int | None, offset: int) -> int | None:
    """The number of a tree's sequence among those of its prompt."""
    return None if seq is None else seq + offset
