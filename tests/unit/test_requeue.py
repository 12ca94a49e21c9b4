"""Trees and runs that outlive an engine that breaks: none lost, none graded on a broken sequence."""

import json
from itertools import accumulate
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from test_branching import STOPS, noisy

from eager.cli import main
from eager.engines import EngineError, scripted
from eager.engines.base import EngineLostError
from eager.engines.scripted import ScriptedEngine
from eager.generator import Generator
from eager.requeue import RequeuingGenerator
from eager.store.journal import Journal
from eager.types import BranchConfig, SamplingParams, TreeJob

CHAIN = scripted.MODELS["chain"]
seeds = st.integers(0, 10**6)


class FaultyEngine(ScriptedEngine):
    """Breaks in steps of these numbers, and while more than `most` sequences are decoded: with MemoryError then."""

    def __init__(self, *, breaks=(), most=None, **options):
        super().__init__(stops=STOPS, **options)
        self.breaks, self.most, self.n_steps = breaks, most, 0

    def step(self):
        self.n_steps += 1
        deltas = super().step()  # lost with the error: nobody sees them
        if self.n_steps in self.breaks:
            raise EngineError(f"step {self.n_steps} broke")
        if self.most is not None and len(deltas) > self.most:
            raise MemoryError
        return deltas


def poisoned(script, *poison, from_length=3):
    """The script, but a sequence on one of these prompts breaks the engine when it is so long."""

    def play(ids):
        if ids[0] in poison and len(ids) >= from_length:
            raise EngineError("poison")
        return script(ids)

    return play


def jobs(n, *, max_sequences=4, max_length=20, n_roots=1):
    rules = BranchConfig(max_sequences, 2.0)
    return [TreeJob(i, (100 + i, 101), rules, SamplingParams(), max_length, 3, n_roots=n_roots) for i in range(n)]


def grow(generator, all_jobs):
    """Sequences and branches of every tree by its prompt; each comes once. What it cost may differ."""
    for job in all_jobs:
        generator.add(job)
    pairs = [(job.prompt_index, (tree.sequences, tree.branches)) for job, tree in generator.run()]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def undisturbed(script, all_jobs):
    return grow(Generator(ScriptedEngine(script=script, stops=STOPS)), all_jobs)


def without(trees, *indices):
    return {index: tree for index, tree in trees.items() if index not in indices}


@given(seeds, st.lists(st.integers(25, 60), max_size=5), st.integers(4, 20))
@settings(max_examples=15, deadline=None)
def test_passing_faults_change_no_tree(seed, gaps, capacity):
    """Steps that break now and then cost time alone: every tree is what it would have been, to the last draw."""
    script = noisy(seed)
    breaks = list(accumulate(gaps))  # further apart than a tree takes, all sequences of which have room
    generator = RequeuingGenerator(FaultyEngine(script=script, breaks=breaks, capacity=capacity))
    assert grow(generator, jobs(8)) == undisturbed(script, jobs(8))
    progress = generator.progress
    assert (progress.trees_done, progress.trees_open, progress.sequences_open) == (8, 0, 0)


@given(seeds, st.integers(4, 12))
@settings(max_examples=15, deadline=None)
def test_an_engine_without_memory_for_all_goes_on_with_fewer(seed, most):
    """It has room for one tree at least: none is given up, and fewer are in flight than before."""
    script = noisy(seed)
    generator = RequeuingGenerator(FaultyEngine(script=script, most=most))
    assert grow(generator, jobs(10)) == undisturbed(script, jobs(10))


@given(seeds, st.sets(st.integers(0, 15), min_size=1, max_size=3), st.integers(2, 10))
@settings(max_examples=15, deadline=None)
def test_only_what_breaks_the_engine_is_given_up(seed, poison, from_length):
    """However many were open with it: the others come whole; it comes as errors without a token."""
    script = noisy(seed, p_end=0.0)
    faulty = poisoned(script, *(100 + index for index in poison), from_length=from_length)
    generator = RequeuingGenerator(FaultyEngine(script=faulty, capacity=32))
    trees = grow(generator, jobs(16))
    assert without(trees, *poison) == without(undisturbed(script, jobs(16)), *poison)
    assert generator.given_up == poison
    for index in poison:
        ((root,), _) = trees[index]
        assert (root.token_ids, root.finish_reason) == ((), "error")
        assert root.error == "the engine broke each time that it decoded this prompt (poison)"
    assert generator.progress.trees_done == 16


def test_it_is_halved_until_the_cause_is_alone_and_then_not_at_all():
    """What is told says so: 16 open, then 8, 4, 2 and 1 at most; afterwards the engine's room alone counts again."""
    told = []
    engine = FaultyEngine(script=poisoned(noisy(1, p_end=0.0), 100), capacity=64)
    generator = RequeuingGenerator(engine, on_failure=told.append)
    grow(generator, jobs(16))
    assert told == [
        *(f"poison; begun again: {n} open prompts, at most {n // 2} at once" for n in (16, 8, 4, 2)),
        "poison; begun again: 1 open prompt, at most 1 at once",
        "poison; prompt 0 was alone and is given up",
    ]
    assert generator.max_open is None


def test_the_first_failure_of_a_lone_tree_is_no_verdict():
    """It begins again like any other."""
    script = noisy(2, p_end=0.0)
    told = []
    generator = RequeuingGenerator(FaultyEngine(script=script, breaks={3}), on_failure=told.append)
    assert grow(generator, jobs(1)) == undisturbed(script, jobs(1))
    assert told == ["step 3 broke; begun again: 1 open prompt, at most 1 at once"]


def test_a_dead_engine_is_no_fault_of_the_prompts():
    """One that decodes nothing any more has its error raised; no tree is said to have failed, none stays open."""
    engine = ScriptedEngine(script=noisy(1, p_end=0.0), stops=STOPS, fail_after=5)
    generator = RequeuingGenerator(engine)
    for job in jobs(8):
        generator.add(job)
    with pytest.raises(EngineError, match="as it was told to"):
        list(generator.run())
    assert generator.given_up == set()
    assert not generator.has_work
    assert not engine._active
    engine._steps_left = None
    assert len(grow(RequeuingGenerator(engine), jobs(8))) == 8


def test_an_engine_that_says_it_is_lost_is_believed():
    """It was shut down, or its server is gone: nothing is tried again."""
    engine = FaultyEngine(script=noisy(1, p_end=0.0))
    generator = RequeuingGenerator(engine, on_failure=pytest.fail)
    for job in jobs(8):
        generator.add(job)
    generator.step()
    engine.shutdown()
    with pytest.raises(EngineLostError, match="was shut down"):
        list(generator.run())


def test_more_may_be_open_again_as_trees_finish():
    """One more for as many as may be: a fault that passed does not slow a run for good."""
    engine = FaultyEngine(script=noisy(1, p_end=0.0), breaks={2}, capacity=64)
    generator = RequeuingGenerator(engine)
    grow(generator, jobs(40, max_sequences=1))
    assert generator.max_open > 20


def test_another_tree_of_a_prompt_that_was_given_up_is_not_tried():
    """Its roots fail at once: each try would cost everybody's work."""
    engine = FaultyEngine(script=poisoned(noisy(1, p_end=0.0), 100))
    generator = RequeuingGenerator(engine)
    grow(generator, jobs(1))
    n_steps = engine.n_steps
    trees = grow(generator, jobs(1, n_roots=4))
    assert [root.finish_reason for root in trees[0][0]] == ["error"] * 4
    assert engine.n_steps == n_steps


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs all experiments over 8 prompts on a script; the outcome and the folder."""
    problems = tmp_path / "problems.jsonl"
    lines = [json.dumps({"q": f"problem number {n} " * (n + 1), "a": "1"}) for n in range(8)]
    problems.write_text("\n".join(lines))

    def run(script, folder: str):
        monkeypatch.setitem(scripted.MODELS, "played", script)
        arguments = [
            "run", "--engine", "scripted", "--model_name", "played", "--data_name", "mine",
            "--data_path", str(problems), "--prompt_field", "q", "--target_field", "a", "--max_sequences", "4",
            "--entropy_threshold", "1.5", "--experiments", "all,eager_vote", "--output_dir", str(tmp_path / folder),
        ]  # fmt: skip
        return CliRunner().invoke(main, arguments), Journal(tmp_path / folder)

    return run


def records_of(journal: Journal, name: str):
    """Each prompt's sequences and branches; what was decoded for nothing and seconds may differ."""
    return {record.prompt_index: (record.sequences, record.branches) for record in journal.records(name)}


def test_a_run_survives_faults_of_its_engine(run):
    """Every prompt of every experiment once, with the sequences of an undisturbed run; the faults are told."""
    n_calls = 0

    def shaky(ids):
        nonlocal n_calls
        n_calls += 1
        if n_calls % 150 == 0:
            raise EngineError("a passing fault")
        return CHAIN(ids)

    whole, expected = run(CHAIN, "whole")
    done, journal = run(shaky, "out")
    assert (whole.exit_code, done.exit_code) == (0, 0)
    assert done.stderr.count("a passing fault; ") >= 3
    assert journal.experiments() == expected.experiments()
    for name in journal.experiments():
        assert records_of(journal, name) == records_of(expected, name)


def test_a_prompt_that_breaks_the_engine_is_recorded_as_an_error(run):
    """In every experiment once, ungraded, with the sentence; all other prompts are those of an undisturbed run."""
    number_four = 1000 + ord("4")  # as the scripted engine encodes that word

    def script(ids):
        if number_four in ids:
            raise EngineError("poison")
        return CHAIN(ids)

    whole, expected = run(CHAIN, "whole")
    done, journal = run(script, "out")
    assert (whole.exit_code, done.exit_code) == (0, 0), done.output
    for name in ("parallel", "eager_init_th1.5"):
        assert journal.prompts(name) == list(range(8))
        assert without(records_of(journal, name), 4) == without(records_of(expected, name), 4)
        sequences = journal.read(name, 4).sequences
        assert len(sequences) == (4 if name == "parallel" else 1)
        for sequence in sequences:
            assert (sequence.finish_reason, sequence.text, sequence.answer, sequence.correct) == (
                "error",
                "",
                None,
                None,
            )
            assert sequence.error == "the engine broke each time that it decoded this prompt (poison)"
    for name in ("eager_adapt_th1.5", "eager_th1.5", "eager_vote_th1.5"):
        assert journal.prompts(name) == list(range(8))
        assert {s.finish_reason for s in journal.read(name, 4).sequences} <= {"error"}


def test_a_dead_engine_ends_the_run_which_goes_on_with_another(run):
    """Nothing is recorded of the prompts that it was at; the next run has them all."""
    n_left = 400

    def dying(ids):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise EngineError("the engine is dead")
        return CHAIN(ids)

    done, journal = run(dying, "out")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "Error: the engine is dead"
    assert all(s.finish_reason != "error" for r in journal.records("parallel") for s in r.sequences)
    done, journal = run(CHAIN, "out")
    whole, expected = run(CHAIN, "whole")
    assert (whole.exit_code, done.exit_code) == (0, 0)
    for name in expected.experiments():
        assert records_of(journal, name) == records_of(expected, name)
