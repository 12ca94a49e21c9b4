"""A folder's experiments, from its journal or its result files, by one reader."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import needs
import pytest
from result_builder import demo_folder, grouped, record, sequence, write_experiment_file, write_journal

from eager.grading import MathGrader
from eager.recap import recap
from eager.results.experiment import Experiment
from eager.results.findings import Findings
from eager.results.folder import open_folder, write_experiment
from eager.results.scores import Regrader
from eager.store.journal import Journal


def journal_folder(folder: Path) -> Path:
    """Two prompts of `parallel`, `eager_init` and an `eager` that adds a sequence to the first; no result files."""
    init = [record("eager_init_th2", i, [sequence("first", "41", False)]) for i in (0, 1)]
    records = [record("parallel", i, [sequence("p", "42", True)]) for i in (0, 1)]
    extra = [record("eager_th2", 0, [sequence("second", "42", True, parent=None)]), record("eager_th2", 1, [])]
    return write_journal(folder, [*records, *init, *extra], n_prompts=2)


def test_a_journal_needs_no_result_file_and_no_ijson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eager run` ends with a table where only the extra `demo` is installed."""
    monkeypatch.setattr("eager.results.json_stream.find_spec", lambda name: None)
    comparison = recap([journal_folder(tmp_path)])
    assert [row.measures.label for row in comparison.rows] == ["parallel", "eager_init_th2", "eager_th2"]
    assert comparison.findings.problems == []
    write_experiment_file(tmp_path, "eager_adapt", [record("eager_adapt", 0, [sequence("a", "1", True)])])
    assert "without ijson: pip install 'eager-gen[report]'" in recap([tmp_path]).findings.problems[0]


def test_an_extra_experiment_lists_its_inits_sequences_first(tmp_path: Path) -> None:
    """Records of `eager` hold what was added; readers see all of a prompt's sequences, in one numbering of classes."""
    results = open_folder(journal_folder(tmp_path), Findings(), Regrader(MathGrader()))
    eager = next(item for item in results if item.experiment == Experiment("eager", 2.0))
    assert [[s.text for s in item.sequences] for item in eager.records()] == [["first", "second"], ["first"]]
    assert [[s.group for s in item.sequences] for item in eager.records()] == [[0, 1], [0]]


def test_both_sources_give_the_same_records(tmp_path: Path) -> None:
    """A folder reads alike with its journal and, when that is gone, from its result files; ids aside."""
    needs.package("ijson", "report")
    folder = journal_folder(tmp_path)
    with MathGrader() as grader:
        regrader = Regrader(grader)
        journal = Journal(folder)
        for name in journal.experiments():
            write_experiment(journal, Experiment.parse(name), regrader)
        from_journal = [list(item.records()) for item in open_folder(folder, Findings(), regrader)]
        facts = [item.facts for item in open_folder(folder, Findings(), regrader)]
        journal.path.unlink()
        from_files = [list(item.records()) for item in open_folder(folder, Findings(), regrader)]
        file_facts = [item.facts for item in open_folder(folder, Findings(), regrader)]

    def rounded(e):
        return tuple(round(x, 4) for x in e)

    def bare(item):
        return replace(
            item, sequences=tuple(replace(s, token_ids=None, entropies=rounded(s.entropies)) for s in item.sequences)
        )

    assert [[bare(item) for item in items] for items in from_journal] == from_files
    assert [replace(f, seconds=0.0) for f in facts] == [replace(f, is_published=False) for f in file_facts]


def test_files_beside_the_journal_are_read_too(tmp_path: Path) -> None:
    """What the journal does not hold is read from its file; what it holds is read once."""
    needs.package("ijson", "report")
    folder = journal_folder(tmp_path)
    write_experiment_file(folder, "parallel", [record("parallel", 0, [sequence("from the file", "1", False)])])
    write_experiment_file(folder, "eager_adapt", [record("eager_adapt", 0, [sequence("a", "42", True)])], threshold=2.0)
    comparison = recap([folder])
    labels = [row.measures.label for row in comparison.rows]
    assert labels == ["parallel", "eager_init_th2", "eager_adapt_th2", "eager_th2"]
    assert comparison.rows[0].scores.pass_rate.value == 1.0


@pytest.mark.parametrize("damage", [b"oops\n", b'{"format": 99, "settings": {}}\n', b'{"record": {}}\n'])
def test_a_damaged_journal_is_said_and_its_files_are_read(tmp_path: Path, damage: bytes) -> None:
    """The sentence comes from the store, with its remedy; nothing is guessed at."""
    needs.package("ijson", "report")
    folder = demo_folder(tmp_path / "run", n_prompts=2)
    (folder / "journal.jsonl").write_bytes(damage)
    comparison = recap([folder])
    assert len(comparison.rows) == 4
    (problem,) = comparison.findings.problems
    assert "journal.jsonl" in problem
    assert problem.endswith("the result files are read instead")


def test_a_damaged_record_costs_its_own_prompt(tmp_path: Path) -> None:
    """A line damaged in its middle is left out, and its prompt is named."""
    folder = journal_folder(tmp_path)
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"sequences":[', b'"sequences":!')
    path.write_bytes(b"".join(lines))
    comparison = recap([folder])
    assert len(comparison.rows[0].measures.prompts) == 1
    assert "no whole record of parallel, prompt 1" in comparison.findings.problems[0]


def test_a_run_that_is_still_going_can_be_read(tmp_path: Path) -> None:
    """While a run holds the folder what is finished is read, and that it is not all is said."""
    folder = write_journal(tmp_path, [record("parallel", 0, [sequence("a", "42", True)])], n_prompts=3)
    journal = Journal(folder, Journal(folder).settings)
    findings = recap([folder]).findings
    journal.close()
    assert any("holds 1 of 3 prompts: the run is not finished" in notice for notice in findings.notices)


def test_classes_of_answers_are_not_worked_out_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that carry their classes need no grader: a recap of a run compares no answers again."""
    folder = write_journal(tmp_path, [grouped(record("parallel", 0, [sequence("a", "x+1", True)]))])
    monkeypatch.setattr(MathGrader, "group", None)
    monkeypatch.setattr(MathGrader, "equivalent", None)
    assert recap([folder]).rows[0].scores.cons_at_k.value == 1.0


def test_a_result_file_follows_the_documented_states(tmp_path: Path) -> None:
    """IN_PROGRESS while prompts are missing, COMPLETED at the end, as published; only then are intervals drawn."""
    for n_prompts, state, low in ((3, "IN_PROGRESS", None), (1, "COMPLETED", 1.0)):
        folder = tmp_path / state
        write_journal(folder, [grouped(record("parallel", 0, [sequence("a", "42", True)]))], n_prompts=n_prompts)
        write_experiment(Journal(folder), Experiment("parallel"), Regrader(MathGrader()))
        head = json.loads((folder / "parallel.json").read_text())
        assert head["status"]["state"] == state
        assert head["status"]["progress"] == f"1/{n_prompts}"
        rate = head["results"]["details"]["pass_rate"]
        assert (rate["value"], rate["low"]) == (1.0, low)
