"""The driver: trees whatever the engine's size, events as they happen, and nothing left open however it ends."""

import time

import pytest
from hypothesis import given, settings, strategies as st
from test_branching import STOPS, noisy

from eager.engines import EngineError
from eager.engines.scripted import ScriptedEngine
from eager.generator import Generator, Progress, Step
from eager.types import BranchConfig, Generation, SamplingParams, TreeJob


def job(index, *, max_length=12, max_sequences=2, **options):
    return TreeJob(index, (100 + index,), BranchConfig(max_sequences, 2.0), SamplingParams(), max_length, 1, **options)


def engine_of(seed=2, **options):
    return ScriptedEngine(script=noisy(seed, p_end=0.0), stops=STOPS, **options)


def generator_of(engine, *jobs):
    generator = Generator(engine)
    for one in jobs:
        generator.add(one)
    return generator


def is_empty(engine):
    """Whether nothing is decoded and nothing waits."""
    return not engine._active and not engine._waiting


def grow_all(script, n_prompts, **options):
    generator = Generator(ScriptedEngine(script=script, stops=STOPS, **options))
    for index in range(n_prompts):
        generator.add(TreeJob(index, (100 + index, 101), BranchConfig(6, 2.0), SamplingParams(), 30, seed=3))
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


def test_no_tree_begins_while_sequences_wait():
    """Its own would only wait behind them: what is open ends the sooner."""
    generator = generator_of(engine_of(capacity=6), *[job(i, max_sequences=4, n_roots=4) for i in range(20)])
    while generator.has_work:
        generator.step()
        assert generator.progress.trees_open <= 2


def test_so_many_trees_are_open_at_most():
    """`max_open` bounds them, in the middle, too: 0 lets nothing more begin, and nothing else happens then."""
    generator = generator_of(engine_of(), *[job(i) for i in range(20)])
    generator.max_open = 3
    n_done = sum(len(generator.step().finished) for _ in range(8))
    assert generator.progress.trees_open == 3
    generator.max_open = 0
    n_done += sum(len(generator.step().finished) for _ in range(20))
    assert (generator.progress.trees_open, generator.step()) == (0, Step())
    generator.max_open = None
    assert n_done + len(list(generator.run())) == 20


def test_jobs_may_be_added_while_running():
    """A consumer that adds a job for every finished one sees them all."""
    generator = Generator(ScriptedEngine(script=noisy(2), stops=STOPS))
    generator.add(job(0))
    seen = []
    for done, _ in generator.run():
        seen.append(done.prompt_index)
        if done.prompt_index < 5:
            generator.add(job(done.prompt_index + 1))
    assert seen == [0, 1, 2, 3, 4, 5]


def test_steps_tell_what_happens_and_add_up_to_the_trees():
    """Driven by hand the trees are those of `run()`; every branch and every ended sequence is told once, in time."""
    jobs = [job(index, max_length=30, max_sequences=5) for index in range(4)]
    expected = {one.prompt_index: tree for one, tree in generator_of(engine_of(capacity=7), *jobs).run()}
    generator = generator_of(engine_of(capacity=7), *jobs)
    trees, branches, ended = {}, {index: [] for index in range(4)}, {index: {} for index in range(4)}
    while generator.has_work:
        step = generator.step()
        for one, branch in step.branches:
            assert one.prompt_index not in trees
            branches[one.prompt_index].append(branch)
        for one, seq, sequence in step.ended:
            assert seq not in ended[one.prompt_index]
            ended[one.prompt_index][seq] = sequence
        trees.update({one.prompt_index: tree for one, tree in step.finished})
    assert trees == expected
    assert sum(map(len, branches.values())) > 0
    for index, tree in trees.items():
        assert tuple(branches[index]) == tree.branches
        assert tuple(ended[index][seq] for seq in range(len(tree.sequences))) == tree.sequences


def test_a_step_without_work_brings_nothing():
    """The engine is not asked; a job added later is grown."""
    generator = Generator(engine_of(fail_after=0))
    assert not generator.has_work
    assert generator.step() == Step()
    with pytest.raises(EngineError, match="as it was told to"):
        generator_of(engine_of(fail_after=0), job(0)).step()


def test_progress_steers_nothing():
    """Whatever is done to the counter, the trees are the same."""
    generator = generator_of(engine_of(), job(0), job(1))
    generator.step()
    generator.progress = Progress()
    trees = list(generator.run())
    assert trees == list(generator_of(engine_of(), job(0), job(1)).run())


def test_a_cancelled_job_is_gone():
    """Open or waiting, its sequences are closed and its tree never comes; the others come as if it had not been."""
    engine, jobs = engine_of(capacity=2), [job(index) for index in range(4)]
    generator = generator_of(engine, *jobs)
    generator.step()
    assert [generator.cancel(jobs[index]) for index in (0, 3)] == [True, True]
    trees = dict(generator.run())
    assert trees == dict(generator_of(engine_of(), jobs[1], jobs[2]).run())
    assert [generator.cancel(jobs[index]) for index in (0, 1, 3)] == [False] * 3
    assert is_empty(engine)
    assert (generator.progress.trees_open, generator.progress.sequences_open, generator.progress.trees_done) == (
        0,
        0,
        2,
    )


def leave_by_break(generator):
    for _ in generator.run():
        break


def leave_by_exception(generator):
    def consume():
        for _, tree in generator.run():
            raise ZeroDivisionError(tree)

    with pytest.raises(ZeroDivisionError):
        consume()


def leave_by_closing(generator):
    trees = generator.run()
    next(trees)
    trees.close()


def leave_by_interrupt(generator):
    engine_step, generator._engine.step = generator._engine.step, interrupted
    with pytest.raises(KeyboardInterrupt):
        generator.step()
    generator._engine.step = engine_step


def leave_by_failure(generator):
    generator._engine._steps_left = 0
    with pytest.raises(EngineError, match="as it was told to"):
        list(generator.run())
    generator._engine._steps_left = None


def leave_by_hand(generator):
    generator.step()
    generator.close()


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "leave",
    [leave_by_break, leave_by_exception, leave_by_closing, leave_by_interrupt, leave_by_failure, leave_by_hand],
)
def test_what_is_left_in_the_middle_is_closed(leave):
    """However a run ends early, the engine holds nothing of it, and another Generator gets its own trees."""
    engine = engine_of(capacity=5)
    generator = generator_of(engine, job(0, max_length=4), *[job(index, max_length=40) for index in range(1, 9)])
    leave(generator)
    assert is_empty(engine)
    assert not generator.has_work
    assert (generator.progress.trees_open, generator.progress.sequences_open) == (0, 0)
    assert list(generator_of(engine, job(7)).run()) == list(generator_of(engine_of(), job(7)).run())


def test_two_generators_do_not_share_an_engine():
    """While one has trees open another is refused, with the remedy; in turn, each after the other, both work."""
    engine = engine_of()
    first, second = generator_of(engine, job(0)), generator_of(engine, job(1))
    first.step()
    with pytest.raises(EngineError, match=r"another Generator has trees open on this engine: .* close\(\) it"):
        second.step()
    assert dict(first.run()).keys() == {job(0)}
    second.add(job(1))
    second.step()
    engine.driver.close()
    assert not second.has_work
    assert dict(generator_of(engine, job(0)).run()) == dict(generator_of(engine_of(), job(0)).run())


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
        rules, n_roots = BranchConfig(8, threshold), 8 if threshold > 1 else 1
        generator.add(TreeJob(index, (100,), rules, SamplingParams(), 60, seed=index, n_roots=n_roots))
    start = time.perf_counter()
    assert sum(len(g.sequences) for _, g in generator.run()) == 1000
    assert time.perf_counter() - start - engine.seconds < engine.seconds
