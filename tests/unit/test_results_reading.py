"""Reading result files: ours and the published code's, whole, hand-edited and broken."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import needs
import pytest
from result_builder import (
    column,
    demo_folder,
    published_prompt,
    read,
    record,
    sequence,
    write_experiment_file,
    write_published,
)

from eager.grading import MathGrader
from eager.prefix import common_prefix
from eager.results.entries import find_parents
from eager.results.experiment import Experiment
from eager.results.findings import Findings, ResultsError
from eager.results.folder import open_folder
from eager.results.json_stream import items
from eager.results.published import UnreadableError, parse_answers, parse_entropies, parse_literal, prompt_entry
from eager.results.result_file import ResultFile, write_result_file
from eager.results.scores import Grades, Regrader
from eager.store.records import PromptRecord

needs.package("ijson", "report")

OUTPUT = "2025-10-01_12-00-01"


def test_every_sequence_of_our_own_file_comes_back(tmp_path: Path) -> None:
    """What was written is read again: everything but token ids, which the file does not hold."""
    written = record("eager_init_th2.2", 3, [sequence("a", "42", True), sequence("b", None, False, parent=0, fork=5)])
    path = write_experiment_file(tmp_path, "eager_init", [written])
    (back,) = read(path)
    assert back.sequences[1].entropies == pytest.approx(written.sequences[1].entropies)
    for name in ("text", "finish_reason", "parent", "fork", "answer", "correct", "error"):
        assert column(back, name) == column(written, name)
    assert (column(back, "token_ids"), column(back, "group")) == ([None, None], [0, None])
    assert (back.prompt_index, back.prompt, back.prompt_text, back.target) == (3, *_texts(written))
    assert (back.n_tokens, back.n_tokens_naive) == (24, 29)


def _texts(item: PromptRecord) -> tuple[str, str, str | None]:
    return item.prompt, item.prompt_text, item.target


def test_the_tree_of_our_own_file_comes_back(tmp_path: Path) -> None:
    """Branches name the sequences that they made."""
    folder = demo_folder(tmp_path / "run", n_prompts=3, max_sequences=6)
    last = read(folder / "eager_init_th2.2.json")[-1]
    assert [branch.new_seq for branch in last.branches] == [1, 2, 3, 4, 5]
    assert [branch.position for branch in last.branches] == column(last, "fork")[1:]


@pytest.mark.parametrize("place", ["params", "data", "extra", None])
def test_settings_are_found_wherever_the_file_keeps_them(tmp_path: Path, place: str | None) -> None:
    """At the top as documented, under `params` and `data` as published, under `extra` what is ours."""
    said = {"model_name": "m", "temperature": 0.6, "max_sequences": 32, "seed": 55, "data_name": "d"}
    head = said if place is None else {place: said}
    (tmp_path / "parallel.json").write_text(json.dumps({**head, "default-generations": []}))
    facts = ResultFile(tmp_path / "parallel.json", Findings()).facts
    found = (facts.model_name, facts.temperature, facts.max_sequences, facts.seed, facts.data_name)
    assert found == ("m", 0.6, 32, 55, "d")


def test_a_published_file_says_what_it_is(tmp_path: Path) -> None:
    """Its settings are nested; its state and number of prompts are at the top."""
    prompt = published_prompt("1+1?", 2, ["2"], ["1+1? It is \\boxed{2}"], [[0.1, 0.2, -9.0]], [])
    file = ResultFile(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]), Findings())
    assert file.experiment == Experiment("eager_init", 2.5)
    facts = file.facts
    assert (facts.model_name, facts.data_name, facts.max_sequences) == ("Qwen/Qwen3-4B", "opencompass/AIME2025", 32)
    assert (facts.n_prompts, facts.is_complete, facts.is_published) == (1, True, True)


def test_published_answers_are_graded_now_and_equivalence_counts(tmp_path: Path) -> None:
    """A file without grades is graded by Math-Verify, as a run is: 0.5 and a half are one answer."""
    needs.package("math_verify", "math")
    texts = ["Q? a", "Q? b", "Q? c"]
    rows = [[0.1, -9.0]] * 3
    prompt = published_prompt("Q?", "0.5", ["\\frac{1}{2}", "7", None], texts, rows)
    findings = Findings()
    (back,) = read(write_published(tmp_path / OUTPUT, "default_results", [prompt]), findings)
    assert column(back, "correct") == [True, False, False]
    assert column(back, "group") == [0, 1, None]
    assert any("carries no grades" in notice for notice in findings.notices)


def test_published_sentinels_count_as_the_published_recapper_counts_them(tmp_path: Path) -> None:
    """-1 is the parent's token, every other number a token of its own; that some of them are words is said."""
    prompt = published_prompt("Q?", 1, ["1", "1"], ["Q? ab", "Q? ac"], [[0.5, 2.6, -2.0, -9.0], [-1, 2.6, -2.0]], [])
    findings = Findings()
    (back,) = read(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]), findings)
    assert (back.n_tokens, back.n_tokens_naive) == (6, 7)
    assert column(back, "entropies") == [(0.5, 2.6, None, None), (2.6, None)]
    assert any("token counts are estimates" in notice for notice in findings.notices)


def test_the_tree_of_a_published_file_is_found_from_its_texts(tmp_path: Path) -> None:
    """Sequences are listed in the order they ended, here the child first; who branched from whom is found again."""
    branch = {
        "seq_idx": 0, "gen_step": 2, "auto_selected_token": " x", "entropy": 2.6, "entropy_threshold": 2.5,
        "man_token_original": " x", "man_token_branch": " y", "new_seq_idx": 1, "last_generated_chars": "Q? one two",
    }  # fmt: skip
    texts = ["Q? one two y end", "Q? one two x and on"]
    prompt = published_prompt("Q?", 1, ["1", "1"], texts, [[-1, -1, 2.6, 0.1], [0.1, 0.1, 2.6, 0.1, 0.2]], [branch])
    (back,) = read(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]))
    assert column(back, "parent") == [1, None]
    assert column(back, "text") == [" one two y end", " one two x and on"]
    assert [(found.seq, found.new_seq) for found in back.branches] == [(1, 0)]


def test_without_a_target_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    """Neither null nor the text None, which str() makes of it, is a target."""
    prompts = [published_prompt("Q?", target, ["1"], ["Q? 1"], [[0.1]]) for target in (None, "None")]
    back = read(write_published(tmp_path / OUTPUT, "default_results", prompts))
    assert [column(item, "correct") for item in back] == [[None], [None]]


def test_published_code_is_ungraded_until_it_was_run(tmp_path: Path) -> None:
    """HumanEval's target is a dummy '1'; answers are '1' or '0' once the code was run."""
    prompts = [published_prompt("def f():", "1", answers, ["a", "b"], [[0.1], [0.1]]) for answers in (["", "x"], "10")]
    path = write_published(tmp_path / OUTPUT, "default_results", prompts, data_name="evalplus/humanevalplus")
    back = read(path)
    assert [column(item, "correct") for item in back] == [[None, None], [True, False]]
    assert [item.target for item in back] == [None, None]


def test_code_is_written_with_the_published_target(tmp_path: Path) -> None:
    """Published files say '1' for HumanEval; a run without targets of another task says null."""
    item = record("parallel", 0, [sequence("a", None, None)], target=None)
    assert prompt_entry(item, "evalplus/humanevalplus")["target"] == "1"
    assert prompt_entry(item, "mine")["target"] is None


def test_the_documented_forms(tmp_path: Path) -> None:
    """Strings are reprs as published, -1 marks inherited tokens and -2.0 unmonitored ones; texts are as they were."""
    (hostile,) = ("</script>\x00\x1b[31m\u202e\ud800 'quoted' \"double\" \\boxed{1}",)
    folder = demo_folder(tmp_path / "run", n_prompts=3, max_sequences=3)
    branches = read(folder / "eager_init_th2.2.json")[-1].branches
    first = sequence(hostile, "1", True, entropies=[0.12345, 2.5, None])
    second = sequence("world", None, None, parent=0, fork=1, entropies=[2.5])
    entry = prompt_entry(record("eager_init_th2.2", 0, [first, second], branches))
    write_result_file(tmp_path / "r.json", {"status": {}}, "entropy-aware-generations", [entry, entry])
    back = json.loads((tmp_path / "r.json").read_text())["entropy-aware-generations"][1]
    assert ast.literal_eval(back["extracted_answers"]) == ["1", ""]
    assert back["entropies"] == ["[0.1235, 2.5, -2.0]", "[-1, 2.5]"]
    assert back["generations"][0].endswith(hostile)
    assert list(ast.literal_eval(back["recorded_branches"][0])) == [
        "seq_idx", "gen_step", "auto_selected_token", "entropy", "entropy_threshold",
        "man_token_original", "man_token_branch", "new_seq_idx", "last_generated_chars",
    ]  # fmt: skip


def test_a_truncated_file_keeps_its_whole_prompts(tmp_path: Path) -> None:
    """A file that was cut short is read up to the cut, and how far that is is said."""
    path = demo_folder(tmp_path / "run", n_prompts=3) / "parallel.json"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'"prompt_index": 1')])
    findings = Findings()
    assert [item.prompt_index for item in read(path, findings)] == [0]
    (problem,) = findings.problems
    assert problem.startswith(f"'{path}' is cut short or damaged after 1 whole prompt:")


def test_a_hand_edited_file_says_how_far_it_was_read(tmp_path: Path) -> None:
    """One wrong character costs what follows it, and no more."""
    path = write_experiment_file(
        tmp_path, "parallel", [record("parallel", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    text = path.read_text(encoding="utf-8")
    at = text.index('"target"', text.index('"prompt_index": 0'))
    path.write_text(text[:at] + "!" + text[at:], encoding="utf-8")
    findings = Findings()
    assert len(read(path, findings)) == 1
    assert "damaged after 1 whole prompt:" in findings.problems[0]


def test_a_bad_prompt_costs_only_itself(tmp_path: Path) -> None:
    """What does not fit together is left out by its number; nothing in it is run."""
    prompts = [published_prompt(f"Q{i}?", 1, ["1"], ["x"], [[0.1]]) for i in range(4)]
    prompts[0]["entropies"] = ["[0.1, oops]"]
    prompts[1]["extracted_answers"] = "__import__('os').system('true')"
    prompts[2]["generations"] = "no list"
    findings = Findings()
    back = read(write_published(tmp_path / OUTPUT, "default_results", prompts), findings)
    assert [item.prompt_index for item in back] == [3]
    assert [f"prompt {i}:" in problem for i, problem in enumerate(findings.problems)] == [True] * 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"a": [1, 2]}', b"\xff\xfe", b"null", b'{"a": NaN}', b'"x'])
def test_what_is_no_result_file_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    """Empty, of another kind, or no JSON at all: the file is named."""
    (tmp_path / "parallel.json").write_bytes(content)
    with pytest.raises(ResultsError, match=r"parallel\.json"):
        open_folder(tmp_path, Findings())


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_lone_surrogates_and_null_bytes_are_read(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a model wrote is read, wherever a chunk of the file ends; half a surrogate pair as U+FFFD."""
    monkeypatch.setattr("eager.results.json_stream.CHUNK_BYTES", size)
    values = ["\ud800", "a\udc00b", "\U0001f600", "\\ud800", "\x00", "\\\\\\" * 30, "end\ud83d"]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"list": values}), encoding="utf-8")
    expected = ["\ufffd", "a\ufffdb", "\U0001f600", "\\ud800", "\x00", "\\\\\\" * 30, "end\ufffd"]
    assert list(items(path, "list")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "[" * 500 + "]" * 500,
        "-" * 100_000 + "1",
        "9" * 10_000,
        "lambda: 0",
        "'\x00",
        "{1: [[2]]}",
        "f'{1}'",
    ],
)
def test_a_hostile_literal_is_refused_and_never_run(text: str) -> None:
    """What could exhaust or deceive the parser of Python values is an error like any other."""
    with pytest.raises(UnreadableError):
        parse_literal(text)


def test_answers_keep_their_quotes_brackets_and_backslashes() -> None:
    """An answer can be anything, and comes back as it was."""
    answers = ["it's", '"[(', "\\frac{1}{2}", "", "[[[[", "\x00", None]
    assert parse_answers(repr(answers)) == answers


@pytest.mark.parametrize("text", ["[[1]]", "0.5", '["a"]', "[" * 100_000, "{}", "[null]", "[" + "{}," * 9 + "{}]"])
def test_entropies_are_one_list_of_numbers(text: str) -> None:
    """Anything else would be a wrong number in a mean: it is refused."""
    with pytest.raises(UnreadableError):
        parse_entropies(text)
    assert parse_entropies("[-1, 0.5, -2.0]") == [-1.0, 0.5, -2.0]


def test_common_prefix_is_the_longest_one() -> None:
    """By bisection, and still exact at both ends."""
    assert common_prefix("abcde", "abxde") == 2
    assert common_prefix("", "a") == 0
    assert common_prefix("aaa", "aaa") == 3


def test_a_parent_forked_earlier_than_its_child() -> None:
    """Among the sequences that could be the parent, the one with the longest common text is."""
    assert find_parents(["abcd", "abxy", "abxz"], [0, 2, 3]) == [None, 0, 1]


def test_our_grades_must_fit_our_sequences(tmp_path: Path) -> None:
    """Two grades for one text could be anybody's: the prompt is left out."""
    path = write_experiment_file(tmp_path, "parallel", [record("parallel", 0, [sequence("a", "42", True)])])
    data = json.loads(path.read_text(encoding="utf-8"))
    data["default-generations"][0]["correct"] = [True, False]
    path.write_text(json.dumps(data), encoding="utf-8")
    findings = Findings()
    assert read(path, findings) == []
    assert "'correct' holds 2 values for 1 generations" in findings.problems[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", [[["nested"]]]),
        ("target", {"a": 1}),
        ("tokens", {"generated": 2**60, "naive": 1}),
        ("tokens", {"generated": -1, "naive": 1}),
        ("forks", [-1]),
        ("forks", [10**6]),
        ("forks", [None]),
        ("parents", [0]),
        ("parents", [7]),
        ("answer_groups", ["a"]),
        ("recorded_branches", "all"),
        ("recorded_branches", ["{'seq_idx': 0}"]),
        ("recorded_branches", [{"seq_idx": "first"}]),
        ("recorded_branches", ["[1]"]),
        ("entropies", ["[0.1]", "[0.1]"]),
        ("generations", []),
        ("extracted_answers", "[[1]]"),
    ],
)
def test_no_value_of_a_prompt_can_stop_the_others(tmp_path: Path, key: str, value: object) -> None:
    """A value of the wrong kind or beyond its bounds costs its prompt, and the sentence names the key."""
    path = write_experiment_file(
        tmp_path, "eager_init", [record("eager_init", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    data = json.loads(path.read_text(encoding="utf-8"))
    data["entropy-aware-generations"][0][key] = value
    path.write_text(json.dumps(data), encoding="utf-8")
    findings = Findings()
    assert [item.prompt_index for item in read(path, findings)] == [1]
    assert f"prompt 0: '{key}'" in findings.problems[0] or f"one of its '{key}'" in findings.problems[0]


def test_an_index_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Two prompts under one number would get each other's grades: the second is left out."""
    path = write_experiment_file(
        tmp_path, "parallel", [record("parallel", 7, [sequence(text, "42", True)]) for text in ("a", "b")]
    )
    findings = Findings()
    assert [column(item, "text") for item in read(path, findings)] == [["a"]]
    assert "prompt 1: 'prompt_index' 7 stands in the file twice" in findings.problems[0]


@pytest.mark.parametrize("field", ["'gen_step': -1", "'entropy_threshold': 'x'", "'gen_step': 1e30"])
def test_a_branch_with_impossible_numbers_is_refused(tmp_path: Path, field: str) -> None:
    """A position that cannot be would end up in the plots."""
    branch = (
        "{'seq_idx': 0, 'gen_step': 0, 'auto_selected_token': '', 'entropy': 2.5, 'entropy_threshold': 2.2,"
        " 'man_token_original': '', 'man_token_branch': '', 'new_seq_idx': 0, 'last_generated_chars': '', "
        + field
        + "}"
    )
    prompt = published_prompt("Q?", 1, ["1"], ["Q?"], [[0.1]], [])
    prompt["recorded_branches"] = [branch]
    findings = Findings()
    assert read(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]), findings) == []
    assert "'recorded_branches' cannot be read" in findings.problems[0]


def test_other_grades_are_written_into_a_file_and_all_else_stays(tmp_path: Path) -> None:
    """Keys that we do not know, before and after the list, keep their values; scores and classes follow the grades."""
    prompts = [published_prompt(f"Q{i}?", 1, ["", ""], ["a", "b"], [[0.1], [0.1]]) for i in range(2)]
    prompts[0]["unknown"] = {"kept": 1}
    path = write_published(tmp_path / OUTPUT, "default_results", prompts)
    before = json.loads(path.read_text(encoding="utf-8"))
    before["results"]["mine"] = before["after"] = 7
    path.write_text(json.dumps(before), encoding="utf-8")
    with MathGrader() as grader:
        scores = ResultFile(path, Findings()).regrade({0: Grades(["1", "0"], [True, False])}, Regrader(grader))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert scores.pass_rate.value == after["results"]["avg_acc"] == 0.5
    assert after["results"]["mine"] == after["after"] == 7
    first, second = after.pop("default-generations")
    assert second == before["default-generations"][1]
    assert (first["extracted_answers"], first["correct"], first["answer_groups"]) == (
        "['1', '0']",
        [True, False],
        [0, 1],
    )
    assert first["unknown"] == {"kept": 1}
    assert after.keys() == before.keys() - {"default-generations"}
    assert all(after[key] == before[key] for key in after if key != "results")
