"""Drives one engine over the trees of many prompts at once.

`Generator.step()` decodes once and says what came of it: a server or a notebook calls it in a loop of its own, adding
and cancelling jobs as it likes. `run()` is such a loop for those who want finished trees only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence as Seq
from contextlib import ExitStack
from dataclasses import dataclass, field

from eager.branching import Brancher, IsSettled
from eager.engines.base import Engine
from eager.randomness import sequence_seed
from eager.types import Action, Branch, Close, Delta, Generation, Open, Request, SequenceResult, TreeJob


@dataclass(slots=True)
class Progress:
    """Counts since the generator was made, to be shown; `n_tokens` as decoded by the engine, `waiting` as it says."""

    trees_done: int = 0
    trees_open: int = 0
    sequences_open: int = 0
    branches: int = 0
    n_tokens: int = 0
    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step brought, each with the job it belongs to; sequences by their numbers in the tree.

    A branch comes as it happens: under `sample` its `new_id` is still to be drawn. A sequence in `ended` has all its
    tokens, though its tree may go on. A tree in `finished` has all its sequences. Of a tree that ends early there may
    have been told branches and tokens that ran ahead of its end: the finished tree lacks them. `decoded` is what the
    engine gave for each tree, by the numbers of its sequences: where a tree branches, it may take some of it back.
    """

    branches: list[tuple[TreeJob, Branch]] = field(default_factory=list)
    ended: list[tuple[TreeJob, int, SequenceResult]] = field(default_factory=list)
    finished: list[tuple[TreeJob, Generation]] = field(default_factory=list)
    decoded: list[tuple[TreeJob, Seq[tuple[int, Delta]]]] = field(default_factory=list)


class _Tree:
    """A tree in flight. Its sequence i is known to the engine as `base + i`."""

    __slots__ = ("base", "brancher", "is_settled", "job", "n_branches", "n_ended")

    def __init__(self, job: TreeJob, is_settled: IsSettled | None, brancher: Brancher, base: int) -> None:
        self.job = job
        self.is_settled = is_settled
        self.brancher = brancher
        self.base = base
        self.n_branches = self.n_ended = 0  # as last told

    def request(self, action: Open) -> Request:
        """What the action asks of the engine."""
        job = self.job
        return Request(
            seq_id=self.base + action.seq,
            token_ids=action.token_ids,
            sampling=job.sampling,
            max_length=job.max_length,
            seed=sequence_seed(job.seed, job.prompt_index, job.first_sequence + action.seq),
            parent=None if action.parent is None else self.base + action.parent,
            monitor=action.monitor,
            n_prompt=len(job.prompt_ids),
            stop_texts=job.stop_texts,
        )


class Generator:
    """Grows trees on an engine, as many at once as it has room for, in the order in which they were added.

    While it has trees open the engine is its own: another Generator on the same engine is refused until they have
    ended. Whatever ends it early (an error, an interrupt, `run()` left in the middle) closes all that it opened.
    """

    def __init__(self, engine: Engine, on_step: Callable[[Progress], None] | None = None) -> None:
        """`on_step` is called after every step of `run()`."""
        self.progress = Progress()
        self.max_open: int | None = None
        """How many trees may be open for another one to begin; None leaves it to the engine's room."""
        self._engine = engine
        self._on_step = on_step
        self._waiting: deque[tuple[TreeJob, IsSettled | None]] = deque()
        self._open: dict[int, _Tree] = {}  # by their bases
        self._by_sequence: dict[int, _Tree] = {}  # by engine sequence id
        self._next_base = 0

    @property
    def has_work(self) -> bool:
        """Whether any tree is open or waiting."""
        return bool(self._open or self._waiting)

    def add(self, job: TreeJob, is_settled: IsSettled | None = None) -> None:
        """Queue a tree; at any time. It ends early once the sequences that have ended satisfy `is_settled`."""
        self._waiting.append((job, is_settled))

    def cancel(self, job: TreeJob) -> bool:
        """Drop `job` itself (not an equal one), waiting or open, and close its sequences; False if it is neither."""
        for tree in self._open.values():
            if tree.job is job:
                self._drop(tree)
                return True
        n_waiting = len(self._waiting)
        self._waiting = deque(waiting for waiting in self._waiting if waiting[0] is not job)
        return len(self._waiting) < n_waiting

    def close(self) -> None:
        """Drop all jobs and close all their sequences."""
        self._waiting.clear()
        for tree in list(self._open.values()):
            self._drop(tree)

    def run(self) -> Iterator[tuple[TreeJob, Generation]]:
        """Yield every tree as it is finished, until none is left. Left in the middle, it drops the other jobs."""
        with ExitStack() as on_leaving:
            on_leaving.callback(self.close)
            while self.has_work:
                yield from self.step().finished
                if self._on_step:
                    self._on_step(self.progress)

    def step(self) -> Step:
        """Start what there is room for and decode once. Raises EngineError; then all jobs are dropped."""
        with ExitStack() as on_failure:
            on_failure.callback(self._break_off)
            step = Step()
            # 1. Admit trees while a new sequence would be decoded at once.
            while self._waiting and self._may_begin:
                self._start(*self._waiting.popleft(), step)
            # 2. Decode once, and show each tree what is its own.
            touched = self._collect(self._engine.step() if self._open else [])
            self.progress.waiting = self._engine.waiting
            # 3. Let the trees branch; take out the finished ones.
            for tree, deltas in touched.items():
                step.decoded.append((tree.job, deltas))
                self._apply(tree, tree.brancher.observe(deltas), step)
                if tree.brancher.is_done:
                    self._forget(tree)
                    self.progress.trees_done += 1
                    step.finished.append((tree.job, tree.brancher.result()))
            on_failure.pop_all()
        return step

    @property
    def _may_begin(self) -> bool:
        if self.max_open is not None and len(self._open) >= self.max_open:
            return False
        return self._engine.has_room or not self._open

    def _break_off(self) -> None:
        """A step has failed."""
        self.close()

    def _start(self, job: TreeJob, is_settled: IsSettled | None, step: Step) -> None:
        self._engine.take_for(self)
        tree = _Tree(job, is_settled, Brancher(job, self._engine.stops, is_settled), self._next_base)
        self._next_base += job.config.max_sequences
        self._open[tree.base] = tree
        self.progress.trees_open += 1
        self.progress.sequences_open += job.n_roots
        self._apply(tree, tree.brancher.start(), step)

    def _collect(self, deltas: list[Delta]) -> dict[_Tree, list[tuple[int, Delta]]]:
        touched: dict[_Tree, list[tuple[int, Delta]]] = {}
        by_sequence, n_tokens = self._by_sequence, 0
        for delta in deltas:
            tree = by_sequence[delta.seq_id]
            n_tokens += len(delta.tokens)
            pair = (delta.seq_id - tree.base, delta)
            pairs = touched.get(tree)
            if pairs is None:
                touched[tree] = [pair]
            else:
                pairs.append(pair)
        self.progress.n_tokens += n_tokens
        return touched

    def _apply(self, tree: _Tree, actions: list[Action], step: Step) -> None:
        for action in actions:
            if isinstance(action, Open):
                self._by_sequence[tree.base + action.seq] = tree
                self._engine.open(tree.request(action))
            elif isinstance(action, Close):
                self._engine.close(tree.base + action.seq)
            else:
                self._engine.unmonitor(tree.base + action.seq)
        self._tell(tree, step)

    def _tell(self, tree: _Tree, step: Step) -> None:
        """Put what is new about the tree into the step and the progress."""
        brancher, progress = tree.brancher, self.progress
        branches, ended = brancher.branches[tree.n_branches :], brancher.ended[tree.n_ended :]
        if branches:
            step.branches.extend((tree.job, branch) for branch in branches)
            progress.branches += len(branches)
            progress.sequences_open += len(branches)
            tree.n_branches += len(branches)
        if ended:
            sequences = ((index, brancher.sequence(index)) for index in ended)
            step.ended.extend((tree.job, index, sequence) for index, sequence in sequences if sequence is not None)
            progress.sequences_open -= len(ended)
            tree.n_ended += len(ended)

    def _drop(self, tree: _Tree) -> None:
        """Close what the tree has open in the engine, and forget it."""
        for index in range(tree.brancher.n_sequences):
            self._engine.close(tree.base + index)
        self.progress.sequences_open -= tree.job.n_roots + tree.n_branches - tree.n_ended
        self._forget(tree)

    def _forget(self, tree: _Tree) -> None:
        for index in range(tree.brancher.n_sequences):
            self._by_sequence.pop(tree.base + index, None)
        del self._open[tree.base]
        self.progress.trees_open -= 1
        if not self._open:
            self._engine.driver = None
