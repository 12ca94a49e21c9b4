"""EAGer-vote, `--settle` and `--stop_after` in a run on the scripted engine: who gets what, and going on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from eager.budget import is_open, majority_certainty
from eager.engines import EngineError
from eager.engines.scripted import ScriptedEngine
from eager.experiments import EXPERIMENTS, Run, RunError, RunPlan, settings_of
from eager.grading import MathGrader
from eager.results.experiment import Experiment
from eager.results.folder import effective_record
from eager.store.journal import Journal
from eager.store.records import PromptRecord
from eager.tasks import LoadedTask, load
from eager.types import BranchConfig, SamplingParams

M, N = 8, 20
RULES = BranchConfig(M, 1.5, branch_rule="distinct")
PLAN = RunPlan(("eager_init", "eager_vote"), (RULES,), SamplingParams(temperature=0.6), seed=7)
VOTE = Experiment("eager_vote", 1.5)


@pytest.fixture
def task(tmp_path: Path) -> LoadedTask:
    """Problems whose prompts differ in length; the scripted model answers 1, 2 or 3, the harder the less sure."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"how many {'y ' * (i % 9)}?,1\n" for i in range(N)))
    return load("mine", data_path=path, prompt_field="question", target_field="answer")


def run(task: LoadedTask, folder: Path, plan: RunPlan = PLAN, **engine: object) -> Journal:
    """Run to the end, or to where the engine breaks; the journal opened for reading."""
    with closing(Journal(folder, settings(plan, task))) as journal, MathGrader() as grader:
        list(Run(plan, ScriptedEngine("chain", **engine), task, journal, grader).run())
    return Journal(folder)


def settings(plan: RunPlan, task: LoadedTask) -> dict[str, object]:
    return settings_of(plan, task, {"model_name": "chain", "engine": "scripted"})


def without_seconds(journal: Journal, name: str) -> list[PromptRecord]:
    return [replace(record, seconds=0.0) for record in journal.records(name)]


def test_votes_are_held_until_all_are_closed(task: LoadedTask, tmp_path: Path) -> None:
    """The torn prompts of eager_init have more sequences, the others none; all within M * N, equal answers as one."""
    settle = 0.75
    plan = replace(PLAN, rules=(replace(RULES, max_tokens_without_branch=4),), settle=settle)
    journal = run(task, tmp_path / "out", plan)
    n_extra, n_all = 0, 0
    for init in journal.records("eager_init_th1.5"):
        whole = effective_record(journal, VOTE, init.prompt_index)
        groups = [sequence.group for sequence in whole.sequences]
        n_init, n_all = len(init.sequences), n_all + len(groups)
        assert (len(groups) > n_init) == is_open(groups[:n_init], n_init, M, settle)
        assert len(set(groups) - {None}) == 1 or majority_certainty(groups) >= settle or len(groups) == n_init + 3 * M
        assert [s.parent for s in whole.sequences[n_init:]][:1] in ([], [None])
        n_extra += len(groups) - n_init
    assert n_extra > 0
    assert n_all <= M * N


def test_a_poor_budget_goes_to_the_most_torn(task: LoadedTask, tmp_path: Path) -> None:
    """Where EAGer-init saved little, it is spent to the last sequence, and never more."""
    plan = replace(PLAN, rules=(replace(RULES, entropy_threshold=0.05),))
    journal = run(task, tmp_path / "out", plan)
    used = sum(len(record.sequences) for record in journal.records("eager_init_th0.05"))
    extra = sum(len(record.sequences) for record in journal.records("eager_vote_th0.05"))
    assert used + extra == M * N
    assert extra > 0


def test_a_run_that_breaks_goes_on_with_the_same_allocation(task: LoadedTask, tmp_path: Path) -> None:
    """Broken off at any step and continued, again and again: the same records, and no tree of a round grown twice."""
    whole = run(task, tmp_path / "whole")
    run(task, tmp_path / "broken", replace(PLAN, experiments=("eager_init",)))
    n_breaks = 0
    for n_steps in range(3, 400):
        try:
            run(task, tmp_path / "broken", fail_after=n_steps)
            break
        except EngineError:
            n_breaks += 1
    broken = Journal(tmp_path / "broken")
    assert n_breaks > 2
    assert without_seconds(broken, VOTE.name) == without_seconds(whole, VOTE.name)
    lines = (tmp_path / "broken" / "journal.jsonl").read_text().splitlines()
    assert sum(line.startswith('{"part":') for line in lines) == sum(
        sequence.parent is None for record in whole.records(VOTE.name) for sequence in record.sequences
    )


def test_a_vote_knows_no_labels(task: LoadedTask, tmp_path: Path) -> None:
    """Other targets change grades, and nothing that is generated."""
    other = replace(task, problems=tuple(replace(problem, target=None) for problem in task.problems))
    texts = []
    for name, asked in (("a", task), ("b", other)):
        records = run(asked, tmp_path / name, replace(PLAN, settle=0.9)).records(VOTE.name)
        texts.append([[sequence.text for sequence in record.sequences] for record in records])
    assert texts[0] == texts[1]


def test_settle_ends_trees_that_are_of_one_mind(task: LoadedTask, tmp_path: Path) -> None:
    """A tree is cut where the answers of its ended sequences are as certain as asked, and not before."""
    plan = replace(PLAN, experiments=("eager_init",), settle=0.8)
    whole = list(run(task, tmp_path / "whole", replace(plan, settle=None)).records("eager_init_th1.5"))
    settled = list(run(task, tmp_path / "settled", plan).records("eager_init_th1.5"))
    is_cut = [any(s.finish_reason == "cut" for s in record.sequences) for record in settled]
    assert any(is_cut)
    for record, before, cut in zip(settled, whole, is_cut, strict=True):
        ended = [s for s in record.sequences if s.finish_reason == "stop"]
        if cut:
            assert majority_certainty([s.group for s in ended]) >= 0.8
            assert all((s.answer, s.correct, s.group) == (None, None, None) for s in record.sequences if s not in ended)
            assert record.n_tokens < before.n_tokens
        else:
            assert replace(record, seconds=0.0) == replace(before, seconds=0.0)


def test_stop_after_is_for_every_experiment(task: LoadedTask, tmp_path: Path) -> None:
    """In every tree the shortest sequences vote, and the others were cut at their length."""
    plan = replace(PLAN, experiments=(*EXPERIMENTS["all"], "eager_vote"), rules=(replace(RULES, stop_after=2),))
    journal = run(task, tmp_path / "out", plan)
    for name in ("parallel", "eager_init_th1.5"):
        for record in journal.records(name):
            ended = [s.n_tokens for s in record.sequences if s.finish_reason != "cut"]
            cut = {s.n_tokens for s in record.sequences if s.finish_reason == "cut"}
            assert len(ended) >= min(2, len(record.sequences))
            assert cut <= {max(ended)}
    assert any(s.finish_reason == "cut" for record in journal.records("parallel") for s in record.sequences)


def test_a_folder_is_bound_to_the_new_rules_where_given(task: LoadedTask) -> None:
    """They are settings; not given, the folder has none of them, as folders of the version before."""
    plain = settings(PLAN, task)
    rules = replace(RULES, varentropy_threshold=1.5, stop_after=3)
    given = settings(replace(PLAN, rules=(rules,), settle=0.9), task)
    new = {"varentropy_threshold": 1.5, "varentropy_max_entropy": 2.5, "stop_after": 3, "settle": 0.9}
    assert given == {**plain, **new}


def test_programs_have_no_votes(task: LoadedTask, tmp_path: Path) -> None:
    """Code is refused before anything is generated, with what to run instead."""
    code = replace(task, task=replace(task.task, answer_kind="code"))
    for plan, name in ((PLAN, "eager_vote"), (replace(PLAN, experiments=("eager_init",), settle=0.9), "--settle")):
        with pytest.raises(RunError, match=f"{name} goes by answers that agree.* run eager_adapt"):
            run(code, tmp_path / name, plan)


def test_settle_has_a_range() -> None:
    """A majority of 0.5 is none, and none is certain."""
    for settle in (0.5, 1.0, float("nan")):
        with pytest.raises(ValueError, match="settle must be between"):
            replace(PLAN, settle=settle)
