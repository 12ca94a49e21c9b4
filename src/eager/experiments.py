"""The run: parallel, eager_init and what builds on it over one task, on one engine, into one folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections import abc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from eager.budget import SETTLED, ExtraRounds, adapt_shares, label_shares
from eager.engines import Engine
from eager.errors import EagerError
from eager.generate import Progress
from eager.grading import MathGrader
from eager.recording import Clock, Recorder
from eager.results.experiment import KINDS, PUBLISHED_KINDS, Experiment, shortest
from eager.results.folder import finished_prompts, keep_older_file, write_experiment
from eager.results.scores import ExperimentResult, Regrader
from eager.store.journal import Journal, StoreError
from eager.store.records import PromptRecord, merged
from eager.tasks import LoadedTask, Problem
from eager.types import MAX_ENTROPY, BranchConfig, Generation, SamplingParams, TreeJob
from eager.voting import Voting, settles
from eager.whole_trees import Grower, grower

EXPERIMENTS: dict[str, tuple[str, ...]] = {**{kind: (kind,) for kind in KINDS}, "all": PUBLISHED_KINDS}
"""What each name runs, in this order."""

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
    `parallel` monitored, too. `settle` is how certain a majority must be for eager_vote to leave its prompt alone, and
    ends a tree of eager_init that is as certain; None: SETTLED, and no tree ends for it.
    """

    experiments: tuple[str, ...]
    rules: tuple[BranchConfig, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int | None = None
    record_entropies: bool = True
    settle: float | None = None

    def __post_init__(self) -> None:
        if self.settle is not None and not 0.5 < self.settle < 1:
            raise ValueError(f"settle must be between 0.5 and 1, got {self.settle!r}")
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
        _check_votes(plan, task)
        self._recorder = Recorder(engine, task, self._prompts, grader)
        self._clock = Clock()

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
        elif kind == "eager_vote":
            self._check_init(kind, rules.entropy_threshold)
            finished = self._voted_trees(experiment, left, rules)
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
        settle = None if is_parallel else self._plan.settle
        for index in left:
            job = self._job(index, rules, first_sequence=0)
            job = replace(job, n_roots=n_roots, record_entropies=is_parallel and self._plan.record_entropies)
            generator.add(job, None if settle is None else settles(settle, self._recorder, self._regrader, index))
        for job, generation in generator.run():
            yield self._recorder.record(name, job.prompt_index, [generation], first_sequence=0)

    # -- rounds of extra trees: eager_adapt and eager -----------------------------------------------------------

    def _check_init(self, kind: str, threshold: float) -> str:
        """The name of the finished eager_init at this threshold."""
        init = Experiment("eager_init", threshold).name
        if self._journal.count(init) < len(self._prompts):
            raise RunError(
                f"{kind} shares out what {init} saved, and '{self._journal.folder}' has no finished {init}"
                f" ({self._finished_inits()}): run --experiments eager_init into the same folder first"
            )
        return init

    def _init_grades(self, kind: str, threshold: float) -> list[list[bool | None]]:
        """The grades of eager_init's sequences at this threshold, a list a prompt."""
        init = self._check_init(kind, threshold)
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
                yield self._recorder.record(name, index, [], first[index])
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
                yield self._recorder.record(name, index, trees.pop(index), first[index])
            else:
                n_so_far = job.first_sequence + len(generation.sequences)
                generator.add(self._extra_job(index, rounds[index], rules, n_so_far))

    def _extra_job(self, index: int, rounds: ExtraRounds, rules: BranchConfig, first_sequence: int) -> TreeJob:
        rules = replace(rules, max_sequences=rounds.n_missing, entropy_threshold=rounds.round_threshold)
        return self._job(index, rules, first_sequence)

    # -- rounds over all prompts: eager_vote --------------------------------------------------------------------

    def _voted_trees(
        self, experiment: Experiment, left: Iterable[int], rules: BranchConfig
    ) -> abc.Generator[PromptRecord, None, None]:
        """A tree a round for every prompt whose vote is open; a prompt is finished when its vote is closed."""
        waiting = list(left)
        settled = self._plan.settle or SETTLED
        voting = Voting(self._journal, experiment, self._regrader, rules.max_sequences, settled)
        generator = self._generator(experiment.name)
        shares: Mapping[int, int] | None = None
        while waiting and shares != {}:
            shares = voting.next_round()
            self._grow_round(generator, experiment.name, shares, rules, voting)
            closed = [index for index in waiting if not shares or not voting.is_open(index)]
            waiting = [index for index in waiting if index not in set(closed)]
            for index in closed:
                yield voting.whole(index, self._recorder.record(experiment.name, index, [], voting.n_init(index)))

    def _grow_round(
        self, generator: Grower, name: str, shares: Mapping[int, int], rules: BranchConfig, voting: Voting
    ) -> None:
        """Each prompt's tree of the round, from the journal where an earlier run has grown it."""
        for index, share in shares.items():
            recorded = voting.recorded(index)
            if recorded is None:
                generator.add(self._job(index, replace(rules, max_sequences=share), voting.n_sequences(index)))
            else:
                voting.count(index, recorded)
        for job, generation in generator.run():
            tree = self._recorder.record(name, job.prompt_index, [generation], job.first_sequence)
            with self._with_journal():
                self._journal.append_part(replace(tree, seconds=self._clock.lap()), job.first_sequence)
            voting.count(job.prompt_index, tree)

    # -- common -------------------------------------------------------------------------------------------------

    def _generator(self, name: str) -> Grower:
        def on_step(progress: Progress) -> None:
            if self._on_progress is not None:
                self._on_progress(name, self._journal.count(name), len(self._prompts), progress)

        return grower(self._engine, self._plan.rules[0], on_step, may_settle=self._plan.settle is not None)

    def _job(self, index: int, rules: BranchConfig, first_sequence: int) -> TreeJob:
        plan, prompt_ids = self._plan, self._prompts[index]
        max_length = plan.max_length(len(prompt_ids), self._engine)
        return TreeJob(index, prompt_ids, rules, plan.sampling, max_length, plan.seed, first_sequence=first_sequence)

    def _record(self, experiment: Experiment, finished: abc.Generator[PromptRecord, None, None]) -> ExperimentResult:
        """Journal each prompt as it is finished; write the result file at intervals and at the end."""
        last_write = time.monotonic()
        write_seconds = 0.0
        self._clock.lap()
        with closing(finished):  # an interrupt leaves nothing open in the engine
            for record in finished:
                self._keep(experiment, replace(record, seconds=record.seconds + self._clock.lap()))
                now = time.monotonic()
                if now - last_write > max(_WRITE_EVERY_SECONDS, _WRITE_SHARE * write_seconds):
                    self._write(experiment, self._journal)
                    self._clock.lap()
                    last_write = time.monotonic()
                    write_seconds = last_write - now
        return self._write(experiment, self._journal)

    def _keep(self, experiment: Experiment, record: PromptRecord) -> None:
        """Journal the record. Raises StoreError."""
        self._unwritten = experiment
        with self._with_journal():
            self._journal.append(self._grouped(experiment, record))

    def _write(self, experiment: Experiment, journal: Journal) -> ExperimentResult:
        try:
            result = write_experiment(journal, experiment, self._regrader)
        except OSError as error:
            raise self._unreadable(error) from None
        self._unwritten = None
        return result

    @contextmanager
    def _with_journal(self) -> Iterator[None]:
        """While a line is put into it. Raises StoreError."""
        if not self._journal.path.exists():  # an open file takes lines after its name has gone
            raise StoreError(
                f"'{self._journal.folder}' has gone while the run was at work: if it was moved, run the same command"
                " with its new place as --output_dir; else the same command begins anew"
            )
        try:
            yield
        except OSError as error:
            raise self._unreadable(error) from None

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


def _shares(kind: str, grades: list[list[bool | None]], max_sequences: int) -> dict[int, int]:
    """Extra sequences by prompt, from what eager_init left over."""
    used = [len(prompt) for prompt in grades]
    if kind == "eager_adapt":
        return adapt_shares(used, max_sequences)
    # A prompt that nobody could grade is not unsolved: nothing says that it needs any.
    return label_shares(used, [True in prompt or False not in prompt for prompt in grades], max_sequences)


def _check_votes(plan: RunPlan, task: LoadedTask) -> None:
    """Whoever goes by how answers agree needs answers that can be compared."""
    asked = "eager_vote" if "eager_vote" in plan.experiments else "--settle" if plan.settle is not None else None
    if asked is not None and task.task.answer_kind == "code":
        raise RunError(f"{asked} goes by answers that agree, and programs cannot be compared: run eager_adapt instead")


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
    # A folder begun before they existed has no such settings.
    if branching["varentropy_threshold"] is None:
        del branching["varentropy_threshold"], branching["varentropy_max_entropy"]
    if branching["stop_after"] is None:
        del branching["stop_after"]
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
    if plan.settle is not None:
        data["settle"] = plan.settle
    return {**options, **data, **asdict(plan.sampling), **branching, "max_tokens": plan.max_tokens, "seed": plan.seed}


def _digest(task: LoadedTask) -> str:
    """A short hash of what is asked: the same name and number of rows do not make the same data."""
    problems = [[problem.prompt, problem.target] for problem in task.problems]
    text = json.dumps([task.task.examples, problems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
