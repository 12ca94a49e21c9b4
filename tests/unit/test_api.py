"""`import eager`: what it returns is what `eager run` makes, with what a trainer needs to know of every token."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_branching import STOPS, noisy, trees

import eager
from eager.engines.scripted import ScriptedEngine, draw_scripted
from eager.experiments import Run, RunPlan, settings_of
from eager.grading import MathGrader
from eager.randomness import sequence_seed, uniform
from eager.results.experiment import Experiment
from eager.results.folder import effective_record
from eager.store.journal import Journal
from eager.store.records import PromptRecord
from eager.tasks import load
from eager.types import MAX_ENTROPY, BranchConfig

PROMPTS = ["how many?", "how many y ?", "how many y y ?", "why"]
SAMPLING = eager.SamplingParams(temperature=1.2)


def noisy_engine(seed: int, **options: object) -> ScriptedEngine:
    return ScriptedEngine(script=noisy(seed), stops=STOPS, **options)


def grow(script_seed: int, **options: object) -> list[eager.Tree]:
    """Trees over two prompts of one token each."""
    rules = {"max_sequences": 6, "entropy_threshold": 2.0, **options.pop("rules", {})}
    return eager.generate(
        [[100], [101]],
        **{"engine": noisy_engine(script_seed), "sampling": SAMPLING, "max_tokens": 30, **options},
        branching=eager.BranchingParams(**rules),
    )


def api_rules(config: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name != "max_length"}


# -- as eager run makes it ------------------------------------------------------------------------------------------


def recorded(folder: Path, plan: RunPlan, kind: str) -> list[PromptRecord]:
    """Each prompt's record after a run over PROMPTS, the sequences it builds upon included."""
    path = folder / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"{prompt},1\n" for prompt in PROMPTS))
    fields = {"prompt_field": "question", "target_field": "answer"}
    task = load("mine", data_path=path, instruction="", **fields)
    settings_of_folder = settings_of(plan, task, {"model_name": "chain", "engine": "scripted"})
    with closing(Journal(folder / "out", settings_of_folder)) as journal, MathGrader() as grader:
        list(Run(plan, ScriptedEngine("chain"), task, journal, grader).run())
        experiment = Experiment(kind, None if kind == "parallel" else plan.rules[0].entropy_threshold)
        return [effective_record(journal, experiment, index) for index in range(len(PROMPTS))]


def assert_same(tree: eager.Tree, record: PromptRecord) -> None:
    assert tree.prompt_text == record.prompt_text
    assert tree.branches == record.branches
    assert (tree.recomputed, tree.discarded) == (record.n_recomputed, record.n_discarded)
    assert (tree.n_tokens, tree.n_tokens_naive) == (record.n_tokens, record.n_tokens_naive)
    for made, kept in zip(tree.sequences, record.sequences, strict=True):
        assert (made.own_ids, made.parent, made.fork) == (kept.token_ids, kept.parent, kept.fork)
        assert (made.text, made.finish_reason, made.error) == (kept.text, kept.finish_reason, kept.error)
        own = zip(made.entropies[made.fork :], kept.entropies, strict=True)
        assert all(a == b or a == pytest.approx(b, abs=1e-4) for a, b in own)


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.3, 2.4), st.sampled_from(["top2", "distinct", "sample"]))
@settings(max_examples=15, deadline=None)
def test_the_same_seed_makes_what_a_run_makes(tmp_path_factory, seed, most, threshold, rule):
    """Trees, parallel samples, and both policies of the second stage, to the last token, branch and text."""
    rules = BranchConfig(most, threshold, branch_rule=rule)
    plan = RunPlan(("parallel", "eager_init", "eager_adapt", "eager"), (rules,), SAMPLING, seed, max_tokens=40)
    folder = tmp_path_factory.mktemp("run")
    common = {"engine": ScriptedEngine("chain"), "branching": rules, "sampling": SAMPLING, "seed": seed}
    trees = eager.generate(PROMPTS, **common, max_tokens=40)
    made = {"eager_init": trees, "eager_adapt": eager.allocate(trees, engine=common["engine"])}
    made["parallel"] = eager.generate(PROMPTS, **common, max_tokens=40, parallel=True, record_all=True)
    with eager.AnswerGrader(["1"] * len(PROMPTS)) as grader:
        made["eager"] = eager.allocate(trees, engine=common["engine"], grader=grader)
    for kind, of_kind in made.items():
        for tree, record in zip(of_kind, recorded(folder, plan, kind), strict=True):
            assert_same(tree, record)


# -- what is known of every token -------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), trees)
@settings(max_examples=60, deadline=None)
def test_every_token_has_its_log_probability_and_entropy_where_all_is_recorded(seed, config):
    """Of the raw distribution at its place, along the whole way from the prompt, shared tokens too."""
    script = noisy(seed)
    for tree in grow(seed, rules=api_rules(config), record_all=True):
        for sequence in tree.sequences:
            for position, logprob in enumerate(sequence.logprobs):
                probabilities = script(tree.prompt_ids + sequence.token_ids[:position])
                assert logprob == pytest.approx(math.log(probabilities[sequence.token_ids[position]]))
            assert None not in sequence.entropies
            assert len(sequence.forced) == len(sequence.entropies) == len(sequence.token_ids)


def test_beyond_the_branching_phase_nothing_is_known_unless_asked_for():
    """A tree of one sequence cannot branch, so nobody looks at it."""
    (tree, _) = grow(3, rules={"max_sequences": 1})
    (sequence,) = tree.sequences
    assert set(sequence.logprobs) == set(sequence.entropies) == {None}


@given(st.integers(0, 10**6), trees)
@settings(max_examples=80, deadline=None)
def test_forced_tokens_are_where_the_branches_say(seed, config):
    """Where a sequence kept another token than it had sampled, and where a child got its first one from the rule."""
    rule = config["branch_rule"]
    for tree in grow(seed, rules=api_rules(config)):
        for sequence in tree.sequences:
            own = {b.position for b in tree.branches if b.seq == sequence.index and b.kept_id != b.sampled_id}
            if sequence.parent is not None and rule != "sample":
                own.add(sequence.fork)
            inherited = () if sequence.parent is None else tree.sequences[sequence.parent].forced[: sequence.fork]
            assert sequence.forced[: sequence.fork] == tuple(inherited)
            assert {i for i, is_forced in enumerate(sequence.forced) if is_forced and i >= sequence.fork} == own


@given(st.integers(0, 10**6), trees)
@settings(max_examples=60, deadline=None)
def test_what_is_not_forced_is_what_the_sequence_draws(seed, config):
    """Of the model's distribution at that place, by the sequence's own seed; what is forced may be anything."""
    script = noisy(seed)
    for tree in grow(seed, rules=api_rules(config), seed=3):
        for sequence in tree.sequences:
            own_seed = sequence_seed(3, tree.prompt_index, sequence.index)
            for position in range(sequence.fork, len(sequence.token_ids)):
                prefix = tree.prompt_ids + sequence.token_ids[:position]
                drawn = draw_scripted(script(prefix), SAMPLING, uniform(own_seed, len(prefix)))
                assert sequence.forced[position] or sequence.token_ids[position] == drawn


def test_shared_tokens_are_the_parents():
    """Ids, entropies and log-probabilities up to the fork; behind it the two differ at once, unless both drew."""
    (tree, _) = grow(5, rules={"entropy_threshold": 1.0})
    children = [sequence for sequence in tree.sequences if sequence.parent is not None]
    assert children
    for child in children:
        parent, n = tree.sequences[child.parent], child.fork
        assert child.shared_ids == parent.token_ids[:n]
        assert child.entropies[:n] == parent.entropies[:n]
        assert child.logprobs[:n] == parent.logprobs[:n]
        assert child.own_ids[0] != parent.token_ids[n]


# -- prompts, engines, errors -----------------------------------------------------------------------------------------

PLAIN = eager.BranchingParams(max_sequences=1, entropy_threshold=MAX_ENTROPY)


def test_a_prompt_is_a_text_a_chat_or_token_ids():
    """A text is what a user says; ids are taken as they are, numpy's too."""
    engine = ScriptedEngine("chain")
    chat = [{"role": "user", "content": "how many y ?"}]
    ids = tuple(engine.encode_chat(chat))
    made = eager.generate(
        ["how many y ?", chat, ids, list(np.array(ids))], engine=engine, branching=PLAIN, max_tokens=9
    )
    assert {tree.prompt_ids for tree in made} == {ids}
    assert [tree.prompt_index for tree in made] == [0, 1, 2, 3]
    assert {type(i) for tree in made for i in tree.prompt_ids} == {int}


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("why", "put a single one into a list"),
        ([], "at least one prompt"),
        ([1, 2, 3], "prompt 0 must be a text, a list of messages with 'role' and 'content', or a list of token ids"),
        (["why", []], "prompt 1 must be"),
        ([[{"role": "user"}]], "prompt 0 must be"),
        (["y " * 99], "prompt 0 has 99 tokens, but the context holds 50: shorten it"),
    ],
)
def test_what_is_no_prompt_is_refused_in_a_sentence(prompts, said):
    """Which names the prompt and the remedy, before anything is decoded."""
    engine = ScriptedEngine("chain", max_model_len=50, fail_after=0)
    with pytest.raises(eager.ApiError, match=said):
        eager.generate(prompts, engine=engine, branching=PLAIN)


def test_ids_outside_the_vocabulary_are_refused_before_anything_is_decoded():
    """By the engine's own sentence."""
    with pytest.raises(eager.EngineError, match="vocabulary"):
        eager.generate([[7, 2**40]], engine=ScriptedEngine("chain", fail_after=0), branching=PLAIN)


def test_an_engine_by_name_lives_for_one_call(monkeypatch):
    """Loaded with its options, and shut down however the call ends; one that was given stays as it is."""
    loaded = []
    monkeypatch.setattr(
        "eager.api.engine.load_engine",
        lambda name, model, **options: loaded.append(eager.load_engine(name, model, **options)) or loaded[-1],
    )
    by_name = {"engine": "scripted", "model_name": "chain", "branching": PLAIN}
    (tree,) = eager.generate(["why"], **by_name, max_tokens=9)
    with pytest.raises(eager.EngineError, match="as it was told to"):
        eager.generate(["why"], **by_name, engine_options={"fail_after": 2})
    assert [engine.is_shut for engine in loaded] == [True, True]
    given = ScriptedEngine("chain")
    assert eager.generate(["why"], engine=given, branching=PLAIN, max_tokens=9) == [tree]
    assert not given.is_shut


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"engine": "scripted"}, "engine 'scripted' needs a model: give model_name"),
        ({"engine": ScriptedEngine("chain"), "model_name": "chain"}, "for an engine that is given by name"),
        ({"engine": None}, "engine must be an Engine or one of llama_cpp, .*, not NoneType"),
        ({"engine": "none", "model_name": "x"}, "unknown engine 'none'"),
        ({"engine": ScriptedEngine("chain"), "max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(engine, said):
    """Before anything is decoded."""
    with pytest.raises(eager.EagerError, match=said):
        eager.generate(["why"], branching=PLAIN, **engine)


def test_a_sequence_that_fails_is_one_that_says_why():
    """The others are whole."""
    engine = ScriptedEngine(script=noisy(2, p_end=0), stops=STOPS, failing_positions={3})
    failed, whole = eager.generate([[100], [100, 101, 102, 103]], engine=engine, branching=PLAIN, max_tokens=8)
    assert failed.sequences[0].finish_reason == "error"
    assert "failed" in failed.sequences[0].error
    assert whole.sequences[0].finish_reason == "length"
