"""Grades the code in one output folder and writes the grades back: into the journal, or into published result files."""

from __future__ import annotations

import json
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from eager.code_eval import Checker, CodeEvalError, CodeProblem, Verdict
from eager.grading import MathGrader
from eager.metrics import Summary
from eager.results import EXTRA_KINDS, experiment_name, split_name, write_experiment
from eager.store import JOURNAL_NAME, Journal, PromptRecord, replacing

BACKUP = ".before-eval"
SIDECAR = ".code.jsonl"

# None: the sequence failed before it was an answer (an engine's error), or its problem is not EvalPlus's.
Verdicts = Seq[Verdict | None]
# A prompt's problem, and what each of its sequences says; None is not to be graded.
Texts = tuple[CodeProblem | None, Seq[str | None]]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment after grading; the counts are over its graded sequences."""

    path: Path
    scores: Summary
    n_base: int
    n_plus: int
    reasons: Counter[str]


@dataclass
class Grading:
    """How to grade, and what a reader should know: `problems` gathers a sentence for all that could not be graded."""

    checker: Checker
    n_workers: int
    say: Callable[[str, int, int], None]
    problems: list[str] = field(default_factory=list)

    def each(
        self, name: str, n_items: int, items: Iterable[Item], texts: Callable[[Item], Texts]
    ) -> Iterator[tuple[Item, Verdicts]]:
        """Every item with the verdicts on its texts, in order; several texts at once, few items in memory."""
        waiting: deque[tuple[Item, list[Future[Verdict] | None]]] = deque()
        n_done = 0
        with ThreadPoolExecutor(self.n_workers) as pool:
            try:
                for item in items:
                    waiting.append((item, self._submit(pool, *texts(item))))
                    if len(waiting) > 2 * self.n_workers:
                        yield _finished(waiting)
                        n_done += 1
                        self.say(name, n_done, n_items)
                while waiting:
                    yield _finished(waiting)
                    n_done += 1
                    self.say(name, n_done, n_items)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, problem: CodeProblem | None, texts: Seq[str | None]
    ) -> list[Future[Verdict] | None]:
        if problem is None:
            return [None] * len(texts)
        return [None if text is None else pool.submit(self.checker.check_text, problem, text) for text in texts]

    def find(self, place: str, meta: Any, prompt: str) -> CodeProblem | None:
        """The problem of one prompt; what is none of EvalPlus's is noted."""
        problem = self.checker.problems.find(meta if isinstance(meta, Mapping) else {}, prompt)
        if problem is None:
            self.problems.append(f"{place} is none of the problems: left ungraded")
        return problem


def grade_folder(folder: Path, wanted: Seq[str], grading: Grading) -> list[Outcome]:
    """Grade the experiments named in `wanted` (all if empty). CodeEvalError or StoreError where that is impossible."""
    if (folder / JOURNAL_NAME).is_file():
        return _grade_journal(folder, wanted, grading)
    from eager.cli.code_published import grade_published

    return grade_published(folder, wanted, grading)


def _grade_journal(folder: Path, wanted: Seq[str], grading: Grading) -> list[Outcome]:
    """Grades go to the journal prompt by prompt; the result files are made from it at the end."""
    settings = Journal(folder).settings
    journal = Journal(folder, settings)  # locks the folder
    try:
        graded = {name: _grade_records(journal, name, grading) for name in _with_bases(journal, folder, wanted)}
        if not any(graded.values()):
            raise CodeEvalError(f"'{folder}' holds no HumanEval+ prompt: give a run of evalplus/humanevalplus")
        with MathGrader() as grader:
            return [
                _rewrite(journal, name, graded, grader)
                for name in journal.experiments()
                if name in graded or _base(name) in graded
            ]
    finally:
        journal.close()


def _with_bases(journal: Journal, folder: Path, wanted: Seq[str]) -> list[str]:
    """The experiments to grade: what `eager` and `eager_adapt` build on comes with them."""
    there = journal.experiments()
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise CodeEvalError(f"'{folder}' has no experiment '{unknown[0]}': choose from {', '.join(there) or 'none'}")
    chosen = {*(wanted or there)}
    chosen |= {_base(name) for name in chosen}
    return [name for name in there if name in chosen]


def _base(experiment: str) -> str:
    kind, threshold = split_name(experiment)
    return experiment_name("eager_init", threshold) if kind in EXTRA_KINDS and threshold is not None else experiment


def _grade_records(journal: Journal, experiment: str, grading: Grading) -> dict[int, tuple[str, Verdicts]]:
    """Task and verdicts on the experiment's own sequences by prompt; empty where no prompt is EvalPlus's."""

    def texts(record: PromptRecord) -> Texts:
        place = f"'{journal.folder}', {experiment}, prompt {record.prompt_index}"
        problem = grading.find(place, record.meta, record.prompt)
        return problem, [s.text if s.finish_reason != "error" else None for s in record.sequences]

    graded: dict[int, tuple[str, Verdicts]] = {}
    n_records = journal.count(experiment)
    for record, verdicts in grading.each(experiment, n_records, journal.records(experiment), texts):
        problem = grading.checker.problems.find(record.meta, record.prompt)
        if problem is not None:
            answers = [answer(verdict) or None for verdict in verdicts]
            journal.append_grades(experiment, record.prompt_index, answers, [is_correct(v) for v in verdicts])
            graded[record.prompt_index] = (problem.task_id, verdicts)
    return graded


def _rewrite(
    journal: Journal, experiment: str, graded: Mapping[str, Mapping[int, tuple[str, Verdicts]]], grader: MathGrader
) -> Outcome:
    """The result file and its sidecar; an experiment lists the sequences of the one that it builds on first."""
    path = journal.folder / f"{experiment}.json"
    keep_original(path)
    result = write_experiment(journal, experiment, grader)
    parts = [graded[name] for name in dict.fromkeys((_base(experiment), experiment)) if name in graded]
    lines: list[tuple[int, str, Verdicts]] = []
    for index in journal.prompts(experiment):
        held = [part[index] for part in parts if index in part]
        if held:
            lines.append((index, held[0][0], [verdict for _, verdicts in held for verdict in verdicts]))
    return finish(path, result.scores, lines)


def answer(verdict: Verdict | None) -> str:
    """As `extracted_answers` has it."""
    return "" if verdict is None else "1" if verdict.is_correct else "0"


def is_correct(verdict: Verdict | None) -> bool | None:
    return None if verdict is None else verdict.is_correct


def keep_original(path: Path) -> None:
    """Keep `path` as it was before its first evaluation."""
    backup = path.with_name(path.name + BACKUP)
    if path.is_file() and not backup.exists():
        copy = backup.with_name(f".{backup.name}.part")  # byte for byte, and whole or not at all
        shutil.copyfile(path, copy)
        copy.replace(backup)


def finish(path: Path, scores: Summary, lines: Seq[tuple[int, str, Verdicts]]) -> Outcome:
    """Write the sidecar of the result file `path`: a line a graded sequence. `lines`: prompt index, task, verdicts."""
    verdicts = [verdict for _, _, found in lines for verdict in found if verdict is not None]
    with replacing(path.with_name(path.stem + SIDECAR)) as file:
        for index, task, found in lines:
            for sequence, verdict in enumerate(found):
                if verdict is not None:
                    head = {"task": task, "prompt_index": index, "sequence": sequence}
                    file.write(json.dumps({**head, **asdict(verdict)}) + "\n")
    return Outcome(
        path=path,
        scores=scores,
        n_base=sum(verdict.base for verdict in verdicts),
        n_plus=sum(verdict.is_correct for verdict in verdicts),
        reasons=Counter(verdict.reason for verdict in verdicts if verdict.reason is not None),
    )


def _finished(waiting: deque[tuple[Item, list[Future[Verdict] | None]]]) -> tuple[Item, Verdicts]:
    item, futures = waiting.popleft()
    return item, [None if future is None else future.result() for future in futures]
