import time

from hypothesis import given, settings, strategies as st
from test_branching import STOPS, noisy

from eager.engines.scripted import ScriptedEngine
from eager.generate import Generator
from eager.types import BranchConfig, Generation, TreeJob

import pytest  # isort: skip


def grow_all(script, n_prompts, **options):
    generator = Generator(ScriptedEngine(script=script, stops=STOPS, **options))
    for index in range(n_prompts):
        generator.add(TreeJob(index, (100 + index, 101), BranchConfig(6, 2.0, 30), seed=3))
    return {job.prompt_index: generation for job, generation in generator.run()}, generator.progress


def what_it_says(generations: dict[int, Generation]):
    return {index: (g.sequences, g.branches) for index, g in generations.items()}


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_capacity_and_step_size_change_no_tree(seed, capacity, tokens_per_step):
    """A cramped engine, or one that delivers several tokens a step, gives the trees a roomy one gives."""
    script = noisy(seed)
    expected, _ = grow_all(script, 5)
    cramped, _ = grow_all(script, 5, capacity=capacity, tokens_per_step=tokens_per_step)
    assert what_it_says(cramped) == what_it_says(expected)


def test_progress_adds_up():
    """At the end nothing is open, and branches and trees are counted."""
    generations, progress = grow_all(noisy(1), 7, capacity=4)
    assert (progress.trees_done, progress.trees_open, progress.sequences_open) == (7, 0, 0)
    assert progress.branches == sum(len(g.branches) for g in generations.values()) > 0
    assert progress.n_tokens >= sum(g.n_tokens for g in generations.values()) - progress.branches


def test_jobs_may_be_added_while_running():
    """A consumer that adds a job for every finished one sees them all."""
    generator = Generator(ScriptedEngine(script=noisy(2), stops=STOPS))
    generator.add(TreeJob(0, (100,), BranchConfig(2, 2.0, 12), seed=1))
    seen = []
    for job, _ in generator.run():
        seen.append(job.prompt_index)
        if job.prompt_index < 5:
            generator.add(TreeJob(job.prompt_index + 1, (100,), BranchConfig(2, 2.0, 12), seed=1))
    assert seen == [0, 1, 2, 3, 4, 5]


class TimedEngine(ScriptedEngine):
    """Notes the time spent inside the engine; delivers prepared deltas quickly."""

    seconds = 0.0

    def step(self):
        start = time.perf_counter()
        deltas = super().step()
        self.seconds += time.perf_counter() - start
        return deltas


@pytest.mark.parametrize("threshold", [2.0, 0.5], ids=["monitored", "branching"])
def test_bookkeeping_is_small_beside_the_engine(threshold):
    """Outside the engine a token at 1,000 open sequences costs less than the scripted engine itself takes.

    benchmarks/bookkeeping.py prints the microseconds; a test asserts no absolute time.
    """
    distribution = dict.fromkeys((1, 2, 3), 1 / 3)
    engine = TimedEngine(script=lambda ids: distribution, stops=STOPS, capacity=1000)
    generator = Generator(engine)
    for index in range(125):
        generator.add(
            TreeJob(index, (100,), BranchConfig(8, threshold, 60, n_roots=8 if threshold > 1 else 1), seed=index)
        )
    start = time.perf_counter()
    assert sum(len(g.sequences) for _, g in generator.run()) == 1000
    assert time.perf_counter() - start - engine.seconds < engine.seconds
