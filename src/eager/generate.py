"""Drives one engine over the trees of many prompts at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eager.branching import Brancher
from eager.engines.base import Engine
from eager.randomness import sequence_seed
from eager.types import Action, Close, Delta, Generation, Open, TreeJob


@dataclass(slots=True)
class Progress:
    """Counts since the generator was made; `n_tokens` as decoded by the engine."""

    trees_done: int = 0
    trees_open: int = 0
    sequences_open: int = 0
    branches: int = 0
    n_tokens: int = 0


class _Tree:
    """A tree in flight. Its sequence i is known to the engine as `base + i`."""

    __slots__ = ("base", "brancher", "job", "n_branches", "n_open")

    def __init__(self, job: TreeJob, brancher: Brancher, base: int) -> None:
        self.job = job
        self.brancher = brancher
        self.base = base
        self.n_open = 0  # as last counted into the progress, like n_branches
        self.n_branches = 0


class Generator:
    """Grows trees on an engine, as many at once as it has room for.

    Jobs are started in the order they were added; more may be added while `run()` is being consumed.
    """

    def __init__(self, engine: Engine, on_step: Callable[[Progress], None] | None = None) -> None:
        self.progress = Progress()
        self._engine = engine
        self._on_step = on_step
        self._waiting: deque[TreeJob] = deque()
        self._trees: dict[int, _Tree] = {}  # by engine sequence id
        self._next_base = 0

    def add(self, job: TreeJob) -> None:
        """Queue a tree."""
        self._waiting.append(job)

    def run(self) -> Iterator[tuple[TreeJob, Generation]]:
        """Yield every tree as it is finished, until none is left."""
        while self._waiting or self.progress.trees_open:
            # 1. Admit trees while a new sequence would be decoded at once.
            while self._waiting and (self._engine.has_room or not self.progress.trees_open):
                self._start(self._waiting.popleft())
            # 2. Decode once, and show each tree what is its own.
            touched = self._collect(self._engine.step())
            # 3. Let the trees branch; hand out the finished ones.
            for tree, deltas in touched.items():
                self._apply(tree, tree.brancher.observe(deltas))
                if tree.brancher.is_done:
                    self._forget(tree)
                    yield tree.job, tree.brancher.result()
            if self._on_step:
                self._on_step(self.progress)

    def _start(self, job: TreeJob) -> None:
        tree = _Tree(job, Brancher(job, self._engine.stops), self._next_base)
        self._next_base += job.config.max_sequences
        self.progress.trees_open += 1
        self._apply(tree, tree.brancher.start())

    def _collect(self, deltas: list[Delta]) -> dict[_Tree, list[tuple[int, Delta]]]:
        touched: dict[_Tree, list[tuple[int, Delta]]] = {}
        progress = self.progress
        for delta in deltas:
            tree = self._trees[delta.seq_id]
            progress.n_tokens += len(delta.token_ids)
            pair = (delta.seq_id - tree.base, delta)
            if tree in touched:
                touched[tree].append(pair)
            else:
                touched[tree] = [pair]
        return touched

    def _apply(self, tree: _Tree, actions: list[Action]) -> None:
        job, config = tree.job, tree.job.config
        for action in actions:
            seq_id = tree.base + action.seq
            if isinstance(action, Open):
                self._trees[seq_id] = tree
                self._engine.open(
                    seq_id,
                    action.token_ids,
                    config.sampling,
                    max_length=config.max_length,
                    seed=sequence_seed(job.seed, job.prompt_index, job.first_sequence + action.seq),
                    parent=None if action.parent is None else tree.base + action.parent,
                    monitor=action.monitor,
                )
            elif isinstance(action, Close):
                self._engine.close(seq_id)
            else:
                self._engine.unmonitor(seq_id)
        self.progress.sequences_open += tree.brancher.n_open - tree.n_open
        self.progress.branches += tree.brancher.n_branches - tree.n_branches
        tree.n_open, tree.n_branches = tree.brancher.n_open, tree.brancher.n_branches

    def _forget(self, tree: _Tree) -> None:
        for index in range(tree.brancher.n_sequences):
            self._trees.pop(tree.base + index, None)
        self.progress.trees_open -= 1
        self.progress.trees_done += 1
