"""The run: parallel, eager_init, eager_adapt and eager over one task, on one engine, into one folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from eager.budget import ExtraRounds, adapt_shares, label_shares
from eager.engines import Engine
from eager.errors import EagerError
from eager.generate import Generator, Progress
from eager.grading import Graded, MathGrader
from eager.results.experiment import KINDS, Experiment, shortest
from eager.results.folder import finished_prompts, keep_older_file, write_experiment
from eager.results.scores import ExperimentResult, Regrader
from eager.store.journal import Journal, StoreError
from eager.store.records import PromptRecord, SequenceRecord, merged
from eager.tasks import LoadedTask, Problem
from eager.types import MAX_ENTROPY, Branch, BranchConfig, Generation, SamplingParams, SequenceResult, TreeJob

EXPERIMENTS: dict[str, tuple[str, ...]] = {**{kind: (kind,) for kind in KINDS}, "all": tuple(KINDS)}
"""What each name runs, in this order."""

# Text kept with a branch, as published: so many characters, and more tokens than they can be.
_CHARACTERS_BEFORE, _TOKENS_BEFORE = 50, 200
# Rewriting a result file reads the whole experiment: never let it take more than a twentieth of the time.
_WRITE_EVERY_SECONDS = 30.0
_WRITE_SHARE = 20


class RunError(EagerError):
    """The run cannot start or go on; the message names the culprit and the remedy."""


class OnProgress(Protocol):
    """Told after every engine step how the current experiment stands."""

    def __call__(self, experiment: str, n_done: int, n_prompts: int, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run. `rules`: one set for each threshold, which alone tells them apart.

    `max_tokens` bounds the generated tokens of a sequence, None leaves it to the context. `record_entropies` has
    `parallel` monitored, too.
    """

    experiments: tuple[str, ...]
    rules: tuple[BranchConfig, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int | None = None
    record_entropies: bool = True

    def __post_init__(self) -> None:
        common = {replace(rules, entropy_threshold=MAX_ENTROPY) for rules in self.rules}
        if len(common) != 1:
            raise ValueError("a run needs rules of branching that differ in nothing but their thresholds")

    def max_length(self, n_prompt: int, engine: Engine) -> int:
        """Bound on a sequence that begins with a prompt of so many tokens, them included."""
        most = engine.max_model_len
        return most if self.max_tokens is None else min(most, n_prompt + self.max_tokens)


class Run:
    """Experiments over a task, recorded prompt by prompt; what the journal already holds is not generated again."""

    def __init__(
        self,
        plan: RunPlan,
        engine: Engine,
        task: LoadedTask,
        journal: Journal,
        grader: MathGrader,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._task = task
        self._journal = journal
        self._grader = grader
        self._regrader = Regrader(grader, may_fall_back=False)
        self._unwritten: Experiment | None = None  # has prompts that its result file lacks
        self._on_progress = on_progress
        self.notices: list[str] = []
        """Sentences about files that were in the folder and are replaced."""
        self._prompts = encoded_prompts(engine, task)

    def run(self) -> Iterator[ExperimentResult]:
        """Yield each experiment's result as it is complete. Raises RunError, StoreError or EngineError."""
        for kind in self._plan.experiments:
            for rules in self._plan.rules[:1] if kind == "parallel" else self._plan.rules:
                yield self._run_one(kind, rules)

    def write_finished(self) -> None:
        """After `run` was left in the middle: write the result file that lacks finished prompts. Raises StoreError.

        A signal may have come between a line on disk and its entry in memory: the journal is read anew.
        """
        if self._unwritten is not None:
            journal = Journal(self._journal.folder)
            if journal.count(self._unwritten.name):
                self._write(self._unwritten, journal)

    def _run_one(self, kind: str, rules: BranchConfig) -> ExperimentResult:
        experiment = Experiment(kind, None if kind == "parallel" else rules.entropy_threshold)
        name = experiment.name
        self.notices += keep_older_file(self._journal, experiment)
        left = sorted(set(range(len(self._prompts))) - set(finished_prompts(self._journal, experiment)))
        if kind == "parallel":
            finished = self._one_tree_each(name, left, rules, is_parallel=True)
        elif kind == "eager_init":
            finished = self._one_tree_each(name, left, rules, is_parallel=False)
        else:
            grades = self._init_grades(kind, rules.entropy_threshold)
            shares = _shares(kind, grades, rules.max_sequences)
            finished = self._extra_trees(name, left, [len(prompt) for prompt in grades], shares, rules)
        return self._refused_if_all_failed(self._record(experiment, finished))

    # -- one tree a prompt: parallel and eager_init -------------------------------------------------------------

    def _one_tree_each(
        self, name: str, left: Iterable[int], rules: BranchConfig, *, is_parallel: bool
    ) -> abc.Generator[PromptRecord, None, None]:
        generator = self._generator(name)
        n_roots = rules.max_sequences if is_parallel else 1
        for index in left:
            job = self._job(index, rules, first_sequence=0)
            generator.add(replace(job, n_roots=n_roots, record_entropies=is_parallel and self._plan.record_entropies))
        for job, generation in generator.run():
            yield self._to_record(name, job.prompt_index, [generation], first_sequence=0)

    # -- rounds of extra trees: eager_adapt and eager -----------------------------------------------------------

    def _init_grades(self, kind: str, threshold: float) -> list[list[bool | None]]:
        """The grades of eager_init's sequences at this threshold, a list a prompt."""
        init = Experiment("eager_init", threshold).name
        if self._journal.count(init) < len(self._prompts):
            raise RunError(
                f"{kind} shares out what {init} saved, and '{self._journal.folder}' has no finished {init}"
                f" ({self._finished_inits()}): run --experiments eager_init into the same folder first"
            )
        grades = [[sequence.correct for sequence in record.sequences] for record in self._journal.records(init)]
        if kind == "eager" and all(grade is None for prompt in grades for grade in prompt):
            raise RunError(
                f"eager gives the saved budget to unsolved prompts, but nothing in {init} is graded:"
                " give targets, grade code with eager eval-code first, or run eager_adapt, which needs none"
            )
        return grades

    def _finished_inits(self) -> str:
        """At which thresholds the folder holds a whole eager_init."""
        names = [name for name in self._journal.experiments() if name.startswith("eager_init_th")]
        finished = [
            shortest(init.threshold)
            for init in sorted(map(Experiment.parse, names))
            if init.threshold is not None and self._journal.count(init.name) == len(self._prompts)
        ]
        return f"it has those of threshold {', '.join(finished)}" if finished else "nor one of another threshold"

    def _extra_trees(
        self, name: str, left: Iterable[int], first: list[int], shares: Mapping[int, int], rules: BranchConfig
    ) -> abc.Generator[PromptRecord, None, None]:
        """Grow each prompt's share; `first` numbers its first extra sequence: as many as eager_init used."""
        generator = self._generator(name)
        rounds: dict[int, ExtraRounds] = {}
        trees: dict[int, list[Generation]] = {}
        for index in left:
            if index not in shares:
                yield self._to_record(name, index, [], first[index])
                continue
            trees[index] = []
            is_unsaturated = first[index] < rules.max_sequences
            rounds[index] = ExtraRounds(shares[index], rules.entropy_threshold, lower_every_round=is_unsaturated)
            generator.add(self._extra_job(index, rounds[index], rules, first[index]))
        for job, generation in generator.run():
            index = job.prompt_index
            trees[index].append(generation)
            rounds[index].finish_round(len(generation.sequences))
            if rounds[index].is_done:
                yield self._to_record(name, index, trees.pop(index), first[index])
            else:
                n_so_far = job.first_sequence + len(generation.sequences)
                generator.add(self._extra_job(index, rounds[index], rules, n_so_far))

    def _extra_job(self, index: int, rounds: ExtraRounds, rules: BranchConfig, first_sequence: int) -> TreeJob:
        rules = replace(rules, max_sequences=rounds.n_missing, entropy_threshold=rounds.round_threshold)
        return self._job(index, rules, first_sequence)

    # -- common -------------------------------------------------------------------------------------------------

    def _generator(self, name: str) -> Generator:
        def on_step(progress: Progress) -> None:
            if self._on_progress is not None:
                self._on_progress(name, self._journal.count(name), len(self._prompts), progress)

        return Generator(self._engine, on_step)

    def _job(self, index: int, rules: BranchConfig, first_sequence: int) -> TreeJob:
        plan, prompt_ids = self._plan, self._prompts[index]
        max_length = plan.max_length(len(prompt_ids), self._engine)
        return TreeJob(index, prompt_ids, rules, plan.sampling, max_length, plan.seed, first_sequence=first_sequence)

    def _record(self, experiment: Experiment, finished: abc.Generator[PromptRecord, None, None]) -> ExperimentResult:
        """Journal each prompt as it is finished; write the result file at intervals and at the end."""
        last_record = last_write = time.monotonic()
        write_seconds = 0.0
        with closing(finished):  # an interrupt leaves nothing open in the engine
            for record in finished:
                now = time.monotonic()
                self._keep(experiment, replace(record, seconds=now - last_record))
                last_record = now
                if now - last_write > max(_WRITE_EVERY_SECONDS, _WRITE_SHARE * write_seconds):
                    self._write(experiment, self._journal)
                    last_record = last_write = time.monotonic()
                    write_seconds = last_write - now
        return self._write(experiment, self._journal)

    def _keep(self, experiment: Experiment, record: PromptRecord) -> None:
        """Journal the record. Raises StoreError."""
        if not self._journal.path.exists():  # an open file takes lines after its name has gone
            raise StoreError(
                f"'{self._journal.folder}' has gone while the run was at work: if it was moved, run the same command"
                " with its new place as --output_dir; else the same command begins anew"
            )
        self._unwritten = experiment
        try:
            self._journal.append(self._grouped(experiment, record))
        except OSError as error:
            raise self._unreadable(error) from None

    def _write(self, experiment: Experiment, journal: Journal) -> ExperimentResult:
        try:
            result = write_experiment(journal, experiment, self._regrader)
        except OSError as error:
            raise self._unreadable(error) from None
        self._unwritten = None
        return result

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(
            f"'{self._journal.path}' cannot be read ({error.strerror}): see that it is there and run the same command"
            " again; what is finished is kept"
        )

    def _refused_if_all_failed(self, result: ExperimentResult) -> ExperimentResult:
        """Where nothing but errors came of a whole experiment, the model is broken, and the next would do no better."""
        if not result.n_sequences or result.n_errors < result.n_sequences:
            return result
        name = result.experiment.name
        errors = (sequence.error for record in self._journal.records(name) for sequence in record.sequences)
        raise RunError(
            f"every sequence of {name} failed (the first: {next(errors)}): mend that, and run again into another folder"
        )

    def _grouped(self, experiment: Experiment, record: PromptRecord) -> PromptRecord:
        """The record with its classes of equivalent answers, numbered over all of the prompt's sequences."""
        base = experiment.base
        whole = record if base is None else merged(self._journal.read(base.name, record.prompt_index), record)
        n_first = len(whole.sequences) - len(record.sequences)
        return replace(record, sequences=self._regrader.grouped(whole).sequences[n_first:])

    def _to_record(self, name: str, index: int, trees: list[Generation], first_sequence: int) -> PromptRecord:
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

    def _sequence_record(self, sequence: SequenceResult, problem: Problem, offset: int) -> SequenceRecord:
        tokens = sequence.token_ids
        if tokens and tokens[-1] in self._engine.stops.stop_ids:
            tokens = tokens[:-1]
        text = self._engine.decode(tokens)
        graded = Graded(None, None)
        if sequence.finish_reason != "error":
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


def _shares(kind: str, grades: list[list[bool | None]], max_sequences: int) -> dict[int, int]:
    """Extra sequences by prompt, from what eager_init left over."""
    used = [len(prompt) for prompt in grades]
    if kind == "eager_adapt":
        return adapt_shares(used, max_sequences)
    # A prompt that nobody could grade is not unsolved: nothing says that it needs any.
    return label_shares(used, [True in prompt or False not in prompt for prompt in grades], max_sequences)


def encoded_prompts(engine: Engine, task: LoadedTask) -> list[tuple[int, ...]]:
    """The chat that asks each problem, as ids. Raises RunError where one does not fit into the context."""
    prompts = [tuple(engine.encode_chat(task.messages(problem))) for problem in task.problems]
    for problem, ids in zip(task.problems, prompts, strict=True):
        _check_fits(problem, len(ids), engine)
    return prompts


def _check_fits(problem: Problem, n_tokens: int, engine: Engine) -> None:
    if n_tokens + 1 > engine.max_model_len:
        raise RunError(
            f"problem {problem.index} has {n_tokens} tokens, but the context holds {engine.max_model_len}:"
            " raise --max_model_len, choose a model with a longer context, or take the problem out"
        )


def settings_of(plan: RunPlan, task: LoadedTask, options: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change between the runs that share a folder; thresholds and experiments may.

    `options` are the model's and the engine's.
    """
    branching = asdict(plan.rules[0])
    del branching["entropy_threshold"]
    data = {
        "data_name": task.task.name,
        "data_digest": _digest(task),
        "n_prompts": len(task.problems),
        "instruction": task.instruction,
    }
    if task.system_prompt is not None:  # a folder begun before it existed has no such setting
        data["system_prompt"] = task.system_prompt
    if not plan.record_entropies:  # as every folder was begun before parallel had any
        data["record_entropies"] = False
    return {**options, **data, **asdict(plan.sampling), **branching, "max_tokens": plan.max_tokens, "seed": plan.seed}


def _digest(task: LoadedTask) -> str:
    """A short hash of what is asked: the same name and number of rows do not make the same data."""
    problems = [[problem.prompt, problem.target] for problem in task.problems]
    text = json.dumps([task.task.examples, problems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
