"""The journal and the result file by themselves."""

import ast
import json
from dataclasses import replace

import pytest

from eager.results import write_experiment
from eager.store import (
    Journal,
    PromptRecord,
    SequenceRecord,
    StoreError,
    merged,
    prompt_entry,
    write_result_file,
)
from eager.store.records import from_line, to_line
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


def test_the_documented_forms(tmp_path):
    """Strings are reprs as published, -1 marks inherited tokens and -2.0 unmonitored ones."""
    entry = prompt_entry(record(text=HOSTILE), [0, None])
    path = tmp_path / "r.json"
    write_result_file(path, {"status": {}}, "entropy-aware-generations", [entry, entry])
    read = json.loads(path.read_text())["entropy-aware-generations"][1]
    assert ast.literal_eval(read["extracted_answers"]) == ["1", ""]
    assert read["entropies"] == ["[0.1235, 2.5, -2.0]", "[-1, 2.5]"]
    assert ast.literal_eval(read["recorded_branches"][0]) == {
        "seq_idx": 0, "gen_step": 1, "auto_selected_token": " a", "entropy": 2.5, "entropy_threshold": 2.0,
        "man_token_original": " b", "man_token_branch": " c", "new_seq_idx": 1, "last_generated_chars": "before",
    }  # fmt: skip
    assert read["generations"][0] == "<user>the prompt" + HOSTILE


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """An error in the middle of writing leaves the file as it was, and no rubbish."""
    path = tmp_path / "r.json"
    write_result_file(path, {"a": 1}, "list", [])
    before = path.read_text()

    def broken():
        yield {"x": 1}
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_result_file(path, {"a": 2}, "list", broken())
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


class AllAlike:
    """A grader to which all answers are one."""

    def group(self, answers):
        return [None if answer is None else 0 for answer in answers]


def test_a_result_file_has_its_intervals_once_it_is_complete(tmp_path):
    """They are not drawn anew at every write of a run that goes on; the scores are there all the while."""
    names = ("model_name", "data_name", "engine", "temperature", "max_sequences", "seed")
    journal = Journal(tmp_path / "out", {**dict.fromkeys(names), "n_prompts": 2})
    rates = []
    for index in range(2):
        journal.append(record(index, "parallel"))
        write_experiment(journal, "parallel", AllAlike())
        head = json.loads((tmp_path / "out" / "parallel.json").read_text(encoding="utf-8"))
        rate = head["results"]["details"]["pass_rate"]
        rates.append((head["status"]["state"], rate["value"], rate["low"], rate["high"]))
    journal.close()
    assert rates == [("RUNNING", 1.0, None, None), ("COMPLETED", 1.0, 1.0, 1.0)]
