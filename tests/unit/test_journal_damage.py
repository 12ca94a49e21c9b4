"""A journal that is another's stays as it is; one that was damaged loses what was damaged, and says so."""

import json
import os
import shutil
import time
from dataclasses import replace
from io import FileIO
from pathlib import Path
from random import Random

import pytest
from result_builder import record, sequence, write_journal

from eager.recap.measure import Measures, PromptKeys
from eager.results.findings import Findings, ResultsError
from eager.results.folder import open_folder
from eager.store.journal import DAMAGED_NAME, Journal, StoreError
from eager.store.records import PromptRecord
from eager.types import Branch

FIRST_RESULTS = Path(__file__).resolve().parents[1] / "data" / "first_results"
SETTINGS = {"model_name": "m", "data_name": "d", "engine": "e", "seed": 1, "temperature": 0.6, "max_sequences": 2}
SETTINGS |= {"n_prompts": 3}


def small_journal(folder: Path) -> Path:
    """Three prompts, one with a branch, grades for one, notes."""
    journal = Journal(folder, SETTINGS)
    journal.append_about({"notes": "é"})
    branch = Branch(0, 1, 2.5, 2.0, 1, 5, 6, 7, " a", " b", " c", "before")
    pair = [sequence("the é text", "1", True, n_tokens=2), sequence("b", None, None, n_tokens=1, parent=0, fork=1)]
    journal.append(record("eager_init_th2", 0, pair, [branch]))
    for index in (1, 2):
        journal.append(record("eager_init_th2", index, [sequence("c", "2", False, n_tokens=2)]))
    journal.append_grades("eager_init_th2", 1, ["1"], [True])
    journal.close()
    return folder


def said(folder: Path) -> object:
    """All that readers take out of the folder, and every sentence about what they could not."""
    findings = Findings()
    try:
        everything = open_folder(folder, findings)
    except ResultsError as error:
        return str(error)
    found = [list(results.records()) for results in everything]
    for results, records in zip(everything, found, strict=True):
        for item in records:
            Measures("", "", results.experiment, results.facts).add(item, PromptKeys())
    facts = [results.facts for results in everything]
    return Journal(folder).settings, facts, found, findings.problems, findings.notices


def is_told(outcome: object) -> bool:
    return isinstance(outcome, str) or bool(outcome[3] or outcome[4])


def graded_first(item: PromptRecord) -> PromptRecord:
    """As it was before grades were found later, in `small_journal`."""
    (only,) = item.sequences
    return replace(item, sequences=(replace(only, answer="2", correct=False),))


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)


def damage(folder: Path, number: int, old: bytes, new: bytes) -> None:
    """Change the line of this number, counted from 1."""
    lines = lines_of(folder)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new, 1)
    (folder / "journal.jsonl").write_bytes(b"".join(lines))


# -- what is not ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 99, "settings": {}}\nmore',
        b'{"format":99,"settings":{}}',
        b'{"format":2,"settings":{"seed":1}}\n{"format":2,"record":{}}\ntorn',
        b"a diary\nof someone els",
        b"no line at all",
        b"[1, 2]\n[3",
        b"\x00" * 64,
        b"\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_not_ours_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    """Another program's file, or another format's: neither reader nor writer changes a byte, a torn end included."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    for settings in (None, SETTINGS):
        with pytest.raises(
            StoreError, match=r"(of another format than 1|not how a journal of eager begins).* it stays"
        ):
            Journal(tmp_path, settings)
        assert path.read_bytes() == content


def test_a_line_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    """Its checksum holds, its content is unknown: no damage, so nothing is taken out of the file."""
    journal = Journal(tmp_path, SETTINGS)
    journal.append(record("parallel", 0, [sequence("a", "1", True)]))
    journal._write({"verdict": {"experiment": "parallel"}})
    journal.close()
    before = lines_of(tmp_path)
    for settings in (None, SETTINGS):
        with pytest.raises(StoreError, match=r"line 3: written by a newer version of eager.* stays as it is"):
            Journal(tmp_path, settings)
        assert lines_of(tmp_path) == before


def test_other_settings_change_nothing(tmp_path: Path) -> None:
    """A run that is refused has cut no torn line and moved no damaged one."""
    folder = small_journal(tmp_path)
    damage(folder, 3, b"the", b"tha")
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    before = path.read_bytes()
    with pytest.raises(StoreError, match="begun with seed=1, now it is 2"):
        Journal(folder, {**SETTINGS, "seed": 2})
    assert path.read_bytes() == before
    assert not (folder / DAMAGED_NAME).exists()


@pytest.mark.parametrize("n_bytes", [1, 5, 20, 60, -1])
def test_a_first_line_that_was_torn_is_begun_anew(tmp_path: Path, n_bytes: int) -> None:
    """A run killed while it wrote its settings leaves a part of our own first line: nothing is lost with it."""
    Journal(tmp_path, SETTINGS).close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert Journal(tmp_path).experiments() == []
    Journal(tmp_path, SETTINGS).close()
    assert Journal(tmp_path).settings == SETTINGS


@pytest.mark.parametrize("settings", [None, SETTINGS])
def test_a_pipe_in_its_place_is_refused(tmp_path: Path, settings) -> None:
    """A sentence, for readers and writers: nobody waits for what will not come."""
    os.mkfifo(tmp_path / "journal.jsonl")
    with pytest.raises(StoreError, match="no regular file"):
        Journal(tmp_path, settings)


# -- damage ----------------------------------------------------------------------------------------------------------


def test_no_changed_bit_is_missed(tmp_path: Path) -> None:
    """Each byte with one of its bits turned: never a traceback, and told unless every value is what it was.

    (A hexadecimal digit of an escape may be of the other case.)
    """
    folder = small_journal(tmp_path)
    path = folder / "journal.jsonl"
    whole, before = path.read_bytes(), said(folder)
    assert not is_told(before)
    random = Random(0)
    missed = []
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        after = said(folder)
        if not is_told(after) and after != before:
            missed.append((at, bytes(flipped[at - 20 : at + 20])))
    assert missed == []


@pytest.mark.parametrize("name", ["demo", "scripted"])
def test_a_journal_without_checksums_never_ends_in_a_traceback(tmp_path: Path, name: str) -> None:
    """Those of the first version: what cannot be a record is told, what can (another digit) cannot be known."""
    folder = shutil.copytree(FIRST_RESULTS / name, tmp_path / name)
    for file in folder.glob("*.json"):
        file.unlink()
    path = folder / "journal.jsonl"
    whole, before = path.read_bytes(), said(folder)
    assert not is_told(before)
    random = Random(1)
    n_told = 0
    for at in random.sample(range(len(whole)), 400):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        n_told += is_told(said(folder))
    assert n_told > 0


@pytest.mark.parametrize(("old", "new"), [(b'"text":"c"', b'"text":"d"'), (b'"entropies":[0.0,', b'"entropies":[0.5,')])
def test_a_value_that_was_changed_is_seen(tmp_path: Path, old: bytes, new: bytes) -> None:
    """The line is as good as any other but for its checksum; its prompt is not read, the others are."""
    folder = small_journal(tmp_path)
    damage(folder, 4, old, new)
    journal = Journal(folder)
    assert journal.prompts("eager_init_th2") == [0, 2]
    (problem,) = journal.problems
    assert problem.startswith(f"'{folder / 'journal.jsonl'}', line 4: damaged, left out; eager run")


def test_damaged_lines_are_named_by_number(tmp_path: Path) -> None:
    """All of them in one sentence, which does not grow without end."""
    folder = write_journal(tmp_path, [record("parallel", i, [sequence("text", "1", True)]) for i in range(15)])
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"text":"text"', b'"text":"tent"'))
    (problem,) = Journal(folder).problems
    assert "lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 5 more: damaged" in problem


def test_a_line_written_anew_by_another_program_is_whole(tmp_path: Path) -> None:
    """The checksum is of the values, not of spaces and escapes."""
    folder = small_journal(tmp_path)
    before = said(folder)
    lines = [json.dumps(json.loads(line), ensure_ascii=False) + "\n" for line in lines_of(folder)]
    (folder / "journal.jsonl").write_text("".join(lines), encoding="utf-8")
    assert said(folder) == before


def test_a_writer_sets_damaged_lines_aside(tmp_path: Path) -> None:
    """As they were found, in a file of their own; the next reader has nothing to complain of, and the prompt is due."""
    folder = small_journal(tmp_path)
    damage(folder, 4, b'"text":"c"', b'"text":"d"')
    damage(folder, 3, b"record", b"recors")
    before = lines_of(folder)
    journal = Journal(folder, SETTINGS)
    assert "lines 3, 4: damaged, moved to journal.damaged" in journal.problems[0]
    assert journal.prompts("eager_init_th2") == [2]
    journal.append(record("eager_init_th2", 1, [sequence("anew", "2", True)]))
    journal.close()
    assert (folder / DAMAGED_NAME).read_bytes() == before[2] + before[3]
    again = Journal(folder)
    assert (again.problems, again.prompts("eager_init_th2")) == ([], [1, 2])
    assert lines_of(folder)[4:6] == before[4:6]


def test_after_a_writer_nothing_damaged_is_left(tmp_path: Path) -> None:
    """Wherever a bit was turned: what the next reader finds is a part of what was written, and it has no complaint."""
    folder = small_journal(tmp_path)
    path = folder / "journal.jsonl"
    whole = path.read_bytes()
    before = {index: Journal(folder).read("eager_init_th2", index) for index in range(3)}
    head = whole.index(b"\n") + 1
    random = Random(2)
    for at in random.sample(range(head, len(whole)), 200):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        journal = Journal(folder, SETTINGS)
        journal.append_about({"notes": "on"})
        journal.close()
        again = Journal(folder)
        assert (again.problems, again.notices, again.about) == ([], [], {"notes": "on"})
        for index in again.prompts("eager_init_th2"):
            found = again.read("eager_init_th2", index)
            assert found == before[index] or (index == 1 and found == graded_first(before[index]))


def test_grades_of_a_lost_record_do_not_pass_to_the_next_one(tmp_path: Path) -> None:
    """The prompt is generated anew after damage; grades that were found for its old sequences are not its own."""
    folder = small_journal(tmp_path)
    damage(folder, 4, b'"text":"c"', b'"text":"d"')
    journal = Journal(folder, SETTINGS)
    journal.append(record("eager_init_th2", 1, [sequence("x", "9", False), sequence("y", "9", False)]))
    journal.close()
    assert [s.correct for s in Journal(folder).read("eager_init_th2", 1).sequences] == [False, False]


def test_what_was_added_to_a_lost_record_is_due_again(tmp_path: Path) -> None:
    """`eager` adds to the sequences of `eager_init`; where those are generated anew, so is what it added."""
    folder = tmp_path
    inits = [record("eager_init_th2", i, [sequence("c", "2", False)]) for i in (0, 1)]
    extras = [record("eager_th2", i, [sequence("d", "2", False)]) for i in (0, 1)]
    write_journal(folder, [*inits, *extras], n_prompts=2)
    damage(folder, 2, b'"text":"c"', b'"text":"x"')
    journal = Journal(folder, Journal(folder).settings)
    assert journal.prompts("eager_th2", "eager_init_th2") == [1]
    journal.append(inits[0])
    assert journal.prompts("eager_th2", "eager_init_th2") == [1]
    journal.append(extras[0])
    assert journal.prompts("eager_th2", "eager_init_th2") == [0, 1]
    journal.close()


class _Half:
    """The journal's file, interrupted in the middle of a line."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def write(self, data: memoryview) -> int:
        self._file.write(data[: len(data) // 2])
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "error", "kept"),
    [("write", KeyboardInterrupt, []), ("sync", OSError, []), ("sync", KeyboardInterrupt, [1])],
)
def test_half_a_line_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[BaseException], kept: list[int]
) -> None:
    """Left by a full disk or Ctrl-C it would spoil the next one; a line that Ctrl-C found whole is a prompt saved."""
    journal = Journal(tmp_path, SETTINGS)
    journal.append(record("parallel", 0, [sequence("a", "1", True)]))

    def fails(handle: int) -> None:
        raise error

    with monkeypatch.context() as patched:
        if where == "sync":
            patched.setattr("os.fsync", fails)
        else:
            patched.setattr(journal, "_file", _Half(journal._file))
        with pytest.raises((KeyboardInterrupt, StoreError)):
            journal.append(record("parallel", 1, [sequence("b", "1", True)]))
    journal.append(record("parallel", 2, [sequence("c", "1", True)]))
    journal.close()
    again = Journal(tmp_path)
    assert (again.prompts("parallel"), again.problems, again.notices) == ([0, *kept, 2], [], [])


def test_a_torn_last_line_is_told_and_cut(tmp_path: Path) -> None:
    """A reader leaves it, as a run may be writing it; a writer cuts it. Of 15 MB it takes no longer to find."""
    folder = small_journal(tmp_path)
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole + b'{"record":{"experiment":"' + b"x" * 15_000_000)
    started = time.process_time()
    reader = Journal(folder)
    journal = Journal(folder, SETTINGS)
    journal.close()
    assert time.process_time() - started < 3
    assert "its last line is not whole" in reader.notices[0]
    assert journal.notices == reader.notices
    assert (folder / "journal.jsonl").read_bytes() == whole


def test_a_file_that_changes_under_a_reader_is_one_sentence(tmp_path: Path) -> None:
    """Its checksum is looked at again when a record is read."""
    journal = Journal(small_journal(tmp_path))
    damage(tmp_path, 4, b'"text":"c"', b'"text":"d"')
    with pytest.raises(StoreError, match="no whole record of eager_init_th2, prompt 1: restore the file"):
        journal.read("eager_init_th2", 1)


def test_a_tree_that_names_other_sequences_is_left_out(tmp_path: Path) -> None:
    """A parent beyond the prompt's sequences would end the report in an IndexError."""
    folder = write_journal(tmp_path, [record("parallel", 0, [sequence("a", "1", True), sequence("b", "1", True)])])
    journal = Journal(folder, Journal(folder).settings)
    whole = journal.read("parallel", 0)
    journal.append(replace(whole, sequences=(whole.sequences[0], replace(whole.sequences[1], parent=7))))
    journal.close()
    findings = Findings()
    (results,) = open_folder(folder, findings)
    assert list(results.records()) == []
    assert "prompt 0: names sequences that it does not hold; this prompt is left out" in findings.problems[0]


def test_another_number_of_problems_is_told_as_that(tmp_path: Path) -> None:
    """Another --limit makes another hash, too: the number is what a person can do something about."""
    settings = {"data_digest": "a", "n_prompts": 3}
    write_journal(tmp_path, [record("parallel", 0, [sequence("a", "1", True)])], **settings)
    asked = {**Journal(tmp_path).settings, "data_digest": "b", "n_prompts": 2}
    with pytest.raises(StoreError, match=r"begun with n_prompts=3, now it is 2 \(the number of problems: --limit\)"):
        Journal(tmp_path, asked)
