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
from eager.results.findings import Findings, ResultsError
from eager.results.folder import keep_older_file, open_folder, write_experiment
from eager.results.scores import Regrader
from eager.store.journal import Journal, StoreError


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


def test_a_damaged_journal_and_no_ijson_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither source can be read: the sentence says why, for the journal and for every file."""
    monkeypatch.setattr("eager.results.json_stream.find_spec", lambda name: None)
    folder = demo_folder(tmp_path / "run", n_prompts=2)
    (folder / "journal.jsonl").write_bytes(b"oops\n")
    with pytest.raises(ResultsError) as caught:
        recap([folder])
    for part in ("journal.jsonl', line 1: not how", "eager_th2.2.json, parallel.json cannot be read without ijson"):
        assert part in str(caught.value)


def test_every_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    """Not the first or the last alone; of this folder only, and each once."""
    needs.package("ijson", "report")
    for name in ("parallel", "eager_init_th2", "mine"):
        (tmp_path / f"{name}.json").write_text("oops")
    findings = Findings()
    findings.problem("of another folder")
    with pytest.raises(ResultsError) as caught:
        open_folder(tmp_path, findings)
    assert [str(caught.value).count(f"{name}.json'") for name in ("parallel", "eager_init_th2", "mine")] == [1, 1, 1]
    assert "another folder" not in str(caught.value)


def test_a_file_that_the_journal_did_not_make_is_kept(tmp_path: Path) -> None:
    """An old result is copied before it is replaced: once, under a number where another copy has the name."""
    folder = journal_folder(tmp_path)
    (folder / "eager_adapt_th2.json").write_text("old")
    (folder / "eager_adapt_th2.json.before-run").write_text("older")
    journal = Journal(folder)
    for _ in range(2):
        (sentence,) = keep_older_file(journal, Experiment("eager_adapt", 2.0))
        assert sentence.endswith("kept as eager_adapt_th2.json.before-run-2")
    kept = {path.name: path.read_text() for path in folder.glob("*.before-run*")}
    assert kept == {"eager_adapt_th2.json.before-run": "older", "eager_adapt_th2.json.before-run-2": "old"}
    (folder / "parallel.json").write_text("of the journal")
    assert keep_older_file(journal, Experiment("parallel")) == []


def test_settings_that_lack_what_a_result_file_says_are_one_sentence(tmp_path: Path) -> None:
    """A first line without a checksum can lose a name and be whole otherwise."""
    journal = Journal(write_journal(tmp_path, [record("parallel", 0, [sequence("a", "1", True)])], n_prompts=1))
    del journal.settings["n_prompts"]
    with pytest.raises(StoreError, match="line 1: says no n_prompts"):
        write_experiment(journal, Experiment("parallel"), Regrader(MathGrader()))


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
    """A line damaged in its middle is left out, and its number is named."""
    folder = journal_folder(tmp_path)
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"sequences":[', b'"sequences":!')
    path.write_bytes(b"".join(lines))
    comparison = recap([folder])
    assert len(comparison.rows[0].measures.prompts) == 1
    assert "journal.jsonl', line 3: damaged, left out" in comparison.findings.problems[0]
    assert any("holds 1 of 2 prompts" in notice for notice in comparison.findings.notices)


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
