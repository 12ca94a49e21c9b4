"""A rollout worker for TRL's AsyncGRPOTrainer: trees drawn and graded beside the training, handed over a group at once.

    trainer = AsyncGRPOTrainer(..., rollout_worker=EagerRolloutWorker(engine, dataset, rewards, options))

Read in TRL 1.16.0 (`RolloutWorkerProtocol`, experimental). There a completion comes with its advantage: a group is of
whatever size its tree has, and one whose rewards are all equal is left out, as it would teach nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, TypeAlias

import numpy as np

from eager.api import Sequence, Tree
from eager.engines import Engine
from eager.generator import Progress
from eager.integrations.errors import IntegrationError, require
from eager.integrations.groups import Draw, draw_trees, not_drawn
from eager.randomness import sequence_seed
from eager.types import BranchConfig, BranchRule, SamplingParams

RewardFunc: TypeAlias = Callable[..., Seq[float | None]]
"""As TRL calls it: with lists, `prompts`, `completions`, `completion_ids` and the data set's other columns."""

_POLL = 0.2  # seconds between looks at whether it was stopped


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How the worker draws: at temperature 1, as TRL takes log-probabilities for those of the drawn distribution.

    `is_right` says of a reward whether it solves its prompt: then what easy prompts save goes to unsolved ones. Of
    `prompts_at_once` prompts each, which share a budget, groups come at a time.
    """

    num_generations: int
    entropy_threshold: float
    branch_rule: BranchRule = "sample"
    threshold_percentile: float | None = None
    max_completion_length: int = 512
    prompts_at_once: int = 8
    is_right: Callable[[float], bool] | None = None
    seed: int = 0
    queue_maxsize: int = 1024

    @property
    def rules(self) -> BranchConfig:
        return BranchConfig(self.num_generations, self.entropy_threshold, self.branch_rule, self.threshold_percentile)


class _StoppedError(Exception):
    """Ends the thread where it is."""


class EagerRolloutWorker:
    """Draws from the data set over and over, in its order, until it is stopped; one thread drives the engine.

    `engine` is one whose weights the trainer brings up to date, as `openai` over the trainer's vLLM server. `dataset`
    has the column `prompt`, chats; `reward_funcs` are TRL's, not asynchronous. A group carries the model version that
    it was begun with.
    """

    def __init__(self, engine: Engine, dataset: Any, reward_funcs: Seq[RewardFunc], options: WorkerOptions) -> None:
        require("trl", "trl")
        self.rollout_buffer: queue.Queue[Any] = queue.Queue(options.queue_maxsize)
        self.metrics_queue: queue.Queue[dict[str, Any]] = queue.Queue()
        self._engine = engine
        self._dataset = dataset
        self._reward_funcs = reward_funcs
        self._options = options
        self._version = 0
        self._n_groups = 0
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    # -- RolloutWorkerProtocol ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; a second time it does nothing."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="eager-rollouts")
            self._running = self._thread.submit(self._run)

    def stop(self) -> None:
        """End after the engine's step under way. The engine stays its owner's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.shutdown()

    def update_model_version(self, model_version: int) -> None:
        """What is begun from now on carries this version."""
        self._version = model_version

    def check_health(self, stale_after_s: float) -> None:
        """Raises what ended the thread, or IntegrationError where nothing was decoded for so long."""
        if self._running is not None and self._running.done():
            self._running.result()
        if time.monotonic() - self._beat > stale_after_s:
            raise IntegrationError(
                f"engine {self._engine.name} has decoded nothing for {stale_after_s:.0f} s: start it again"
            )

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        rows = self._rows()
        try:
            for n_batch in count():
                self._draw(list(islice(rows, self._options.prompts_at_once)), n_batch)
        except _StoppedError:
            return

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """The data set over and over."""
        while True:
            n_rows = 0
            for n_rows, row in enumerate(self._dataset, 1):  # noqa: B007 - the count is looked at behind the loop
                yield row
            if not n_rows:
                raise IntegrationError("the data set has no rows: give one that has")

    def _tick(self, progress: Progress | None = None) -> None:
        self._beat = time.monotonic()
        if self._stop.is_set():
            raise _StoppedError

    def _draw(self, rows: Seq[Mapping[str, Any]], n_batch: int) -> None:
        """Draw and grade a batch, and hand over what teaches."""
        version, options = self._version, self._options
        draw = Draw(
            options.rules,
            SamplingParams(temperature=1.0),
            options.max_completion_length,
            sequence_seed(options.seed, n_batch, 0),
        )
        prompts = [row["prompt"] for row in rows]
        trees = draw_trees(prompts, draw, self._engine, self._grader(rows), self._tick)
        n_kept = 0
        for row, tree in zip(rows, trees, strict=True):
            samples = _samples(row, tree, self._rewards(row, tree.sequences), version, self._n_groups)
            self._n_groups += 1
            n_kept += bool(samples)
            for sample in samples:
                self._put(sample)
        self.metrics_queue.put(
            {
                "rollout/groups_that_teach": (float(n_kept), float(len(trees))),
                "rollout/generated_tokens_total": float(sum(tree.n_tokens for tree in trees)),
            }
        )

    def _put(self, sample: Any) -> None:
        while True:
            self._tick()
            try:
                self.rollout_buffer.put(sample, timeout=_POLL)
            except queue.Full:
                continue
            return

    # -- rewards ------------------------------------------------------------------------------------------------

    def _grader(self, rows: Seq[Mapping[str, Any]]) -> Callable[[Tree, Sequence], bool | None] | None:
        is_right = self._options.is_right
        if is_right is None:
            return None

        def grade(tree: Tree, sequence: Sequence) -> bool | None:
            reward = self._rewards(rows[tree.prompt_index], [sequence])[0]
            return None if reward is None else is_right(reward)

        return grade

    def _rewards(self, row: Mapping[str, Any], sequences: Seq[Sequence]) -> list[float | None]:
        """The sum of all functions; None where none of them could tell."""
        columns = {name: [value] * len(sequences) for name, value in row.items() if name != "prompt"}
        by_function = [
            function(
                prompts=[row["prompt"]] * len(sequences),
                completions=[_message(sequence) for sequence in sequences],
                completion_ids=[list(sequence.token_ids) for sequence in sequences],
                **columns,
            )
            for function in self._reward_funcs
        ]
        known = [[reward for reward in rewards if reward is not None] for rewards in zip(*by_function, strict=True)]
        return [float(sum(rewards)) if rewards else None for rewards in known]


def _message(sequence: Sequence) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": sequence.text}]


def _samples(row: Mapping[str, Any], tree: Tree, rewards: Seq[float | None], version: int, group_id: int) -> list[Any]:
    """TRL's samples of a prompt; none where its rewards are all equal. Rewards are normalised as TRL does it."""
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

    known = np.array([reward for reward in rewards if reward is not None])
    if not known.size or known.max() == known.min():
        return []
    untaught = not_drawn(tree)
    n_prompt = len(tree.prompt_ids)
    return [
        RolloutSample(
            prompt=row["prompt"],
            completion=_message(sequence),
            input_ids=np.array(tree.prompt_ids + sequence.token_ids),
            completion_mask=np.array(
                [0] * n_prompt + [int(i not in untaught[n]) for i in range(len(sequence.token_ids))]
            ),
            old_log_probs=np.array([0.0] * n_prompt + _logprobs(sequence), dtype=np.float32),
            advantage=float((reward - known.mean()) / (known.std() + 1e-8)),
            model_version=version,
            group_id=group_id,
            metrics={"reward": reward, "reward_std": float(known.std())},
        )
        for n, (sequence, reward) in enumerate(zip(tree.sequences, rewards, strict=True))
        if reward is not None
    ]


def _logprobs(sequence: Sequence) -> list[float]:
    known = [logprob for logprob in sequence.logprobs if logprob is not None]
    if len(known) < len(sequence.logprobs):
        raise IntegrationError(
            "the engine does not tell the log-probability of every token that it draws: use another (docs/python.md)"
        )
    return known
