"""The rollout worker for TRL's asynchronous trainer, on the scripted engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import needs
import numpy as np
import pytest

needs.package("trl", "trl")

from trl.experimental.async_grpo.async_grpo_trainer import RolloutWorkerProtocol  # noqa: E402

from eager.engines import EngineError  # noqa: E402
from eager.engines.scripted import ScriptedEngine  # noqa: E402
from eager.errors import EagerError  # noqa: E402
from eager.integrations.trl_worker import EagerRolloutWorker, WorkerOptions  # noqa: E402

ROWS = [
    {"prompt": [{"role": "user", "content": text}], "target": target}
    for text, target in (("How many are left?", "{1}"), ("Why?", "never"), ("How many come?", "{2}"))
]
OPTIONS = WorkerOptions(6, 1.5, prompts_at_once=2, max_completion_length=40)


def reward(completions: Any, target: Any, **columns: Any) -> list[float | None]:
    assert set(columns) == {"prompts", "completion_ids"}
    return [float(goal in item[0]["content"]) for item, goal in zip(completions, target, strict=True)]


def taken(worker: EagerRolloutWorker, n: int) -> list[Any]:
    return [worker.rollout_buffer.get(timeout=20) for _ in range(n)]


def watched(worker: EagerRolloutWorker) -> None:
    """As the trainer does while it waits for samples."""
    for _ in range(200):
        worker.check_health(60)
        time.sleep(0.05)


@pytest.fixture
def started() -> Iterator[Any]:
    workers = []

    def start(options: WorkerOptions = OPTIONS, *, engine=None, rows=ROWS, rewards=(reward,)) -> EagerRolloutWorker:
        worker = EagerRolloutWorker(engine or ScriptedEngine(), rows, rewards, options)
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.stop()


def test_groups_come_whole_and_all_of_them_teach(started):
    """One after the other, each with advantages of both signs that sum to nothing; no group of equal rewards."""
    samples = taken(started(), 60)
    numbers = [sample.group_id for sample in samples]
    assert numbers == sorted(numbers)
    for number in sorted(set(numbers))[:-1]:  # the last may have been cut off here
        group = [sample for sample in samples if sample.group_id == number]
        assert len({str(sample.prompt) for sample in group}) == 1
        assert sum(sample.advantage for sample in group) == pytest.approx(0, abs=1e-5)
        assert {sample.metrics["reward"] for sample in group} == {0.0, 1.0}
    assert not any(sample.prompt == ROWS[1]["prompt"] for sample in samples)  # never right


def test_a_sample_holds_what_trl_trains_on(started):
    """Prompt and completion, a mask of the latter, the log-probabilities that it was drawn with."""
    engine = ScriptedEngine()
    for sample in taken(started(), 20):
        n_prompt = len(engine.encode_chat(sample.prompt))
        assert len(sample.input_ids) == len(sample.completion_mask) == len(sample.old_log_probs)
        assert list(sample.input_ids[:n_prompt]) == engine.encode_chat(sample.prompt)
        assert sample.completion_mask.tolist() == [0] * n_prompt + [1] * (len(sample.input_ids) - n_prompt)
        assert not sample.old_log_probs[:n_prompt].any()
        assert (sample.old_log_probs <= 0).all()
        assert sample.old_log_probs.any()
        assert sample.completion[0]["role"] == "assistant"


def test_what_top2_forces_is_masked(started):
    """It is no choice of the policy."""
    samples = taken(started(replace(OPTIONS, branch_rule="top2")), 20)
    n_prompts = [len(ScriptedEngine().encode_chat(sample.prompt)) for sample in samples]
    assert any(0 in sample.completion_mask[n:] for sample, n in zip(samples, n_prompts, strict=True))


def test_the_saved_budget_goes_to_unsolved_prompts(started):
    """Where a reward can be right; some group is then larger than a tree may be."""
    options = replace(OPTIONS, entropy_threshold=2.2, is_right=lambda reward: reward > 0.5, prompts_at_once=3)
    sizes = np.bincount([sample.group_id for sample in taken(started(options), 150)])
    assert max(sizes) > 6


def test_samples_carry_the_version_that_they_were_begun_with(started):
    """It is told between batches; none carries one that came later."""
    worker = started(replace(OPTIONS, queue_maxsize=1))
    assert taken(worker, 1)[0].model_version == 0
    worker.update_model_version(5)
    versions = [sample.model_version for sample in taken(worker, 60)]
    assert versions == sorted(versions)
    assert set(versions) == {0, 5}


def test_it_counts_what_it_costs(started):
    """By TRL's queue for metrics: how many groups teach, and the tokens of all."""
    worker = started()
    metrics = worker.metrics_queue.get(timeout=20)
    n_kept, n_drawn = metrics["rollout/groups_that_teach"]
    assert 0 <= n_kept <= n_drawn == 2
    assert metrics["rollout/generated_tokens_total"] > 0


def test_it_stops_at_once_and_leaves_the_engine_free(started):
    """Also while nobody takes what it offers."""
    engine = ScriptedEngine()
    worker = started(replace(OPTIONS, queue_maxsize=1), engine=engine)
    taken(worker, 1)
    begun = time.monotonic()
    worker.stop()
    assert time.monotonic() - begun < 5
    assert engine.driver is None
    worker.check_health(60)


def test_its_failure_is_told(started):
    """By the next look at its health: what the engine or the data said."""
    for options, error, sentence in (
        ({"engine": ScriptedEngine(fail_after=3)}, EngineError, "as it was told to"),
        ({"rows": []}, EagerError, "has no rows"),
    ):
        worker = started(**options)
        with pytest.raises(error, match=sentence):
            watched(worker)


def test_an_engine_that_hangs_is_told():
    """When it has decoded nothing for too long."""
    worker = EagerRolloutWorker(ScriptedEngine(), ROWS, (reward,), OPTIONS)
    time.sleep(0.02)
    with pytest.raises(EagerError, match="has decoded nothing"):
        worker.check_health(0.01)


def test_it_is_what_trl_asks_for():
    """Every name of the installed TRL's protocol is there."""
    worker = EagerRolloutWorker(ScriptedEngine(), ROWS, (reward,), OPTIONS)
    wanted = [name for name in vars(RolloutWorkerProtocol) if not name.startswith("_")]
    assert {"start", "stop", "update_model_version", "check_health"} <= set(wanted)
    assert all(hasattr(worker, name) for name in [*wanted, *RolloutWorkerProtocol.__annotations__])
