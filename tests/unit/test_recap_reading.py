"""Reading result files: ours and the published code's, whole, hand-edited and broken."""

from __future__ import annotations

import json
from pathlib import Path

import needs
import numpy as np
import pytest
from result_builder import demo_folder, published_prompt, record, sequence, write_experiment_file, write_published

from eager.grading import MathGrader
from eager.recap.grades import Regrader
from eager.recap.json_stream import find_place, items
from eager.recap.lineage import common_prefix, find_parents
from eager.recap.naming import is_candidate, kind_and_threshold
from eager.recap.parsing import UnreadableError, parse_answers, parse_entropies, parse_literal
from eager.recap.prompt import ReadPrompt
from eager.recap.reading import Findings, RecapError, ResultFile, open_folder

needs.package("ijson", "report")

OUTPUT = "2025-10-01_12-00-01"


def read(path: Path, findings: Findings | None = None) -> list[ReadPrompt]:
    findings = findings or Findings()
    with MathGrader() as grader:
        return list(ResultFile(path, findings).prompts(Regrader(grader)))


def test_every_sequence_of_our_own_file_comes_back(tmp_path: Path) -> None:
    folder = demo_folder(tmp_path / "run", n_prompts=3, max_sequences=6)
    prompts = read(folder / "eager_init_th2.2.json")
    last = prompts[-1]
    assert [prompt.index for prompt in prompts] == [0, 1, 2]
    assert last.n_sequences == 6
    assert last.n_naive == sum(entropies.size for entropies in last.entropies)
    assert last.n_generated == last.n_naive - sum(last.forks)
    assert all((entropies[:fork] == -1).all() for entropies, fork in zip(last.entropies, last.forks, strict=True))
    assert [branch.new_seq for branch in last.branches] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("suffix", "kind", "threshold"),
    [
        ("default_results", "parallel", None),
        ("aware_results__th2.5", "eager_init", 2.5),
        # The published code's "easy" policy looks at no labels, which is the paper's EAGer-adapt.
        ("aware_easy_more_budget_results__th2.5", "eager_adapt", 2.5),
        ("aware_more_budget_results__th2.5", "eager", 2.5),
        ("aware_ADDON7_more_budget_results__th2.5", "eager", 2.5),
    ],
)
def test_published_names_say_the_experiment(tmp_path: Path, suffix: str, kind: str, threshold: float | None) -> None:
    prompt = published_prompt("1+1?", 2, ["2"], ["1+1? It is \\boxed{2}"], [[0.1, 0.2, -9.0]], [])
    file = ResultFile(write_published(tmp_path / OUTPUT, suffix, [prompt]), Findings())
    assert (file.experiment.kind, file.experiment.threshold) == (kind, threshold)
    assert (file.experiment.model_name, file.experiment.max_sequences) == ("Qwen/Qwen3-4B", 32)


def test_copies_and_working_files_are_no_results() -> None:
    names = ("backup_default.json", "x_aware_results__th2.5_backup.json", "_tmp_x.json", ".x.json", "x_samples.json")
    assert not any(map(is_candidate, names))
    assert is_candidate("eager_th2.2.json")


def test_a_renamed_file_is_known_by_its_head() -> None:
    head = {"extra": {"experiment": "eager_adapt"}, "entropy_threshold": 2.0}
    assert kind_and_threshold("mine", head, "entropy-aware-generations") == ("eager_adapt", 2.0)


def test_published_answers_are_graded_now_and_equivalence_counts(tmp_path: Path) -> None:
    needs.package("math_verify", "math")
    texts = ["Q? a", "Q? b", "Q? c"]
    rows = [[0.1, -9.0]] * 3
    prompt = published_prompt("Q?", "0.5", ["\\frac{1}{2}", "7", None], texts, rows)
    (read_back,) = read(write_published(tmp_path / OUTPUT, "default_results", [prompt]))
    assert read_back.correct == (True, False, False)
    assert read_back.groups == (0, 1, None)


def test_published_sentinels_count_as_the_published_recapper_counts_them(tmp_path: Path) -> None:
    prompt = published_prompt("Q?", 1, ["1", "1"], ["Q? ab", "Q? ac"], [[0.5, 2.6, -2.0, -9.0], [-1, 2.6, -2.0]], [])
    findings = Findings()
    (read_back,) = read(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]), findings)
    assert (read_back.n_generated, read_back.n_naive) == (6, 7)
    assert any("token counts are estimates" in notice for notice in findings.notices)


def test_the_tree_of_a_published_file_is_found_from_its_texts(tmp_path: Path) -> None:
    branch = {
        "seq_idx": 0, "gen_step": 2, "auto_selected_token": " x", "entropy": 2.6, "entropy_threshold": 2.5,
        "man_token_original": " x", "man_token_branch": " y", "new_seq_idx": 1, "last_generated_chars": "Q? one two",
    }  # fmt: skip
    # Sequences are listed in the order they ended: here the child first.
    texts = ["Q? one two y end", "Q? one two x and on"]
    prompt = published_prompt("Q?", 1, ["1", "1"], texts, [[-1, -1, 2.6, 0.1], [0.1, 0.1, 2.6, 0.1, 0.2]], [branch])
    (read_back,) = read(write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt]))
    assert read_back.parents == (1, None)
    assert [(found.seq, found.new_seq) for found in read_back.branches] == [(1, 0)]


def test_without_a_target_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    prompts = [published_prompt("Q?", target, ["1"], ["Q? 1"], [[0.1]]) for target in (None, "None")]
    read_back = read(write_published(tmp_path / OUTPUT, "default_results", prompts))
    assert [prompt.correct for prompt in read_back] == [(None,), (None,)]


def test_published_code_is_ungraded_until_it_was_run(tmp_path: Path) -> None:
    prompts = [published_prompt("def f():", "1", answers, ["a", "b"], [[0.1], [0.1]]) for answers in (["", "x"], "10")]
    path = write_published(tmp_path / OUTPUT, "default_results", prompts, data_name="evalplus/humanevalplus")
    assert [prompt.correct for prompt in read(path)] == [(None, None), (True, False)]


def test_a_truncated_file_keeps_its_whole_prompts_and_names_the_place(tmp_path: Path) -> None:
    path = write_experiment_file(
        tmp_path, "parallel", [record("parallel", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'"prompt_index": 1')])
    findings = Findings()
    assert [prompt.index for prompt in read(path, findings)] == [0]
    (problem,) = findings.problems
    assert "cut short" in problem
    assert "after 1 whole prompt" in problem
    assert str(path) in problem


def test_a_hand_edited_file_names_line_and_byte(tmp_path: Path) -> None:
    path = write_experiment_file(
        tmp_path, "parallel", [record("parallel", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    text = path.read_text(encoding="utf-8")
    at = text.index('"target"', text.index('"prompt_index": 0'))
    path.write_text(text[:at] + "!" + text[at:], encoding="utf-8")
    findings = Findings()
    assert len(read(path, findings)) == 1
    line = text[:at].count("\n") + 1
    assert f"damaged at line {line}, byte {at}" in findings.problems[0]


def test_a_bad_prompt_costs_only_itself(tmp_path: Path) -> None:
    prompts = [published_prompt(f"Q{i}?", 1, ["1"], ["x"], [[0.1]]) for i in range(4)]
    prompts[0]["entropies"] = ["[0.1, oops]"]
    prompts[1]["extracted_answers"] = "__import__('os').system('true')"
    prompts[2]["generations"] = "no list"
    findings = Findings()
    assert [p.index for p in read(write_published(tmp_path / OUTPUT, "default_results", prompts), findings)] == [3]
    assert [f"prompt {i}:" in problem for i, problem in enumerate(findings.problems)] == [True] * 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"a": [1, 2]}', b"\xff\xfe", b"null", b'{"a": NaN}', b'"x'])
def test_what_is_no_result_file_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "parallel.json").write_bytes(content)
    with pytest.raises(RecapError, match=r"parallel\.json"):
        open_folder(tmp_path, Findings())


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecapError, match="holds no results"):
        open_folder(tmp_path, Findings())


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_lone_surrogates_and_null_bytes_are_read(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eager.recap.json_stream.CHUNK_BYTES", size)
    values = ["\ud800", "a\udc00b", "\U0001f600", "\\ud800", "\x00", "\\\\\\" * 30, "end\ud83d"]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"list": values}), encoding="utf-8")
    expected = ["\ufffd", "a\ufffdb", "\U0001f600", "\\ud800", "\x00", "\\\\\\" * 30, "end\ufffd"]
    assert list(items(path, "list.item")) == expected


def test_the_place_of_a_fault_is_exact_far_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = "[\n" + "1,\n" * 20_000
    path.write_text(good + "?", encoding="utf-8")
    place = find_place(path)
    assert (place.byte, place.line, place.at_end) == (len(good), 20_002, False)


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
    with pytest.raises(UnreadableError):
        parse_literal(text)


def test_answers_keep_their_quotes_brackets_and_backslashes() -> None:
    answers = ["it's", '"[(', "\\frac{1}{2}", "", "[[[[", "\x00"]
    assert parse_answers(repr(answers)) == [answer or None for answer in answers]


@pytest.mark.parametrize("text", ["[0.1, NaN]", "[[1]]", "0.5", '["a"]', "[1e999]", "[" * 100_000, "{}"])
def test_entropies_are_one_list_of_finite_numbers(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse_entropies(text)
    assert parse_entropies("[-1, 0.5, -2.0]").tolist() == [-1.0, 0.5, -2.0]


def test_common_prefix_is_the_longest_one() -> None:
    assert common_prefix("abcde", "abxde") == 2
    assert common_prefix("", "a") == 0
    assert common_prefix("aaa", "aaa") == 3


def test_a_parent_forked_earlier_than_its_child() -> None:
    assert find_parents(["abcd", "abxy", "abxz"], [0, 2, 3]) == [None, 0, 1]


def test_our_grades_must_fit_our_sequences(tmp_path: Path) -> None:
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
        ("entropies", ["[0.1]", "[0.1]"]),
        ("generations", []),
        ("extracted_answers", "[[1]]"),
    ],
)
def test_no_value_of_a_prompt_can_stop_the_others(tmp_path: Path, key: str, value: object) -> None:
    path = write_experiment_file(
        tmp_path, "eager_init", [record("eager_init", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    data = json.loads(path.read_text(encoding="utf-8"))
    data["entropy-aware-generations"][0][key] = value
    path.write_text(json.dumps(data), encoding="utf-8")
    findings = Findings()
    assert [prompt.index for prompt in read(path, findings)] == [1]
    assert f"prompt 0: '{key}'" in findings.problems[0] or f"one of its '{key}'" in findings.problems[0]


@pytest.mark.parametrize(
    "field", ["'entropy': 1e999", "'gen_step': -1", "'entropy_threshold': 'x'", "'gen_step': 1e30"]
)
def test_a_branch_with_impossible_numbers_is_refused(tmp_path: Path, field: str) -> None:
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


def test_entropies_are_small_in_memory() -> None:
    assert parse_entropies("[0.25, 0.5]").dtype == np.float32
