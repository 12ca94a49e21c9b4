"""The other forms of `generate`, and the second stage: events as they happen, asyncio, allocation, votes."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st
from test_branching import STOPS, noisy, trees
from test_generate import is_empty

import eager
from eager.engines.scripted import ScriptedEngine
from eager.grading import GradingUnavailable, MathGrader

RULES = eager.BranchingParams(max_sequences=6, entropy_threshold=1.5)
PROMPTS = [[100 + i] for i in range(4)]


def noisy_engine(seed: int = 2, **options: object) -> ScriptedEngine:
    return ScriptedEngine(script=noisy(seed), stops=STOPS, **options)


def options_of(engine: ScriptedEngine, **others: object) -> dict[str, object]:
    return {"engine": engine, "branching": RULES, "max_tokens": 30, **others}


def sorted_out(events: list[eager.Event]) -> tuple[list[eager.Branched], list[eager.Ended], list[eager.Tree]]:
    by_kind = {kind: [e for e in events if isinstance(e, kind)] for kind in (eager.Branched, eager.Ended)}
    finished = [e.tree for e in events if isinstance(e, eager.Finished)]
    return by_kind[eager.Branched], by_kind[eager.Ended], sorted(finished, key=lambda tree: tree.prompt_index)


# -- stream -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), trees)
@settings(max_examples=50, deadline=None)
def test_events_add_up_to_the_trees(seed, config):
    """Every branch and every sequence is told once, before its tree, and is as the tree has it."""
    rules = {name: value for name, value in config.items() if name != "max_length"}
    branching = eager.BranchingParams(**{**rules, "stop_after": None})
    options = options_of(noisy_engine(seed), branching=branching)
    events = list(eager.stream(PROMPTS, **options))
    branched, ended, finished = sorted_out(events)
    assert finished == eager.generate(PROMPTS, **options)
    for tree in finished:
        own = [event for event in events if event.prompt_index == tree.prompt_index]
        assert own[-1] == eager.Finished(tree.prompt_index, tree)
        told = [e.branch for e in branched if e.prompt_index == tree.prompt_index]
        assert [(b.seq, b.position, b.kept_token) for b in told] == [
            (b.seq, b.position, b.kept_token) for b in tree.branches
        ]
        sequences = {e.sequence.index: e.sequence for e in ended if e.prompt_index == tree.prompt_index}
        for sequence in tree.sequences:
            early = sequences.pop(sequence.index)
            assert (early.token_ids, early.forced, early.text) == (sequence.token_ids, sequence.forced, sequence.text)
            assert early.logprobs[early.fork :] == sequence.logprobs[early.fork :]
        assert not sequences


def test_events_come_as_they_happen():
    """The first prompt's tree is there while the engine still works at others; nothing is decoded unasked."""
    engine = noisy_engine(capacity=1)
    step, n_steps = engine.step, 0

    def counted():
        nonlocal n_steps
        n_steps += 1
        return step()

    engine.step = counted
    events = eager.stream(PROMPTS, **options_of(engine))
    first = next(event for event in events if isinstance(event, eager.Finished))
    assert first.prompt_index == 0
    n_then = n_steps
    assert len(list(events)) > 0
    assert n_steps > n_then


def test_a_stream_left_in_the_middle_leaves_the_engine_empty():
    """The engine can be used again at once."""
    engine = noisy_engine()
    events = eager.stream(PROMPTS, **options_of(engine))
    next(events)
    events.close()
    assert is_empty(engine)
    assert len(eager.generate(PROMPTS, **options_of(engine))) == 4


def test_an_engine_at_work_is_not_shared():
    """A second call is refused with the remedy, and the first goes on."""
    engine = noisy_engine()
    events = eager.stream(PROMPTS, **options_of(engine))
    next(events)
    with pytest.raises(eager.EngineError, match="another Generator has trees open on this engine"):
        eager.generate(PROMPTS, **options_of(engine))
    assert isinstance(list(events)[-1], eager.Finished)


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_asynchronous_forms_give_the_same():
    """Trees, events, and the second stage."""
    engine = noisy_engine()
    options = options_of(engine)

    async def all_of_it():
        streamed = [event async for event in eager.astream(PROMPTS, **options)]
        generated = await eager.agenerate(PROMPTS, **options)
        return streamed, generated, await eager.aallocate(generated, engine=engine)

    streamed, generated, allocated = asyncio.run(all_of_it())
    assert streamed == list(eager.stream(PROMPTS, **options))
    assert generated == eager.generate(PROMPTS, **options)
    assert allocated == eager.allocate(generated, engine=engine)


def test_the_loop_stays_free_while_the_engine_works():
    """Others run between the steps of a slow engine, which one other thread drives."""
    threads = set()
    options = options_of(noisy_engine(seconds_per_step=0.01), progress=lambda _: threads.add(threading.get_ident()))

    async def count_while_generating():
        task, n = asyncio.ensure_future(eager.agenerate(PROMPTS, **options)), 0
        while not task.done():
            await asyncio.sleep(0.001)
            n += 1
        return n

    assert asyncio.run(count_while_generating()) > 10
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_who_cancels_gets_the_engine_back_empty():
    """When the cancelled call has ended, nothing of it is open, and no thread of its is left."""
    engine = noisy_engine(seconds_per_step=0.02)
    before = set(threading.enumerate())  # an engine that other tests share may have one

    async def cancel_in_the_middle():
        task = asyncio.ensure_future(eager.agenerate(PROMPTS, **options_of(engine)))
        await asyncio.sleep(0.07)
        assert not is_empty(engine)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_empty(engine)
        assert engine.driver is None

    asyncio.run(cancel_in_the_middle())
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_asynchronous_stream_left_in_the_middle_leaves_the_engine_empty():
    """By aclose, as `async with aclosing` does it."""
    engine = noisy_engine()

    async def leave():
        events = eager.astream(PROMPTS, **options_of(engine))
        await anext(events)
        await events.aclose()

    asyncio.run(leave())
    assert is_empty(engine)


def test_an_engine_that_breaks_is_an_error_in_every_form():
    """The same sentence, and nothing open behind it."""
    engine = noisy_engine(fail_after=3)
    with pytest.raises(eager.EngineError, match="as it was told to"):
        list(eager.stream(PROMPTS, **options_of(engine)))
    with pytest.raises(eager.EngineError, match="as it was told to"):
        asyncio.run(eager.agenerate(PROMPTS, **options_of(engine)))
    assert is_empty(engine)


# -- the second stage -------------------------------------------------------------------------------------------------


def grown(seed: int, engine: ScriptedEngine, n: int = 6, **rules: object) -> list[eager.Tree]:
    branching = eager.BranchingParams(**{"max_sequences": 5, "entropy_threshold": 2.2, **rules})
    return eager.generate([[100 + i] for i in range(n)], engine=engine, branching=branching, max_tokens=12, seed=seed)


@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_second_stage_exceeds_the_budget_or_changes_the_first(seed, most, with_grader):
    """M sequences a prompt in all; the first ones stay, extra ones are numbered on, with parents among themselves."""
    engine = noisy_engine(seed)
    trees = grown(seed, engine, max_sequences=most)
    grader = (lambda tree, sequence: tree.prompt_index % 3 == 0) if with_grader else None
    whole = eager.allocate(trees, engine=engine, grader=grader)
    assert sum(len(tree.sequences) for tree in whole) <= most * len(trees)
    for tree, more in zip(trees, whole, strict=True):
        n = len(tree.sequences)
        assert more.sequences[:n] == tree.sequences
        assert [sequence.index for sequence in more.sequences] == list(range(len(more.sequences)))
        assert all(s.parent is None or n <= s.parent < s.index for s in more.sequences[n:])
        wants = tree.prompt_index % 3 != 0 if with_grader else n == most
        assert wants or more is tree


def test_the_grader_is_asked_once_for_every_whole_sequence():
    """Not for what failed; a prompt that nobody could grade is given nothing."""
    engine = noisy_engine(4, failing_positions={6})
    trees = grown(4, engine)
    asked = []

    def grader(tree: eager.Tree, sequence: eager.Sequence) -> bool | None:
        asked.append((tree.prompt_index, sequence.index))
        return None if tree.prompt_index == 0 else False

    whole = eager.allocate(trees, engine=engine, grader=grader)
    sequences = [(tree, sequence) for tree in trees for sequence in tree.sequences]
    assert {sequence.finish_reason for _, sequence in sequences} > {"error"}
    assert asked == [(t.prompt_index, s.index) for t, s in sequences if s.finish_reason != "error"]
    assert whole[0] is trees[0]


def test_trees_that_do_not_belong_together_are_refused():
    """With the remedy, as is a grader that can tell nothing."""
    engine = noisy_engine(3)
    trees = grown(3, engine, entropy_threshold=2.9)
    saturated = grown(3, engine, entropy_threshold=0.5)
    extra = eager.allocate(trees, engine=engine, grader=lambda tree, sequence: tree.prompt_index > 0)
    for given_trees, said in (
        ([], "no trees to share anything out to"),
        ([*trees, trees[0]], "two of the trees are of one prompt"),
        ([trees[0], *saturated[1:]], "grown by different rules"),
        (extra, "have their share already"),
    ):
        with pytest.raises(eager.ApiError, match=said):
            eager.allocate(given_trees, engine=engine)
    with pytest.raises(eager.ApiError, match="the grader could grade no sequence"):
        eager.allocate(trees, engine=engine, grader=lambda tree, sequence: None)


# -- votes ------------------------------------------------------------------------------------------------------------

WORDS = ("<end>", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", r"\boxed{3}", "none", "x", r"\boxed{x^2+1}", r"\boxed{1+x^2}")


def tree_that_says(*words: int) -> eager.Tree:
    """One sequence a word: sequence i has its own prompt position, so the script can tell them apart."""
    left = list(words)
    engine = ScriptedEngine(
        script=lambda ids: {left.pop(0): 1.0} if len(ids) == 1 else {0: 1.0},
        stops=STOPS,
        vocabulary=WORDS,
        capacity=1,
    )
    rules = eager.BranchingParams(max_sequences=len(words), entropy_threshold=2.9)
    (tree,) = eager.generate([[100]], engine=engine, branching=rules, max_tokens=4, parallel=True)
    assert [sequence.token_ids[0] for sequence in tree.sequences] == list(words)
    return tree


def test_equivalent_answers_are_one_in_a_vote():
    """The majority is named as it was first said, by whom, and how certain the lead is."""
    vote = eager.vote(tree_that_says(4, 3, 1, 2, 1))
    assert (vote.answer, vote.sequence, vote.n_votes, vote.n_voters, vote.is_tie) == ("0.5", 2, 3, 4, False)
    assert vote.answers == (None, "3", "0.5", r"\frac{1}{2}", "0.5")
    assert vote.groups == (None, 0, 1, 1, 1)
    assert 0.5 < vote.certainty < 1


def test_a_draw_goes_to_the_first_and_no_answer_is_no_vote():
    """Both are told."""
    vote = eager.vote(tree_that_says(3, 1))
    assert (vote.answer, vote.is_tie, vote.certainty) == ("3", True, 0.5)
    vote = eager.vote(tree_that_says(4, 4))
    assert (vote.answer, vote.sequence, vote.n_votes, vote.n_voters, vote.is_tie) == (None, None, 0, 0, False)


def test_many_votes_may_share_one_grader():
    """Then it is the caller's to close; what the vote says is the same."""
    tree = tree_that_says(3, 1, 2)
    with MathGrader() as grader:
        assert eager.vote(tree, grader=grader) == eager.vote(tree)


def test_a_vote_without_math_verify_counts_equal_texts_and_says_so(monkeypatch):
    """Answers that the cheap rules can compare are compared as ever, and then there is nothing to say."""

    def unavailable(self, gold, answer):
        raise GradingUnavailable("Math-Verify does not run here")

    monkeypatch.setattr(MathGrader, "_ask_worker", unavailable)
    assert eager.vote(tree_that_says(1, 1, 3)).problem is None
    vote = eager.vote(tree_that_says(6, 7, 6))
    assert (vote.groups, vote.n_votes) == ((0, 1, 0), 2)
    assert vote.problem == "Math-Verify does not run here"


def test_programs_do_not_vote():
    """Nor are they graded by their texts."""
    with pytest.raises(eager.ApiError, match="programs cannot be compared"):
        eager.vote(tree_that_says(3), kind="code")
    with pytest.raises(eager.ApiError, match="programs are graded by running them"):
        eager.AnswerGrader(["1"], kind="code")


def test_a_grader_knows_the_answers_by_prompt():
    """Where nobody does, it cannot tell."""
    tree = tree_that_says(1, 3)
    for targets, expected in ((["1/2"], [True, False]), ({0: "3"}, [False, True]), ([None], [None, None])):
        with eager.AnswerGrader(targets) as grader:
            assert [grader(tree, sequence) for sequence in tree.sequences] == expected
