"""Drives an engine that grows whole trees elsewhere: jobs go out, finished trees come back.

`TreeGenerator` is to such an engine what `Generator` is to the others, and `grower` chooses between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from eager.branching import IsSettled
from eager.engines.base import Engine, EngineError, TreeSource
from eager.generator import Progress, Step
from eager.requeue import RequeuingGenerator
from eager.types import BranchConfig, Generation, TreeJob
from eager.wire import Alive, Begun, Branched, Ended, Event, Finished


def grower(
    engine: Engine,
    rules: BranchConfig,
    on_step: Callable[[Progress], None] | None = None,
    on_failure: Callable[[str], None] | None = None,
    *,
    may_settle: bool = False,
) -> Grower:
    """What grows trees by these rules on the engine: whole ones where it has them, else sequence by sequence.

    `on_failure` is told in a sentence how the engine broke and what becomes of the trees. `may_settle`: jobs will come
    with an `is_settled`, which whole trees cannot be asked.
    """
    trees = whole_trees_for(engine, rules)
    if trees is None or may_settle:
        return RequeuingGenerator(engine, on_step, on_failure)
    return TreeGenerator(engine, trees, on_step)


def whole_trees_for(engine: Engine, rules: BranchConfig) -> TreeSource | None:
    """Where whole trees by these rules can be had, if anywhere."""
    trees = engine.whole_trees
    return None if trees is None or trees.why_not(rules) is not None else trees


class _Tree:
    """A tree that is out; what has been told of it since it was last begun."""

    __slots__ = ("job", "n_branches", "n_ended", "n_tokens")

    def __init__(self, job: TreeJob) -> None:
        self.job = job
        self.n_branches = self.n_ended = self.n_tokens = 0

    @property
    def n_open(self) -> int:
        return self.job.n_roots + self.n_branches - self.n_ended


class TreeGenerator:
    """As `Generator`, of which it has all methods, over whole trees.

    In its steps branches come with the finished tree, and the sequences in `ended` lack their entropies, which the
    finished tree has. Of a tree that broke and was begun anew, sequences may be told twice.
    """

    def __init__(self, engine: Engine, trees: TreeSource, on_step: Callable[[Progress], None] | None = None) -> None:
        """`on_step` is called after every step of `run()`."""
        self.progress = Progress()
        self.max_open: int | None = None
        """As Generator's."""
        self.given_up: frozenset[int] = frozenset()  # a server that lacks memory makes trees wait
        self._engine = engine
        self._trees = trees
        self._on_step = on_step
        self._waiting: deque[TreeJob] = deque()
        self._out: dict[int, _Tree] = {}
        self._next_id = 0

    @property
    def has_work(self) -> bool:
        """Whether any tree is out or waiting."""
        return bool(self._out or self._waiting)

    def add(self, job: TreeJob, is_settled: IsSettled | None = None) -> None:
        """Queue a tree; at any time. EngineError where its rules, or `is_settled`, cannot be had with whole trees."""
        reason = self._trees.why_not(job.config)
        if is_settled is not None:
            reason = "answers that agree cannot end a tree that grows elsewhere: leave --settle out"
        if reason is not None:
            raise EngineError(reason)
        self._waiting.append(job)

    def cancel(self, job: TreeJob) -> bool:
        """Drop `job` itself (not an equal one), waiting or out; False if it is neither."""
        for tree_id, tree in self._out.items():
            if tree.job is job:
                self._drop(tree_id)
                return True
        n_waiting = len(self._waiting)
        self._waiting = deque(waiting for waiting in self._waiting if waiting is not job)
        return len(self._waiting) < n_waiting

    def close(self) -> None:
        """Drop all jobs."""
        self._waiting.clear()
        for tree_id in list(self._out):
            self._drop(tree_id)

    def run(self) -> Iterator[tuple[TreeJob, Generation]]:
        """Yield every tree as it is finished, until none is left. Left in the middle, it drops the other jobs."""
        with ExitStack() as on_leaving:
            on_leaving.callback(self.close)
            while self.has_work:
                yield from self.step().finished
                if self._on_step:
                    self._on_step(self.progress)

    def step(self) -> Step:
        """Send out what there is room for and take what has come. Raises EngineError; then all jobs are dropped."""
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            step = Step()
            while self._waiting and self._may_begin:
                self._send(self._waiting.popleft())
            for tree_id, event in self._trees.take() if self._out else []:
                self._apply(tree_id, event, step)
            self.progress.waiting = self._engine.waiting
            on_failure.pop_all()
        return step

    @property
    def _may_begin(self) -> bool:
        if self.max_open is not None and len(self._out) >= self.max_open:
            return False
        return self.progress.sequences_open < self._engine.capacity or not self._out

    def _send(self, job: TreeJob) -> None:
        self._engine.take_for(self)
        self._out[self._next_id] = _Tree(job)
        self._trees.open(self._next_id, job)
        self._next_id += 1
        self.progress.trees_open += 1
        self.progress.sequences_open += job.n_roots

    def _apply(self, tree_id: int, event: Event, step: Step) -> None:
        tree, progress = self._out[tree_id], self.progress
        if isinstance(event, Begun):
            self._begin_anew(tree)
        elif isinstance(event, Branched):
            tree.n_branches += 1
            progress.branches += 1
            progress.sequences_open += 1
        elif isinstance(event, Ended):
            tree.n_ended += 1
            progress.sequences_open -= 1
            step.ended.append((tree.job, event.seq, event.sequence))
        elif isinstance(event, Alive):
            progress.n_tokens += event.n_tokens - tree.n_tokens
            tree.n_tokens = event.n_tokens
        elif isinstance(event, Finished):
            self._finish(tree_id, event.tree, step)

    def _finish(self, tree_id: int, finished: Generation, step: Step) -> None:
        tree, progress = self._out[tree_id], self.progress
        progress.n_tokens += finished.n_tokens + finished.discarded - tree.n_tokens
        progress.branches += len(finished.branches) - tree.n_branches
        progress.trees_done += 1
        step.branches.extend((tree.job, branch) for branch in finished.branches)
        step.finished.append((tree.job, finished))
        self._forget(tree_id)

    def _begin_anew(self, tree: _Tree) -> None:
        self.progress.branches -= tree.n_branches
        self.progress.sequences_open += tree.job.n_roots - tree.n_open
        tree.n_branches = tree.n_ended = 0
        self.progress.n_tokens -= tree.n_tokens
        tree.n_tokens = 0

    def _drop(self, tree_id: int) -> None:
        self._trees.close(tree_id)
        self._forget(tree_id)

    def _forget(self, tree_id: int) -> None:
        tree = self._out.pop(tree_id)
        self.progress.sequences_open -= tree.n_open
        self.progress.trees_open -= 1
        if not self._out:
            self._engine.driver = None


Grower = RequeuingGenerator | TreeGenerator
