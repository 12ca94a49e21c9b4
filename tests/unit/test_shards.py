"""A task in shards: together they are the unsharded run, and never spend more than it may."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from eager.budget import vote_allowances
from eager.cli.run import command
from eager.engines.scripted import ScriptedEngine
from eager.experiments import Run, RunPlan, settings_of
from eager.grading import MathGrader
from eager.recap import as_json, recap
from eager.results.shards import Shard
from eager.sharing import SHARES, RunError
from eager.store.journal import Journal, StoreError
from eager.store.records import PromptRecord
from eager.tasks import LoadedTask, load
from eager.types import BranchConfig, SamplingParams

M, N = 6, 13
# A few sequences a prompt, some prompts at M: there is something to share out, and somebody who wants it.
RULES = BranchConfig(M, 1.5, branch_rule="distinct", max_tokens_without_branch=9)
FIRST = RunPlan(("parallel", "eager_init"), (RULES,), SamplingParams(temperature=0.6), seed=7)
SECOND = replace(FIRST, experiments=("eager_adapt", "eager"))
VOTE = replace(FIRST, experiments=("eager_vote",))
NAMES = ("parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5")


@pytest.fixture
def task(tmp_path: Path) -> LoadedTask:
    """Problems whose prompts differ in length, two of them twice; the scripted model answers 1, 2 or 3."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"how many {'y ' * (i % 11)}?,{1 + i % 3}\n" for i in range(N)))
    return load("mine", data_path=path, prompt_field="question", target_field="answer")


def run(task: LoadedTask, folder: Path, plan: RunPlan) -> Journal:
    """Run to the end; a shard in its folder beside the others. The journal opened for reading."""
    place = folder if plan.shard is None else folder / plan.shard.folder_name
    settings = settings_of(plan, task, {"model_name": "chain", "engine": "scripted"})
    with closing(Journal(place, settings)) as journal, MathGrader() as grader:
        list(Run(plan, ScriptedEngine("chain"), task, journal, grader).run())
    return Journal(place)


def run_shards(task: LoadedTask, folder: Path, plan: RunPlan, n_shards: int) -> list[Journal]:
    return [run(task, folder, replace(plan, shard=shard)) for shard in Shard(1, n_shards).siblings]


def records(name: str, *journals: Journal) -> dict[int, PromptRecord]:
    """By prompt index, without what no two runs have alike."""
    return {r.prompt_index: replace(r, seconds=0.0) for journal in journals for r in journal.records(name)}


@pytest.mark.parametrize("n_shards", [1, 2, 5])
def test_shards_together_are_the_whole_run(task: LoadedTask, tmp_path: Path, n_shards: int) -> None:
    """Prompts keep their indices and draws, and each extra sequence goes to the prompt that it would have gone to."""
    whole = run(task, tmp_path / "whole", replace(FIRST, experiments=(*FIRST.experiments, *SECOND.experiments)))
    run_shards(task, tmp_path / "parts", FIRST, n_shards)
    parts = run_shards(task, tmp_path / "parts", SECOND, n_shards)
    for name in NAMES:
        assert records(name, *parts) == records(name, whole)
    assert sum(len(record.sequences) for record in whole.records("eager_adapt_th1.5")) > M


def test_recap_of_all_shards_is_that_of_the_whole_run(task: LoadedTask, tmp_path: Path) -> None:
    """In every score, cost and interval; seconds are nobody's but the drivers'."""
    run(task, tmp_path / "whole", FIRST)
    parts = run_shards(task, tmp_path / "parts", FIRST, 3)
    whole = recap([tmp_path / "whole"])
    joined = recap([part.folder for part in reversed(parts)])
    assert not joined.findings.problems
    assert joined.findings.notices == whole.findings.notices
    assert [row.measures.label for row in joined.rows] == ["parallel", "eager_init_th1.5"]
    for ours, theirs in zip(joined.rows, whole.rows, strict=True):
        assert (ours.scores, ours.n_generated, ours.n_naive) == (theirs.scores, theirs.n_generated, theirs.n_naive)
        assert (ours.measures.facts.n_prompts, ours.measures.facts.is_complete) == (N, True)
    assert joined.differences == whole.differences
    assert "shard" not in as_json(joined)


def test_recap_tells_which_shards_are_missing(task: LoadedTask, tmp_path: Path) -> None:
    """Numbers over a part of the task say so, and are not those of a finished run."""
    parts = run_shards(task, tmp_path, FIRST, 4)
    joined = recap([parts[0].folder, parts[2].folder])
    assert any("2 shards of 4 missing (2, 4)" in notice for notice in joined.findings.notices)
    assert not any(row.measures.facts.is_complete for row in joined.rows)


@given(st.data())
def test_allowances_are_within_what_was_saved(data: st.DataObject) -> None:
    """EAGer-vote: what all prompts may be given together is never more than EAGer-init left of M * N."""
    m = data.draw(st.integers(1, 12))
    sequences = st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=m)
    groups = data.draw(st.lists(sequences, max_size=30))
    allowances = vote_allowances(groups, m)
    assert sum(map(len, groups)) + sum(allowances.values()) <= m * len(groups)
    assert all(0 < n <= 3 * m for n in allowances.values())


@pytest.mark.parametrize("plan", [SECOND, VOTE], ids=["adapt and labels", "vote"])
@pytest.mark.parametrize("threshold", [0.2, 1.0, 1.5, 2.2])
@pytest.mark.parametrize("n_shards", [2, 3, 7])
def test_shards_never_spend_more_than_was_saved(
    task: LoadedTask, tmp_path: Path, plan: RunPlan, threshold: float, n_shards: int
) -> None:
    """EAGer-init and any policy on top of it: at most M * N sequences over all shards."""
    rules = (replace(RULES, entropy_threshold=threshold),)
    run_shards(task, tmp_path, replace(FIRST, experiments=("eager_init",), rules=rules), n_shards)
    parts = run_shards(task, tmp_path, replace(plan, rules=rules), n_shards)
    used = sum(len(record.sequences) for part in parts for record in part.records(f"eager_init_th{threshold:g}"))
    for kind in plan.experiments:
        name = f"{kind}_th{threshold:g}"
        extra = [record for part in parts for record in part.records(name)]
        assert sorted(record.prompt_index for record in extra) == list(range(N))
        assert used + sum(len(record.sequences) for record in extra) <= M * N


def test_a_vote_in_shards_gives_to_somebody(task: LoadedTask, tmp_path: Path) -> None:
    """Each shard votes among its own prompts with what these may have."""
    run_shards(task, tmp_path, FIRST, 2)
    parts = run_shards(task, tmp_path, VOTE, 2)
    assert all(any(record.sequences for record in part.records("eager_vote_th1.5")) for part in parts)


def test_nothing_is_shared_out_before_all_have_saved(task: LoadedTask, tmp_path: Path) -> None:
    """A shard that is missing or not finished is named; once it is, the same command goes on."""
    first, second = Shard(1, 2), Shard(2, 2)
    run(task, tmp_path, replace(FIRST, shard=first))
    adapt = replace(SECOND, experiments=("eager_adapt",), shard=first)
    with pytest.raises(RunError, match="shard-2-of-2' is not there: run eager_init with --shard 2/2"):
        run(task, tmp_path, adapt)
    run(task, tmp_path, replace(FIRST, experiments=("parallel",), shard=second))
    with pytest.raises(RunError, match=r"shard-2-of-2' has no finished eager_init_th1.5.*when that shard has one"):
        run(task, tmp_path, adapt)
    run(task, tmp_path, replace(FIRST, shard=second))
    assert run(task, tmp_path, adapt).count("eager_adapt_th1.5") == len(first.indices(N))


def test_shards_of_another_run_are_refused(task: LoadedTask, tmp_path: Path) -> None:
    """One whose sequences come from other draws has saved nothing for this one."""
    run(task, tmp_path, replace(FIRST, shard=Shard(1, 2)))
    run(task, tmp_path, replace(FIRST, shard=Shard(2, 2), seed=8))
    with pytest.raises(RunError, match="begun with seed=8, this shard with 7"):
        run(task, tmp_path, replace(SECOND, shard=Shard(1, 2)))


def test_what_was_shared_out_once_stays_so(task: LoadedTask, tmp_path: Path) -> None:
    """A shard that comes later goes by the same shares, whatever the others' journals say by then."""
    parts = run_shards(task, tmp_path, FIRST, 2)
    run(task, tmp_path, replace(SECOND, shard=Shard(1, 2)))
    shares = (tmp_path / f"eager_th1.5{SHARES}").read_bytes()
    parts[0].path.unlink()
    run(task, tmp_path, replace(SECOND, shard=Shard(2, 2)))
    assert (tmp_path / f"eager_th1.5{SHARES}").read_bytes() == shares


def test_other_shares_are_refused(task: LoadedTask, tmp_path: Path) -> None:
    """A file of shares that is damaged, or was made from other sequences, is not gone by."""
    run_shards(task, tmp_path, FIRST, 2)
    run(task, tmp_path, replace(SECOND, shard=Shard(1, 2)))
    path = tmp_path / f"eager_th1.5{SHARES}"
    whole = path.read_text()
    path.write_text(whole.replace('"used": {"0": ', '"used": {"0": 1'))
    with pytest.raises(RunError, match="shares out what another eager_init saved"):
        run(task, tmp_path, replace(SECOND, experiments=("eager",), shard=Shard(1, 2)))
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="put it back as it was"):
        run(task, tmp_path, replace(SECOND, experiments=("eager",), shard=Shard(2, 2)))


def test_labels_are_needed_in_every_shard(tmp_path: Path) -> None:
    """EAGer does not give to the graded shards what the others would have been given, once they are graded."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"how many {'y ' * i}?,{'1' if i % 2 else ''}\n" for i in range(6)))
    task = load("mine", data_path=path, prompt_field="question", target_field="answer")
    run_shards(task, tmp_path, FIRST, 2)
    with pytest.raises(RunError, match=r"nothing in eager_init_th1\.5 of shard 1/2 is graded"):
        run(task, tmp_path, replace(SECOND, experiments=("eager",), shard=Shard(2, 2)))


@given(st.integers(1, 40), st.integers(0, 200))
def test_every_prompt_is_in_one_shard(n_shards: int, n_prompts: int) -> None:
    """No prompt is left out, none is in two, and no shard has more than one more than another."""
    parts = [shard.indices(n_prompts) for shard in Shard(1, n_shards).siblings]
    assert sorted(index for part in parts for index in part) == list(range(n_prompts))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "-1/4", "1/4/2", "a/b", ""])
def test_a_shard_that_there_is_not_is_refused(text: str) -> None:
    """In one sentence that says how to write one."""
    with pytest.raises(ValueError, match="write 1/4, 2/4, 3/4 and 4/4"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "1/2"], "--shard needs the --output_dir"),
        (["--shard", "1/2", "--output_dir", "out", "--entropy_threshold", "auto"], "eager calibrate"),
        (["--shard", "40/40", "--output_dir", "out", "--limit", "3"], "shard 40/40 has none of the 3 prompts"),
    ],
)
def test_the_command_line_says_what_a_shard_needs(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is loaded or written."""
    monkeypatch.chdir(tmp_path)
    base = ["--engine", "scripted", "--model_name", "chain", "--data_name", "demo"]
    done = CliRunner().invoke(command, [*base, *arguments])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert sentence in done.output


def test_the_same_shard_twice_counts_once(task: LoadedTask, tmp_path: Path) -> None:
    """A copy of a shard's folder among the others is told, and changes no number."""
    parts = run_shards(task, tmp_path, replace(FIRST, experiments=("parallel",)), 2)
    shutil.copytree(parts[0].folder, tmp_path / "copy")
    whole = recap([part.folder for part in parts])
    joined = recap([*(part.folder for part in parts), tmp_path / "copy"])
    assert joined.findings.problems == [f"'{tmp_path / 'copy'}' is shard 1/2 a second time: left out"]
    assert joined.rows[0].scores == whole.rows[0].scores


def test_shards_of_other_sizes_are_not_added_up(task: LoadedTask, tmp_path: Path) -> None:
    """A half and a third of a task overlap: they are two runs, each with shards missing."""
    plan = replace(FIRST, experiments=("parallel",))
    folders = [run(task, tmp_path, replace(plan, shard=shard)).folder for shard in (Shard(1, 2), Shard(1, 3))]
    assert [len(row.measures.prompts) for row in recap(folders).rows] == [7, 5]
