"""Result files that JSON does not allow but Python's json writes, and those that no honest writer makes."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import needs
import pytest
from result_builder import column, published_prompt, read, record, sequence, write_experiment_file, write_published

from eager.grading import MathGrader
from eager.results.findings import Findings, ResultsError
from eager.results.json_stream import items, without
from eager.results.large import write_large
from eager.results.published import UnreadableError, parse_entropies, parse_literal
from eager.results.result_file import ResultFile
from eager.results.scores import Grades, Regrader
from eager.store.journal import StoreError

needs.package("ijson", "report")

OUTPUT = "2025-10-01_12-00-01"


NOT_FINITE = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("form", [repr, json.dumps, lambda numbers: numbers], ids=["repr", "json", "list"])
def test_numbers_that_are_not_finite_are_read_and_count_as_missing(tmp_path: Path, form) -> None:
    """As entropies, in a branch, as target, answer and setting, bare or inside a string; that there are any is said."""
    branch = {
        "seq_idx": 0, "gen_step": 0, "auto_selected_token": "a", "entropy": math.nan, "entropy_threshold": -math.inf,
        "man_token_original": "a", "man_token_branch": "nan", "new_seq_idx": 0, "last_generated_chars": "inf",
    }  # fmt: skip
    prompt = published_prompt("Q?", math.nan, [], ["Q? one", "Q? two"], [[], []])
    prompt["entropies"] = [form([0.5, *NOT_FINITE, 1.5]), form([*NOT_FINITE])]
    prompt["extracted_answers"] = "[nan, 'nan']"
    prompt["recorded_branches"] = [repr(branch), branch, repr({**branch, "entropy": 2.5, "entropy_threshold": 2.0})]
    path = write_published(tmp_path / OUTPUT, "aware_results__th2.5", [prompt])
    path.write_text(path.read_text(encoding="utf-8").replace('"temperature": 0.6', '"temperature": NaN'))
    findings = Findings()
    (back,) = read(path, findings)
    assert column(back, "entropies") == [(0.5, None, None, None, 1.5), (None, None, None)]
    assert (column(back, "answer"), back.target) == ([None, "nan"], None)
    assert [branch.new_token for branch in back.branches] == ["nan"]
    assert ResultFile(path, findings).facts.temperature is None
    assert [said in " ".join(findings.notices) for said in ("are no finite numbers", "are left out")] == [True, True]
    assert findings.problems == []


@pytest.mark.parametrize("backend", ["yajl2_c", "python"])
@pytest.mark.parametrize("size", [1, 7, 40, 1 << 18])
def test_what_pythons_json_writes_is_read(tmp_path: Path, size: int, backend: str, monkeypatch) -> None:
    """Words for numbers that JSON has not, outside strings only, and a byte-order mark; without ijson's C, too."""
    ijson = needs.package("ijson", "report")
    try:
        monkeypatch.setattr(ijson, "basic_parse", ijson.get_backend(backend).basic_parse)
    except ImportError:
        pytest.skip("this ijson came without its C: pip install --force-reinstall ijson")
    monkeypatch.setattr("eager.results.json_stream.CHUNK_BYTES", size)
    values = [*NOT_FINITE, "NaN, -Infinity", 'a\\"NaN', "\\", {"Infinity": math.nan}, [[1.5, -math.inf]], "\0NaN"]
    text = json.dumps({"before": math.nan, "list": values, "after": -math.inf})
    (tmp_path / "x.json").write_text(text, encoding="utf-8-sig")
    assert repr(list(items(tmp_path / "x.json", "list"))) == repr([*values[:-1], math.nan])
    assert repr(without(tmp_path / "x.json", "list")) == "{'before': nan, 'after': -inf}"


def test_a_text_is_taken_for_no_number_in_a_file_without_any(tmp_path: Path) -> None:
    """What stands in for NaN on its way through the parser is a text like any other elsewhere."""
    (tmp_path / "x.json").write_text(json.dumps({"list": ["\0NaN"]}))
    assert list(items(tmp_path / "x.json", "list")) == ["\0NaN"]


def peak_megabytes(work) -> float:
    """What it takes at most beside what is there."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ('"a": ' + "[" * 80_000, "is nested more than 50 deep before"),
        ('"a": ' + '{"b":' * 16_000, "is nested more than 50 deep before"),
        ('"a": [' + "[]," * 500_000 + "[]]", "holds more than 100,000 lists and objects in one place before"),
    ],
    ids=["lists", "objects", "many"],
)
def test_a_head_without_bounds_is_one_sentence(tmp_path: Path, head: str, reason: str) -> None:
    """80 kB nested deeply took 4 GB."""
    (tmp_path / "parallel.json").write_text("{" + head)
    said = []

    def work() -> None:
        with pytest.raises(ResultsError) as caught:
            ResultFile(tmp_path / "parallel.json", Findings())
        said.append(str(caught.value))

    assert peak_megabytes(work) < 100
    assert reason in said[0]


def test_a_prompt_nested_without_end_ends_the_file(tmp_path: Path) -> None:
    """What comes before it is read."""
    path = write_experiment_file(tmp_path, "parallel", [record("parallel", 0, [sequence("a", "42", True)])])
    text = path.read_text(encoding="utf-8")
    end = text.rindex("}", 0, text.rindex("]")) + 1
    path.write_text(text[:end] + ", " + "[" * 80_000, encoding="utf-8")
    findings = Findings()
    assert len(read(path, findings)) == 1
    assert "is nested more than 50 deep after 1 whole prompt:" in findings.problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" + "0," * 1_900_000 + "]",
        "[" + "{}," * 1_000_000 + "]",
        "''" * 1_900_000,
        "'" + "\\'" * 1_900_000,
        "1 " * 10**6,
    ],
    ids=["numbers", "dicts", "strings", "unended", "spaces"],
)
def test_a_huge_literal_is_refused_before_it_is_parsed(text: str) -> None:
    """One of 3.8 MB took 1.8 GB."""

    def work() -> None:
        with pytest.raises(UnreadableError):
            parse_literal(text)
        with pytest.raises(UnreadableError):
            parse_entropies(text.replace("0,", "{},"))

    assert peak_megabytes(work) < 100


def test_a_result_file_that_breaks_while_it_is_graded_stays_as_it_is(tmp_path: Path) -> None:
    """What was not read cannot be written back."""
    path = write_experiment_file(
        tmp_path, "parallel", [record("parallel", i, [sequence("a", "42", True)]) for i in (0, 1)]
    )
    file = ResultFile(path, Findings())
    for cut in (b'"prompt_index": 1', b"\n}\n"):
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex(cut)])
        before = path.read_bytes()
        with MathGrader() as grader, pytest.raises(StoreError, match="it stays as it is"):
            file.regrade({0: Grades(["1"], [True])}, Regrader(grader))
        assert path.read_bytes() == before
        path.write_bytes(data)


def test_a_large_file_holds_what_is_not_finite_as_json_says_it(tmp_path: Path) -> None:
    """repr's nan and inf are no JSON: they are written as Python's json writes them."""
    prompt = published_prompt("Q?", 1, ["1"], ["Q? one"], [NOT_FINITE])
    write_published(tmp_path, "default_results", [prompt])
    (written,) = write_large([tmp_path], Findings())
    assert repr(json.loads(written.read_text())[0]["entropies"]) == "[[nan, inf, -inf]]"
