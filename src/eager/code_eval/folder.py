"""Grades the code in one output folder, whoever wrote it, and writes the grades back."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from eager.atomic import copy_file, replacing
from eager.code_eval.checker import Checker, Verdict
from eager.code_eval.extract import own_words, with_open_thought
from eager.code_eval.humaneval import CodeProblem
from eager.code_eval.sandbox import CodeEvalError
from eager.grading import MathGrader
from eager.metrics import Summary
from eager.results.findings import Findings
from eager.results.folder import Results, open_folder
from eager.results.scores import Grades, Regrader
from eager.store.journal import JOURNAL_NAME, Journal, StoreError
from eager.store.records import PromptRecord

BACKUP = ".before-eval"
SIDECAR = ".code.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One experiment after grading; the counts are over its graded sequences.

    `n_base` and `n_plus` are of whole programs, `n_evalplus` is of what EvalPlus's sanitizer leaves of them.
    """

    path: Path
    scores: Summary
    n_base: int
    n_plus: int
    n_evalplus: int
    reasons: Counter[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A prompt that is one of the problems. A verdict is None where the sequence failed before it was an answer."""

    prompt_index: int
    task: str
    verdicts: list[Verdict | None]


@dataclass
class Grading:
    """How to grade, and what a reader should know: `problems` gathers a sentence for all that could not be graded.

    The grades of an experiment are written in a block of `uninterrupted`.
    """

    checker: Checker
    n_workers: int
    say: Callable[[str, int, int], None]
    uninterrupted: Callable[[], AbstractContextManager[None]] = nullcontext
    problems: list[str] = field(default_factory=list)

    def judge(self, results: Results) -> list[Judged]:
        """The experiment's prompts that are problems; several texts at once, few prompts in memory."""
        waiting: deque[tuple[int, str | None, list[Future[Verdict] | None]]] = deque()
        judged: list[Judged | None] = []
        with ThreadPoolExecutor(self.n_workers) as pool, ExitStack() as on_leaving:
            on_leaving.callback(pool.shutdown, wait=True, cancel_futures=True)
            on_leaving.callback(self.checker.stop)  # a program may take its time, and nobody waits for it any more
            for record in results.records():
                waiting.append(self._submit(pool, results, record))
                if len(waiting) > 2 * self.n_workers:
                    judged.append(self._finish(waiting, results, len(judged) + 1))
            while waiting:
                judged.append(self._finish(waiting, results, len(judged) + 1))
            on_leaving.pop_all()
        return [one for one in judged if one is not None]

    def _submit(
        self, pool: ThreadPoolExecutor, results: Results, record: PromptRecord
    ) -> tuple[int, str | None, list[Future[Verdict] | None]]:
        problem = self._find(results, record)
        if problem is None:
            return record.prompt_index, None, []
        texts = _own_texts(record, results.facts.is_published)
        futures = [None if text is None else pool.submit(self.checker.check_text, problem, text) for text in texts]
        return record.prompt_index, problem.task_id, futures

    def _finish(
        self, waiting: deque[tuple[int, str | None, list[Future[Verdict] | None]]], results: Results, n_done: int
    ) -> Judged | None:
        index, task, futures = waiting.popleft()
        verdicts = [None if future is None else future.result() for future in futures]
        self.say(results.path.stem, n_done, results.facts.n_prompts or 0)
        return None if task is None else Judged(index, task, verdicts)

    def _find(self, results: Results, record: PromptRecord) -> CodeProblem | None:
        """The problem that a prompt is; what is none of EvalPlus's is noted."""
        problem = self.checker.problems.find(record.meta, record.prompt)
        if problem is None:
            self.problems.append(
                f"'{results.path}', prompt {record.prompt_index} is none of the problems: left ungraded"
            )
        return problem


def grade_folder(folder: Path, wanted: Seq[str], grading: Grading) -> list[Outcome]:
    """Grade the experiments named in `wanted` (all if empty), and those that they build on.

    `wanted` holds names of experiments, or of result files without .json. Raises CodeEvalError, ResultsError or
    StoreError where nothing can be graded or written.
    """
    n_known = len(grading.problems)
    findings = Findings()
    try:
        outcomes = _grade(folder, wanted, grading, findings)
    finally:  # what was lost is said, whatever ends it
        grading.problems.extend(findings.problems)
    if not outcomes:
        why = f" ({'; '.join(grading.problems[n_known:])})" if grading.problems[n_known:] else ""
        del grading.problems[n_known:]
        raise CodeEvalError(
            f"'{folder}' holds no HumanEval+ prompt that can be graded{why}: give a run of evalplus/humanevalplus"
        )
    return outcomes


def _grade(folder: Path, wanted: Seq[str], grading: Grading, findings: Findings) -> list[Outcome]:
    outcomes = []
    with _locked_journal(folder) as journal, MathGrader() as grader:
        everything = open_folder(folder, findings, journal=journal)
        chosen = _chosen(folder, everything, wanted)
        for results in chosen:
            judged = grading.judge(results)
            if judged and results.is_whole:  # a damaged file stays as it is
                with grading.uninterrupted():
                    outcomes.append(_write(results, judged, Regrader(grader, may_fall_back=False)))
        if outcomes:
            _rewrite_dependents(everything, chosen, Regrader(grader, may_fall_back=False))
    return outcomes


def _locked_journal(folder: Path) -> AbstractContextManager[Journal | None]:
    """The folder's journal, so that no run writes to it meanwhile. Raises StoreError."""
    try:
        if not (folder / JOURNAL_NAME).exists():
            return nullcontext()
        settings = Journal(folder).settings
    except StoreError as error:
        raise StoreError(f"{error}; moved out of the folder, it leaves the result files to be graded") from None
    except OSError as error:
        raise StoreError(f"the journal in '{folder}' cannot be read ({error.strerror}): make it readable") from None
    return closing(Journal(folder, settings))


def _chosen(folder: Path, everything: Seq[Results], wanted: Seq[str]) -> list[Results]:
    names = {results: {results.path.stem, results.experiment.name} for results in everything}
    unknown = [name for name in wanted if name not in set().union(*names.values())]
    if unknown:
        there = ", ".join(results.path.stem for results in everything)
        raise CodeEvalError(f"'{folder}' has no experiment '{unknown[0]}': choose from {there}")
    named = [results for results in everything if not wanted or names[results] & set(wanted)]
    bases = {results.builds_on for results in named}
    return [results for results in everything if results in named or results.experiment in bases]


def _rewrite_dependents(everything: Seq[Results], chosen: Seq[Results], regrader: Regrader) -> None:
    """Experiments that were not asked for, but list the sequences of one that was."""
    graded = {results.experiment for results in chosen}
    for results in everything:
        if results not in chosen and results.builds_on in graded:
            keep_original(results.path)
            results.regrade({}, regrader)


def _own_texts(record: PromptRecord, is_published: bool) -> list[str | None]:
    """What each sequence says itself, with a thought that its prompt has begun; None where it failed or was cut."""
    texts = [None if sequence.finish_reason in ("error", "cut") else sequence.text for sequence in record.sequences]
    if is_published:  # such a file does not say where its prompt ends
        return [None if text is None else own_words(record.prompt_text + text, record.prompt) for text in texts]
    return [None if text is None else with_open_thought(text, record.prompt_text) for text in texts]


def _write(results: Results, judged: Seq[Judged], regrader: Regrader) -> Outcome:
    keep_original(results.path)
    scores = results.regrade({one.prompt_index: _grades(one) for one in judged}, regrader)
    verdicts = [verdict for one in judged for verdict in one.verdicts if verdict is not None]
    _write_sidecar(results.path.with_name(results.path.stem + SIDECAR), judged)
    return Outcome(
        path=results.path,
        scores=scores,
        n_base=sum(verdict.base for verdict in verdicts),
        n_plus=sum(verdict.is_correct for verdict in verdicts),
        n_evalplus=sum(verdict.is_correct_for_evalplus for verdict in verdicts),
        reasons=Counter(verdict.reason for verdict in verdicts if verdict.reason is not None),
    )


def _grades(judged: Judged) -> Grades:
    """As `extracted_answers` has them: '1' where base and plus tests pass, else '0'."""
    correct = [None if verdict is None else verdict.is_correct for verdict in judged.verdicts]
    return Grades([None if grade is None else str(int(grade)) for grade in correct], correct)


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write '{path}' ({error.strerror}): make room, or make the folder writable") from None


def keep_original(path: Path) -> None:
    """Keep `path` as it was before its first evaluation."""
    backup = path.with_name(path.name + BACKUP)
    if path.is_file() and not backup.exists():
        with _as_store_error(backup):
            copy_file(path, backup)


def _write_sidecar(path: Path, judged: Seq[Judged]) -> None:
    """A line a graded sequence."""
    with _as_store_error(path), replacing(path) as file:
        for one in judged:
            for sequence, verdict in enumerate(one.verdicts):
                if verdict is not None:
                    head = {"task": one.task, "prompt_index": one.prompt_index, "sequence": sequence}
                    file.write(json.dumps({**head, **asdict(verdict)}) + "\n")
