"""The run: parallel, eager_init and what builds on it over one task, on one engine, into one folder."""

from __future__ import annotations

import hashlib
import json
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from eager.budget import SETTLED, ExtraRounds
from eager.engines import Engine
from eager.generator import Progress
from eager.grading import MathGrader
from eager.keeping import Keeper
from eager.recording import Recorder
from eager.results.experiment import KINDS, PUBLISHED_KINDS, Experiment
from eager.results.folder import finished_prompts, keep_older_file
from eager.results.scores import ExperimentResult, Regrader
from eager.results.shards import Shard
from eager.sharing import RunError, Sharing
from eager.store.journal import Journal
from eager.store.records import PromptRecord
from eager.tasks import LoadedTask, Problem
from eager.types import MAX_ENTROPY, BranchConfig, Generation, SamplingParams, TreeJob
from eager.voting import Voting, settles
from eager.whole_trees import Grower, grower

EXPERIMENTS: dict[str, tuple[str, ...]] = {**{kind: (kind,) for kind in KINDS}, "all": PUBLISHED_KINDS}
"""What each name runs, in this order."""


class OnProgress(Protocol):
    """Told after every engine step how the current experiment stands."""

    def __call__(self, experiment: str, n_done: int, n_prompts: int, progress: Progress) -> None: ...


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run. `rules`: one set for each threshold, which alone tells them apart.

    `max_tokens` bounds the generated tokens of a sequence, None leaves it to the context. `record_entropies` has
    `parallel` monitored, too. `settle` is how certain a majority must be for eager_vote to leave its prompt alone, and
    ends a tree of eager_init that is as certain; None: SETTLED, and no tree ends for it. `shard` is the part of the
    task that is run; None for all of it.
    """

    experiments: tuple[str, ...]
    rules: tuple[BranchConfig, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int | None = None
    record_entropies: bool = True
    settle: float | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if self.settle is not None and not 0.5 < self.settle < 1:
            raise ValueError(f"settle must be between 0.5 and 1, got {self.settle!r}")
        common = {replace(rules, entropy_threshold=MAX_ENTROPY) for rules in self.rules}
        if len(common) != 1:
            raise ValueError("a run needs rules of branching that differ in nothing but their thresholds")

    def indices(self, task: LoadedTask) -> range:
        """Which of the task's prompts the run is for."""
        n_prompts = len(task.problems)
        return range(n_prompts) if self.shard is None else self.shard.indices(n_prompts)

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
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`tell` hears at once, in sentences, of failures that the run survives."""
        self._plan = plan
        self._engine = engine
        self._task = task
        self._journal = journal
        self._grader = grader
        self._regrader = Regrader(grader, may_fall_back=False)
        self._keeper = Keeper(journal, self._regrader)
        self._on_progress = on_progress
        self._tell = tell
        self._n_news = 0  # told
        self._stop: Callable[[], object] | None = None
        self.notices: list[str] = []
        """Sentences about files that were in the folder and are replaced."""
        self._prompts = encoded_prompts(engine, [task.problems[index] for index in plan.indices(task)], task)
        _check_votes(plan, task)
        n_most = plan.rules[0].max_sequences
        self._sharing = Sharing(journal, len(task.problems), plan.shard, n_most, plan.settle)
        self._recorder = Recorder(engine, task, self._prompts, grader)

    def run(self) -> Iterator[ExperimentResult]:
        """Yield each experiment's result as it is complete. Raises RunError, StoreError or EngineError."""
        for kind in self._plan.experiments:
            for rules in self._plan.rules[:1] if kind == "parallel" else self._plan.rules:
                yield self._run_one(kind, rules)

    def come_to_an_end(self, stop: Callable[[], object]) -> None:
        """Begin no further tree, and call `stop` after the step with which none is open any more; from any place."""
        self._stop = stop

    def write_finished(self) -> None:
        """After `run` was left in the middle: write the result file that lacks finished prompts. Raises StoreError."""
        self._keeper.write_finished()

    def _run_one(self, kind: str, rules: BranchConfig) -> ExperimentResult:
        experiment = Experiment(kind, None if kind == "parallel" else rules.entropy_threshold)
        name = experiment.name
        self.notices += keep_older_file(self._journal, experiment)
        left = sorted(set(self._prompts) - set(finished_prompts(self._journal, experiment)))
        if kind == "parallel":
            finished = self._one_tree_each(name, left, rules, is_parallel=True)
        elif kind == "eager_init":
            finished = self._one_tree_each(name, left, rules, is_parallel=False)
        elif kind == "eager_vote":
            finished = self._voted_trees(experiment, left, rules)
        else:
            finished = self._extra_trees(experiment, left, rules)
        return self._refused_if_all_failed(self._keeper.keep_all(experiment, finished))

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

    def _extra_trees(
        self, experiment: Experiment, left: Iterable[int], rules: BranchConfig
    ) -> abc.Generator[PromptRecord, None, None]:
        """Grow each prompt's share; its first extra sequence is numbered as many as eager_init used."""
        name = experiment.name
        shared_out = self._sharing.shares(experiment.kind, rules.entropy_threshold, self._regrader)
        first, shares = shared_out.used, shared_out.extra
        generator = self._generator(name)
        rounds: dict[int, ExtraRounds] = {}
        trees: dict[int, list[Generation]] = {}
        for index in left:
            if index not in shares:
                yield self._recorder.record(name, index, [], first[index])
                continue
            trees[index] = []
            rounds[index] = ExtraRounds.of(shares[index], first[index], rules)
            generator.add(self._job(index, rounds[index].next_rules(rules), first[index]))
        for job, generation in generator.run():
            index = job.prompt_index
            trees[index].append(generation)
            rounds[index].finish_round(len(generation.sequences))
            if rounds[index].is_done or index in generator.given_up:
                yield self._recorder.record(name, index, trees.pop(index), first[index])
            else:
                n_so_far = job.first_sequence + len(generation.sequences)
                generator.add(self._job(index, rounds[index].next_rules(rules), n_so_far))

    # -- rounds over all prompts: eager_vote --------------------------------------------------------------------

    def _voted_trees(
        self, experiment: Experiment, left: Iterable[int], rules: BranchConfig
    ) -> abc.Generator[PromptRecord, None, None]:
        """A tree a round for every prompt whose vote is open; a prompt is finished when its vote is closed."""
        waiting = list(left)
        settled = self._plan.settle or SETTLED
        most = self._sharing.most_votes(rules.entropy_threshold, self._prompts, self._regrader)
        voting = Voting(self._journal, experiment, self._regrader, rules.max_sequences, settled, most)
        generator = self._generator(experiment.name)
        shares: Mapping[int, int] | None = None
        while waiting and shares != {}:
            shares = voting.next_round()
            self._grow_round(generator, experiment.name, shares, rules, voting)
            closed = [index for index in waiting if not shares or not voting.is_open(index)]
            waiting = [index for index in waiting if shares and voting.is_open(index)]
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
            self._keeper.keep_part(tree, job.first_sequence)
            voting.count(job.prompt_index, tree)

    # -- common -------------------------------------------------------------------------------------------------

    def _generator(self, name: str) -> Grower:
        def on_step(progress: Progress) -> None:
            if self._on_progress is not None:
                self._on_progress(name, self._journal.count(name), len(self._prompts), progress)
            self._tell_news()
            if self._stop is not None:
                generator.max_open = 0
                if not progress.trees_open:
                    self._stop()

        may_settle = self._plan.settle is not None
        generator = grower(self._engine, self._plan.rules[0], on_step, self._tell, may_settle=may_settle)
        generator.max_open = None if self._stop is None else 0
        return generator

    def _tell_news(self) -> None:
        news = self._engine.news[self._n_news :]
        self._n_news += len(news)
        if self._tell is not None:
            for sentence in news:
                self._tell(sentence)

    def _job(self, index: int, rules: BranchConfig, first_sequence: int) -> TreeJob:
        plan, prompt_ids = self._plan, self._prompts[index]
        max_length = plan.max_length(len(prompt_ids), self._engine)
        return TreeJob(index, prompt_ids, rules, plan.sampling, max_length, plan.seed, first_sequence=first_sequence)

    def _refused_if_all_failed(self, result: ExperimentResult) -> ExperimentResult:
        """Where nothing but errors came of a whole experiment, the model is broken, and the next would do no better."""
        if not result.n_sequences or result.n_errors < result.n_sequences:
            return result
        name = result.experiment.name
        errors = (sequence.error for record in self._journal.records(name) for sequence in record.sequences)
        raise RunError(
            f"every sequence of {name} failed (the first: {next(errors)}): mend that, and run again into another folder"
        )


def _check_votes(plan: RunPlan, task: LoadedTask) -> None:
    """Whoever goes by how answers agree needs answers that can be compared."""
    asked = "eager_vote" if "eager_vote" in plan.experiments else "--settle" if plan.settle is not None else None
    if asked is not None and task.task.answer_kind == "code":
        raise RunError(f"{asked} goes by answers that agree, and programs cannot be compared: run eager_adapt instead")


def encoded_prompts(engine: Engine, problems: Iterable[Problem], task: LoadedTask) -> dict[int, tuple[int, ...]]:
    """The chats that ask these problems of the task, as ids, by index. RunError where one does not fit the context."""
    prompts = {problem.index: tuple(engine.encode_chat(task.messages(problem))) for problem in problems}
    for index, ids in prompts.items():
        _check_fits(task.problems[index], len(ids), engine)
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
        "n_prompts": len(plan.indices(task)),
        "instruction": task.instruction,
    }
    if task.system_prompt is not None:  # a folder begun before it existed has no such setting
        data["system_prompt"] = task.system_prompt
    if not plan.record_entropies:  # as every folder was begun before parallel had any
        data["record_entropies"] = False
    if plan.settle is not None:
        data["settle"] = plan.settle
    if plan.shard is not None:
        data["shard"] = str(plan.shard)
    return {**options, **data, **asdict(plan.sampling), **branching, "max_tokens": plan.max_tokens, "seed": plan.seed}


def _digest(task: LoadedTask) -> str:
    """A short hash of what is asked: the same name and number of rows do not make the same data."""
    problems = [[problem.prompt, problem.target] for problem in task.problems]
    text = json.dumps([task.task.examples, problems])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
