"""The journal and the result file by themselves."""

import json
import re
import time
from dataclasses import replace

import pytest

from eager.atomic import replacing
from eager.store.journal import Journal, StoreError
from eager.store.records import PromptRecord, SequenceRecord, from_line, merged, to_line
from eager.types import Branch

HOSTILE = "</script>\x00\x1b[31m\u202e\ud800 'quoted' \"double\" \\boxed{1}"


def record(index=0, experiment="eager_init_th2", text="hello"):
    first = SequenceRecord((5, 6, 7), (0.12345, 2.5, None), text, "stop", answer="1", correct=True)
    second = SequenceRecord((8,), (2.5,), "world", "length", parent=0, fork=1)
    branch = Branch(0, 1, 2.5, 2.0, 1, 5, 6, 7, " a", " b", " c", "before")
    return PromptRecord(
        experiment,
        index,
        "the prompt",
        "<user>the prompt",
        "1",
        (first, second),
        (branch,),
        3,
        1,
        0.5,
        {"level": "easy"},
    )


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "out", {"seed": 1})
    yield journal
    journal.close()


def test_what_is_appended_is_read_back(journal):
    """Records survive the round trip, entropies rounded to 4 places, hostile texts as they were."""
    journal.append(record(3, text=HOSTILE))
    back = journal.read("eager_init_th2", 3)
    assert back.sequences[0].text == HOSTILE
    assert back.sequences[0].entropies == (0.1235, 2.5, None)
    assert (back.n_tokens, back.n_tokens_naive) == (4, 5)
    assert Journal(journal.folder).read("eager_init_th2", 3) == back


def test_a_branch_is_kept_with_ids_and_texts_and_read_without_ids_too():
    """A journal line has the tokens of a branch as ids and as text; lines of old, which have text only, are read."""
    line = to_line(record())
    assert from_line(line) == from_line(json.loads(json.dumps(line)))
    (branch,) = line["branches"]
    assert (branch["sampled_id"], branch["kept_token"], branch["new_id"]) == (5, " b", 7)
    for name in ("sampled_id", "kept_id", "new_id"):
        del branch[name]
    assert from_line(line).branches == (replace(record().branches[0], sampled_id=None, kept_id=None, new_id=None),)


def test_grades_found_later_replace_the_first(journal):
    """The last grades count, in this process and in the next; the record itself is untouched."""
    journal.append(record())
    journal.append_grades("eager_init_th2", 0, ["0", "0"], [False, False])
    journal.append_grades("eager_init_th2", 0, ["1", None], [True, None])
    for reader in (journal, Journal(journal.folder)):
        assert [s.correct for s in reader.read("eager_init_th2", 0).sequences] == [True, None]
        assert [s.answer for s in reader.read("eager_init_th2", 0).sequences] == ["1", None]


def test_about_is_not_a_setting(journal):
    """Notes and versions may change between runs; the last count."""
    journal.append_about({"notes": "a"})
    journal.append_about({"notes": "b"})
    journal.close()
    again = Journal(journal.folder, {"seed": 1})
    assert again.about == {"notes": "b"}
    again.close()


def test_a_run_that_finished_nothing_may_be_begun_anew(journal):
    """A typing error in the first command does not lock the folder; the first record does."""
    journal.close()
    again = Journal(journal.folder, {"seed": 2})
    again.append(record())
    again.close()
    with pytest.raises(StoreError, match="begun with seed=2, now it is 3"):
        Journal(journal.folder, {"seed": 3})


@pytest.mark.parametrize(
    ("begun", "now", "sentence"),
    [
        ({"dtype": "float16"}, {}, "begun with dtype='float16', now it is its default: use the same"),
        ({}, {"system_prompt": "Be brief."}, "begun with system_prompt=its default, now it is 'Be brief.': use"),
        ({"max_tokens": None}, {"max_tokens": 5}, "begun with max_tokens=its default, now it is 5: use"),
        (
            {"threshold_percentile": 99.0},
            {"threshold_percentile": None},
            "threshold_percentile=99.0, now it is None: use",
        ),
    ],
)
def test_a_setting_at_its_default_is_called_that(tmp_path, begun, now, sentence):
    """It is not written, so there is no value to show; None is a value of the percentile alone."""
    first = Journal(tmp_path / "run", begun)
    first.append(record())
    first.close()
    with pytest.raises(StoreError, match=re.escape(sentence)):
        Journal(tmp_path / "run", now)


def test_a_journal_of_another_format_is_refused(tmp_path):
    """It is neither read nor overwritten."""
    (tmp_path / "journal.jsonl").write_text('{"format": 99, "settings": {}}\n')
    for settings in (None, {"seed": 1}):
        with pytest.raises(StoreError, match="another format than 1"):
            Journal(tmp_path, settings)


def test_a_reader_does_not_disturb_a_writer(journal):
    """Reading needs no lock, and a line that is just being written is left alone."""
    journal.append(record())
    with journal.path.open("ab") as file:
        file.write(b'{"record": {"experiment"')
    assert Journal(journal.folder).prompts("eager_init_th2") == [0]


def test_a_folder_without_a_journal(tmp_path):
    """The sentence says what kind of folder is wanted."""
    with pytest.raises(StoreError, match=r"holds no journal.jsonl"):
        Journal(tmp_path)


def test_merged_records_number_on(journal):
    """eager_init's sequences come first; costs add up."""
    extra = PromptRecord(
        "eager_th2", 0, "", "", None, (SequenceRecord((9, 9), (None, None), "x", "stop"),), n_discarded=2, seconds=1.0
    )
    both = merged(record(), extra)
    assert [s.text for s in both.sequences] == ["hello", "world", "x"]
    assert (both.experiment, both.n_tokens, both.n_discarded, both.seconds) == ("eager_th2", 6, 3, 1.5)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """An error in the middle of writing leaves the file as it was, and no rubbish."""
    path = tmp_path / "r.json"
    with replacing(path) as file:
        file.write("whole")

    def broken():
        with replacing(path) as file:
            file.write("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_damaged_record_is_one_sentence(journal):
    """A line that was damaged in its middle does not keep the folder from being opened; its record is refused."""
    journal.append(record())
    journal.append(record(1))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"sequences":[', b'"sequences":!', 1)
    journal.path.write_bytes(b"".join(lines))
    reader = Journal(journal.folder)
    assert reader.read("eager_init_th2", 1).sequences[0].text == "hello"
    with pytest.raises(StoreError, match="no whole record of eager_init_th2, prompt 0: restore the file"):
        reader.read("eager_init_th2", 0)


def test_regrading_forgets_the_classes_of_the_old_answers(journal):
    """Classes of equivalent answers are kept with a record, and hold for its own answers only."""
    first, second = record().sequences
    journal.append(replace(record(), sequences=(replace(first, group=0), second)))
    assert [s.group for s in journal.read("eager_init_th2", 0).sequences] == [0, None]
    journal.append_grades("eager_init_th2", 0, ["0", "0"], [False, False])
    assert [s.group for s in journal.read("eager_init_th2", 0).sequences] == [None, None]


def test_parts_are_kept_until_their_prompt_is_finished(journal):
    """A tree of an unfinished prompt is found by its first sequence, here and after reopening; it is no record."""
    journal.append(record())
    journal.append_part(record(experiment="eager_vote_th2"), first_sequence=2)
    for opened in (journal, Journal(journal.folder)):
        part = opened.part("eager_vote_th2", 0, 2, base="eager_init_th2")
        assert part == from_line(to_line(record(experiment="eager_vote_th2")))
        assert opened.part("eager_vote_th2", 0, 3, base="eager_init_th2") is None
        assert opened.experiments() == ["eager_init_th2"]
        assert opened.count("eager_vote_th2") == 0


def test_a_part_of_another_base_is_none(journal):
    """Where the record that it adds to was generated anew, its sequences may no longer fit."""
    journal.append(record())
    journal.append_part(record(experiment="eager_vote_th2"), first_sequence=2)
    journal.append(record(text="another"))
    assert journal.part("eager_vote_th2", 0, 2, base="eager_init_th2") is None


def test_a_long_run_appends_as_fast_as_it_began(journal, monkeypatch):
    """The twenty-thousandth prompt takes what the first took, and a journal of so many opens in seconds.

    Of the processor's time; benchmarks/journal_load.py has the disk's, too.
    """
    monkeypatch.setattr("os.fsync", lambda handle: None)
    blocks = []
    for block in range(40):
        started = time.process_time()
        for index in range(500):
            journal.append(record(500 * block + index))
        blocks.append(time.process_time() - started)
    assert min(blocks[-8:]) < 2 * min(blocks[:8])
    started = time.process_time()
    assert Journal(journal.folder).count("eager_init_th2") == 20_000
    assert time.process_time() - started < 5
