"""Loading problems: from the hub's shapes, from local files, and from files that are wrong."""

import csv
import gzip
import json
import math
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest
from hypothesis import given, strategies as st

from eager.grading import Graded, MathGrader
from eager.tasks import TASKS, Problem, TaskError, load
from eager.tasks.cells import as_text

DATA = Path(__file__).parents[2].parent / "shared" / "data"

# One row of each benchmark's own columns, made up.
ROWS: dict[str, dict[str, Any]] = {
    "Maxwell-Jia/AIME_2024": {"ID": "2024-I-1", "Problem": "What is 5 squared?", "Solution": "25", "Answer": 25},
    "opencompass/AIME2025": {"question": "What is 6 times 56?", "answer": r"336^\circ"},
    "MathArena/hmmt_feb_2025": {"problem_idx": 1, "problem": "Solve $x^2=2$.", "answer": r"\sqrt{2}, -\sqrt{2}"},
    "fingertap/GPQA-Diamond": {"question": "Which is even?\n\nA. 1\nB. 2\nC. 3\nD. 5", "answer": "B"},
    "evalplus/humanevalplus": {
        "task_id": "HumanEval/0",
        "prompt": "def two() -> int:\n    ",
        "entry_point": "two",
        "canonical_solution": "return 2\n",
        "test": "assert two() == 2\n",
    },
    "openai/gsm8k": {"question": "A thousand and one more?", "answer": "1000+1=<<1000+1=1001>>1001\n#### 1,001"},
    "HuggingFaceH4/MATH-500": {"problem": "Half of $x$?", "answer": r"\frac{x}{2}", "level": 1, "unique_id": "a/1"},
    "demo": {"question": "What is 1 + 1?", "answer": 2, "level": "easy"},
}
TARGETS = {
    "Maxwell-Jia/AIME_2024": "25",
    "opencompass/AIME2025": "336",
    "MathArena/hmmt_feb_2025": r"\sqrt{2}, -\sqrt{2}",
    "fingertap/GPQA-Diamond": "B",
    "evalplus/humanevalplus": None,
    "openai/gsm8k": "1001",
    "HuggingFaceH4/MATH-500": r"\frac{x}{2}",
    "demo": "2",
}


def problem(name: str) -> Problem:
    return TASKS[name].to_problem(ROWS[name], 0)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", TASKS)
def test_a_benchmarks_own_columns_give_its_problems(tmp_path: Path, name: str) -> None:
    """Prompt unchanged, target as text in its plain form, index by position."""
    row = ROWS[name]
    loaded = load(name, data_path=write_jsonl(tmp_path / "rows.jsonl", [row, row]))
    assert [problem.index for problem in loaded.problems] == [0, 1]
    first = loaded.problems[0]
    assert first.prompt == next(row[key] for key in ("Problem", "problem", "question", "prompt") if key in row)
    assert first.target == TARGETS[name]


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.hub])
def test_the_hub_and_a_local_copy_give_the_same_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every config is asked for under its own name, in order, and the problems equal those of a local file."""
    hub, asked = TASKS[name].hub, []
    assert hub is not None

    def load_dataset(path: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((path, config, split))
        return [ROWS[name]]

    stub = types.SimpleNamespace(load_dataset=load_dataset, exceptions=types.SimpleNamespace(DatasetsError=KeyError))
    monkeypatch.setitem(sys.modules, "datasets", stub)
    from_hub = load(name)
    assert asked == [(hub.path, config, hub.split) for config in hub.configs]
    local = load(name, data_path=write_jsonl(tmp_path / "rows.jsonl", [ROWS[name]] * len(hub.configs)))
    assert from_hub.problems == local.problems


def test_aime_2025_reads_both_configs() -> None:
    """Part I comes before part II, and neither is left out."""
    hub = TASKS["opencompass/AIME2025"].hub
    assert hub is not None
    assert hub.configs == ("AIME2025-I", "AIME2025-II")


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the dataset, what went wrong in one line, and --data_path."""

    def load_dataset(path: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        raise ConnectionError("no route to the hub\nand a long explanation")

    stub = types.SimpleNamespace(load_dataset=load_dataset, exceptions=types.SimpleNamespace(DatasetsError=KeyError))
    monkeypatch.setitem(sys.modules, "datasets", stub)
    with pytest.raises(TaskError, match=r"^openai/gsm8k .*no route to the hub.*--data_path$"):
        load("openai/gsm8k")


def test_without_the_datasets_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the pip command and the way around it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"pip install 'eager-gen\[tasks\]', or give a local copy with --data_path"):
        load("openai/gsm8k")


@pytest.mark.parametrize(
    ("name", "file", "rows", "first", "last"),
    [
        ("Maxwell-Jia/AIME_2024", "aime2024.jsonl", 30, "33", "321"),
        ("opencompass/AIME2025", "aime2025.jsonl", 30, "70", "240"),
        ("MathArena/hmmt_feb_2025", "hmmt_feb_2025.jsonl", 30, "103", r"\sqrt{\frac{95}{24}}"),
        ("openai/gsm8k", "gsm8k_train200.jsonl", 200, "72", None),
        ("HuggingFaceH4/MATH-500", "math500_first100.jsonl", 100, r"\left( 3, \frac{\pi}{2} \right)", None),
        ("evalplus/humanevalplus", "humanevalplus_hf.jsonl.gz", 164, None, None),
        ("evalplus/humanevalplus", "HumanEvalPlus.jsonl.gz", 164, None, None),
    ],
)
def test_real_copies_load_completely(name: str, file: str, rows: int, first: str | None, last: str | None) -> None:
    """Every row of the published files is a problem with a prompt; first and last target are the published ones."""
    if not (DATA / file).exists():
        pytest.skip(needs.SHARED_DATA)
    problems = load(name, data_path=DATA / file).problems
    assert len(problems) == rows
    assert all(problem.prompt.strip() for problem in problems)
    assert problems[0].target == first
    assert last is None or problems[-1].target == last


def test_humaneval_is_ungraded_and_keeps_what_grading_needs(tmp_path: Path) -> None:
    """No target, the grade of any text is None (never False), and task_id and entry_point are there for later."""
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS["evalplus/humanevalplus"]])
    loaded = load("evalplus/humanevalplus", data_path=path)
    (problem,) = loaded.problems
    assert problem.meta == {"task_id": "HumanEval/0", "entry_point": "two"}
    with MathGrader() as grader:
        assert loaded.grade("```python\nnonsense\n```", problem, grader) == Graded(None, None)


def test_loaded_tasks_grade_by_their_kind(tmp_path: Path) -> None:
    """A letter for GPQA, a number behind hashes for gsm8k, 025 for AIME."""
    cases = [
        ("fingertap/GPQA-Diamond", r"I think it is \boxed{(B)}.", "B"),
        ("openai/gsm8k", "So\n#### 1,001", "1,001"),
        ("Maxwell-Jia/AIME_2024", r"Thus \boxed{025}", "025"),
    ]
    with MathGrader() as grader:
        for name, text, answer in cases:
            loaded = load(name, data_path=write_jsonl(tmp_path / "rows.jsonl", [ROWS[name]]))
            assert loaded.grade(text, loaded.problems[0], grader) == Graded(answer, True)
            assert loaded.grade("no idea", loaded.problems[0], grader) == Graded(None, False)


def test_the_instruction_follows_the_problem(tmp_path: Path) -> None:
    """One user turn: the problem, a blank line, the task's instruction."""
    loaded = load("openai/gsm8k", data_path=write_jsonl(tmp_path / "rows.jsonl", [ROWS["openai/gsm8k"]]))
    content = "A thousand and one more?\n\n" + TASKS["openai/gsm8k"].instruction
    assert loaded.messages(loaded.problems[0]) == [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("instruction", "content"),
    [("Be brief.", "P {x}\n\nBe brief."), ("", "P {x}"), (r"Say \boxed{}: {problem}!", r"Say \boxed{}: P {x}!")],
)
def test_the_instruction_can_be_replaced(tmp_path: Path, instruction: str, content: str) -> None:
    """It is appended, left out if empty, and put around the problem where it says {problem}; other braces are text."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"p": "P {x}"}])
    loaded = load("mine", data_path=path, prompt_field="p", instruction=instruction)
    assert loaded.messages(loaded.problems[0])[-1]["content"] == content


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("fingertap/GPQA-Diamond", "demo")])
def test_the_published_style_sends_the_bare_problem(tmp_path: Path, name: str) -> None:
    """The paper's code asks the problem and nothing else, HumanEval's with its indentation."""
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS[name]])
    loaded = load(name, data_path=path, prompt_style="published")
    assert loaded.messages(loaded.problems[0]) == [{"role": "user", "content": loaded.problems[0].prompt}]


def test_the_published_style_puts_its_sentence_before_a_gpqa_question(tmp_path: Path) -> None:
    """Without a space between the two, as the paper's code does."""
    name = "fingertap/GPQA-Diamond"
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS[name]])
    content = load(name, data_path=path, prompt_style="published").messages(problem(name))[-1]["content"]
    assert content.startswith(r"Answer the following question using \boxed{} environment")
    assert content.endswith(r"(example: \boxed{A}).Which is even?" + "\n\nA. 1\nB. 2\nC. 3\nD. 5")


def test_an_instruction_of_ones_own_goes_before_any_style(tmp_path: Path) -> None:
    """--instruction is what is asked, whatever --prompt_style says; the demo has one style only."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"p": "P"}])
    loaded = load("mine", data_path=path, prompt_field="p", instruction="Be brief.", prompt_style="published")
    assert loaded.instruction == "Be brief."
    assert load("demo", prompt_style="published") == load("demo")


def test_every_task_says_how_to_answer() -> None:
    """Every benchmark is cited, and asks for a box or for code, so that there is something to grade."""
    for name, task in TASKS.items():
        asked = task.instruction + "".join(answer for _, answer in task.examples)
        assert task.name == name
        assert task.title
        assert task.citation
        assert ("```python" if task.answer_kind == "code" else "\\boxed{") in asked


def test_a_limit_takes_the_first_problems(tmp_path: Path) -> None:
    """The rows behind the limit are not even looked at."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"p": "one"}, {"p": "two"}, {"other": ""}])
    loaded = load("mine", data_path=path, prompt_field="p", limit=2)
    assert [problem.prompt for problem in loaded.problems] == ["one", "two"]


# Local files.


def as_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["q", "a"], ["one,\ntwo", "025"], ["three", ""]])


def as_csv_with_bom_and_crlf(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + b'q,a\r\n"one,\ntwo",025\r\nthree,\r\n')


def as_jsonl(path: Path) -> None:
    write_jsonl(path, [{"q": "one,\ntwo", "a": "025"}, {"q": "three", "a": None}])


def as_jsonl_with_bom_and_crlf(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + b'{"q": "one,\\ntwo", "a": "025"}\r\n\r\n{"q": "three", "a": ""}\r\n')


def as_json(path: Path) -> None:
    path.write_text(json.dumps([{"q": "one,\ntwo", "a": "025"}, {"q": "three", "a": None}]))


def as_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b'{"q": "one,\\ntwo", "a": "025"}\n{"q": "three", "a": null}'))


def as_parquet(path: Path) -> None:
    pyarrow = needs.package("pyarrow", "tasks")
    parquet = needs.package("pyarrow.parquet", "tasks")
    parquet.write_table(pyarrow.table({"q": ["one,\ntwo", "three"], "a": ["025", None]}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", as_csv),
        ("bom.csv", as_csv_with_bom_and_crlf),
        ("rows.jsonl", as_jsonl),
        ("bom.jsonl", as_jsonl_with_bom_and_crlf),
        ("rows.json", as_json),
        ("rows.jsonl.gz", as_gzip),
        ("rows.parquet", as_parquet),
    ],
)
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    """025 stays 025, a comma or line break stays in its cell, and an empty target is no target."""
    write(tmp_path / name)
    problems = load("mine", data_path=tmp_path / name, prompt_field="q", target_field="a").problems
    assert [(problem.prompt, problem.target) for problem in problems] == [("one,\ntwo", "025"), ("three", None)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (25, "25"), (25.0, "25"), (0.5, "0.5"), (" 25 ", "25"), ("025", "025"), (0, "0"), (-0.0, "0"), (True, "True"),
        ("", None), (" \n", None), (None, None), (b"", None),
        (math.nan, None), ("nan", None), ("NaN", None), (Decimal("nan"), None), (np.float32("nan"), None),
        (np.datetime64("NaT"), None), ("None", "None"), ("Nan", "Nan"),
        (b"25", "25"), (np.bytes_(b"25"), "25"), ("π".encode(), "π"),
        (10**30, "1" + "0" * 30), (1e23, "1" + "0" * 23), (1e-7, "0.0000001"), (2.5e300, "25" + "0" * 299),
        (Decimal("25.00"), "25"), (Decimal("2.50"), "2.5"), (Decimal("1E+3"), "1000"), (Decimal("-0.0"), "0"),
        (np.int64(25), "25"), (np.float64(25), "25"), (np.float32(0.1), "0.1"), (np.float16(0.1), "0.1"),
        (np.str_(" 25"), "25"), (np.bool_(True), "True"), (date(2025, 2, 1), "2025-02-01"),
    ],
)  # fmt: skip
def test_cells_of_any_type_become_text(value: object, text: str | None) -> None:
    """Numbers of every type, bytes and padded strings are one text; nan is nothing, and 0 is not."""
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ([25], "a value of the kind list"), ([], "a value of the kind list"), ({"a": 1}, "a value of the kind dict"),
        ((1, 2), "a value of the kind tuple"), (np.array([1]), "a value of the kind ndarray"),
        (object(), "a value of the kind object"), (b"\xff", "bytes that are no UTF-8 text"),
        (math.inf, "an infinite number"), (-math.inf, "an infinite number"), (Decimal("-inf"), "an infinite number"),
        (Decimal("1e1001"), "a number of more than 1,000 digits"), ("\udcff", r"half a character \(a lone surrogate\)"),
    ],
)  # fmt: skip
def test_what_is_neither_text_nor_number_is_no_text(value: object, held: str) -> None:
    """Its repr would be asked, or be a target that no answer equals."""
    with pytest.raises(ValueError, match=f"^{held}$"):
        as_text(value)


def test_a_wrong_target_names_its_row_and_column(tmp_path: Path) -> None:
    """Of a column that may be empty, too."""
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "one", "a": "1"}, {"q": "two", "a": ["1", "2"]}])
    with pytest.raises(TaskError, match=r"p\.jsonl, row 2 has a value of the kind list in column 'a', where a text"):
        load("mine", data_path=path, prompt_field="q", target_field="a")


def test_a_missing_target_is_none_in_every_format(tmp_path: Path) -> None:
    """Python's json writes NaN, its csv nan; neither is a target that answers are compared with."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": "one", "a": math.nan}), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps([{"q": "one", "a": math.nan}]), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([("q", "a"), ("one", math.nan)])
    for name in ("a.jsonl", "a.json", "a.csv"):
        (found,) = load("mine", data_path=tmp_path / name, prompt_field="q", target_field="a").problems
        assert found.target is None


def test_a_number_keeps_the_digits_it_was_written_with(tmp_path: Path) -> None:
    """More than a float holds, and those of a whole number of any size."""
    digits = ("3.14159265358979323846264338327950288", "12345678901234567890123.5", "9" * 40)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"q": "one", "a": {d}}}\n' for d in digits), encoding="utf-8")
    problems = load("mine", data_path=tmp_path / "a.jsonl", prompt_field="q", target_field="a").problems
    assert tuple(problem.target for problem in problems) == digits


def test_a_cell_may_be_as_long_as_its_file(tmp_path: Path) -> None:
    """The csv module's own bound is 131,072 characters; it is as before afterwards, whatever came of the file."""
    bound = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f'q,a\n"{"x," * 200_000}",1\n', encoding="utf-8")
    (found,) = load("mine", data_path=tmp_path / "a.csv", prompt_field="q", target_field="a").problems
    assert len(found.prompt) == 400_000
    (tmp_path / "b.csv").write_text("q,q\n1,2\n", encoding="utf-8")
    with pytest.raises(TaskError):
        load("mine", data_path=tmp_path / "b.csv", prompt_field="q")
    assert csv.field_size_limit() == bound


def test_a_nul_character_stays_where_it_is(tmp_path: Path) -> None:
    """It is a character like any other."""
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "a\0b"}])
    assert load("mine", data_path=path, prompt_field="q").problems[0].prompt == "a\0b"


def test_a_parquet_file_of_any_types(tmp_path: Path) -> None:
    """Binary columns are text, short floats have the digits they were written with, null and nan are nothing."""
    pyarrow = needs.package("pyarrow", "tasks")
    parquet = needs.package("pyarrow.parquet", "tasks")
    columns = {
        "binary": pyarrow.array([b"25"], pyarrow.binary()),
        "large": pyarrow.array([b"25"], pyarrow.large_binary()),
        "half": pyarrow.array([np.float16(25)], pyarrow.float16()),
        "single": pyarrow.array([0.1], pyarrow.float32()),
        "double": pyarrow.array([25.0], pyarrow.float64()),
        "decimal": pyarrow.array([Decimal("25.00")], pyarrow.decimal128(9, 2)),
        "small": pyarrow.array([25], pyarrow.int8()),
        "category": pyarrow.array(["25"]).dictionary_encode(),
        "nan": pyarrow.array([math.nan], pyarrow.float32()),
        "null": pyarrow.array([None], pyarrow.float16()),
    }
    parquet.write_table(pyarrow.table({"q": [b"one"], **columns}), tmp_path / "a.parquet")
    targets = {
        name: load("mine", data_path=tmp_path / "a.parquet", prompt_field="q", target_field=name).problems[0]
        for name in columns
    }
    assert {problem.prompt for problem in targets.values()} == {"one"}
    found = {name: problem.target for name, problem in targets.items()}
    assert found == dict.fromkeys(columns, "25") | {"single": "0.1", "nan": None, "null": None}


def test_a_parquet_file_that_python_cannot_hold_is_a_sentence(tmp_path: Path) -> None:
    """Two columns of one name, or a moment in no year of Python's."""
    pyarrow = needs.package("pyarrow", "tasks")
    parquet = needs.package("pyarrow.parquet", "tasks")
    twins = pyarrow.table([pyarrow.array(["one"]), pyarrow.array(["two"])], names=["q", "q"])
    late = pyarrow.table({"q": ["one"], "t": pyarrow.array([2**60], pyarrow.timestamp("ms"))})
    for table in (twins, late):
        parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(TaskError, match=r"a\.parquet is no valid parquet file \(.+\): check the file$"):
            load("mine", data_path=tmp_path / "a.parquet", prompt_field="q")


def test_what_a_problem_notes_can_be_written_down(tmp_path: Path) -> None:
    """Numbers and texts of a benchmark's own columns stay; whatever else a copy holds becomes text, or is left out."""
    name = "HuggingFaceH4/MATH-500"
    rows = [ROWS[name], ROWS[name] | {"level": math.nan, "subject": ["x"], "unique_id": 1.5}]
    first, second = load(name, data_path=write_jsonl(tmp_path / "rows.jsonl", rows)).problems
    assert first.meta == {"unique_id": "a/1", "level": 1}
    assert second.meta == {"unique_id": "1.5", "subject": "['x']"}
    assert json.loads(json.dumps(second.meta)) == second.meta


def test_code_keeps_its_spaces_whatever_it_came_as(tmp_path: Path) -> None:
    """Indentation is part of a HumanEval prompt, in a binary column, too."""
    row = ROWS["evalplus/humanevalplus"]
    as_bytes = TASKS["evalplus/humanevalplus"].to_problem({**row, "prompt": row["prompt"].encode()}, 0)
    assert as_bytes.prompt == row["prompt"]


def test_without_a_target_column_nothing_is_graded(tmp_path: Path) -> None:
    """A file of prompts alone can be run; its answers are ungraded."""
    loaded = load("mine", data_path=write_jsonl(tmp_path / "p.jsonl", [{"q": "one"}]), prompt_field="q")
    with MathGrader() as grader:
        assert loaded.grade(r"\boxed{1}", loaded.problems[0], grader) == Graded("1", None)


def test_a_known_benchmark_under_other_column_names(tmp_path: Path) -> None:
    """The fields are the file's, instruction and grading stay the benchmark's."""
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "A. 1 B. 2", "a": "B"}])
    loaded = load("fingertap/GPQA-Diamond", data_path=path, prompt_field="q", target_field="a")
    with MathGrader() as grader:
        assert loaded.grade(r"\boxed{B}", loaded.problems[0], grader) == Graded("B", True)
    assert loaded.instruction == TASKS["fingertap/GPQA-Diamond"].instruction


# Bad input: one sentence that names the culprit and the remedy.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "AIME2024"}, r"'AIME2024' is no known benchmark: did you mean Maxwell-Jia/AIME_2024\?.*openai/gsm8k"),
        ({"name": "gsm8k"}, r"did you mean openai/gsm8k\?"),
        ({"name": "opencompass/aime2025"}, r"did you mean opencompass/AIME2025\?"),
        ({"name": "zzzzzzzz"}, r"'zzzzzzzz' is no known benchmark: There are Maxwell-Jia/AIME_2024"),
        ({"name": ""}, r"'' is no known benchmark"),
        ({"name": "demo", "limit": 0}, r"limit is 0"),
        ({"name": "demo", "prompt_field": "q"}, r"--data_path"),
        ({"name": "mine", "data_path": "x.jsonl", "target_field": "a"}, r"--prompt_field"),
        ({"name": "mine", "data_path": "x.jsonl"}, r"'mine' is no known benchmark.*--prompt_field"),
        ({"name": "demo", "data_path": "missing.jsonl"}, r"missing\.jsonl does not exist: check --data_path"),
        ({"name": "demo", "data_path": "data.xlsx"}, r"data\.xlsx.*\.jsonl, \.json, \.csv, \.parquet"),
        ({"name": "demo", "data_path": "data.parquet.gz"}, r"data\.parquet\.gz.*give one of"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """Unknown names come with a close one and the list; half a pair of options names the other half."""
    with pytest.raises(TaskError, match=message):
        load(**options)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.jsonl", b'{"q": "one"}\n{"q": \n', r"a\.jsonl, line 2, is no valid JSON"),
        ("a.jsonl", b'{"q": "one"}\n[1]\n', r"a\.jsonl, line 2, holds list"),
        ("a.jsonl", b'{"q": "one"}\n{"q": " "}\n', r"a\.jsonl, row 2 has nothing in column 'q'"),
        ("a.jsonl", b'{"q": "one"}\n{"q": null}\n', r"a\.jsonl, row 2 has nothing in column 'q'"),
        ("a.jsonl", b'{"question": "one", "x": 1}\n', r"a\.jsonl, row 1, has no column 'q', only question, x"),
        ("a.jsonl", b'{"q": "one"}\n{"x": 1}\n', r"a\.jsonl, row 2, has no column 'q'"),
        ("a.jsonl", b"", r"a\.jsonl holds no problems"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no problems"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1, (is no valid|cannot be read as) JSON"),
        ("a.jsonl", b'{"q": ' + b"9" * 10_000 + b"}", r"a\.jsonl, line 1, cannot be read as JSON"),
        ("a.jsonl", b'{"q": "\xff"}\n', r"a\.jsonl is not UTF-8"),
        ("a.json", b'{"q": "one"}', r"a\.json is no list of objects"),
        ("a.json", b'["one"]', r"a\.json, entry 1, holds str"),
        ("a.json", b"[", r"a\.json is no valid JSON"),
        ("a.csv", b"q,a\none,1,2\n", r"a\.csv, line 2, has more cells"),
        ("a.csv", b'q,a\n"one"x,1\n', r"a\.csv, after line 1, is no valid CSV"),
        ("a.csv", b'q,a\n"' + b"x" * 200_000 + b",1\n", r"a\.csv, after line 1, is no valid CSV \(unexpected end"),
        ("a.csv", b"q,a,q\none,1,2\n", r"a\.csv has more than one column 'q': rename all but one"),
        ("a.csv", b"q,a\none\xff,1\n", r"a\.csv is not UTF-8 text \(invalid start byte in line 2\)"),
        ("a.csv", b"q,a\n" + b"one,1\n" * 9999 + b"caf\xe9,1\n", r"a\.csv is not UTF-8 text \(.* in line 10001\)"),
        ("a.csv", "q,a\none,1\n".encode("utf-16"), r"a\.csv is not UTF-8 text"),
        ("a.jsonl.gz", gzip.compress(b'{"q": 1}\n{"q": "\xe9"}\n'), r"a\.jsonl\.gz is not UTF-8 text \(.* in line 2\)"),
        (
            "a.jsonl",
            b'{"q": "one", "q": "two"}\n',
            r"line 1, cannot be read as JSON \(the name 'q' stands twice in one object",
        ),
        (
            "a.jsonl",
            b'{"q": ["one"]}\n',
            r"a\.jsonl, row 1 has a value of the kind list in column 'q', where a text or",
        ),
        ("a.jsonl", b'{"q": {"role": "user"}}\n', r"row 1 has a value of the kind dict in column 'q'"),
        ("a.jsonl", b'{"q": Infinity}\n', r"row 1 has an infinite number in column 'q'"),
        ("a.jsonl", b'{"q": 1e999999999}\n', r"row 1 has a number of more than 1,000 digits in column 'q'"),
        ("a.jsonl", b'{"q": 1e-99999999999999999999}\n{"q": 1e99999999999999999999}\n', r"row 2 has an infinite num"),
        ("a.jsonl", b'{"q": NaN}\n', r"row 1 has nothing in column 'q'"),
        ("a.jsonl", b'{"q": "half \\ud83d"}\n', r"row 1 has half a character \(a lone surrogate\) in column 'q'"),
        ("a.csv", b"x,a\none,1\n", r"a\.csv, row 1, has no column 'q', only x, a"),
        ("a.csv", b"", r"a\.csv holds no problems"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"q": 1}' * 99)[:-9], r"a\.jsonl\.gz cannot be read"),
        ("a.parquet", b"no parquet", r"a\.parquet is no valid parquet file"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    """Whatever a file holds, the error is one line that names it and the place in it."""
    if file.endswith(".parquet"):
        needs.package("pyarrow", "tasks")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(TaskError, match=message) as caught:
        load("mine", data_path=tmp_path / file, prompt_field="q")
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    """A directory with a data file's name is refused in a sentence."""
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(TaskError, match=r"a\.jsonl cannot be read"):
        load("demo", data_path=tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("openai/gsm8k", {"answer": "42"}, r"row 1 has no '#### <number>'"),
        ("openai/gsm8k", {"answer": "#### "}, r"row 1 has no '#### <number>'"),
        ("fingertap/GPQA-Diamond", {"answer": "E"}, r"row 1 has the answer 'E'"),
        ("Maxwell-Jia/AIME_2024", {"Answer": None}, r"row 1 has nothing in column 'Answer'"),
        ("evalplus/humanevalplus", {"prompt": ""}, r"row 1 has nothing in column 'prompt'"),
        ("HuggingFaceH4/MATH-500", {"problem": "\n"}, r"row 1 has nothing in column 'problem'"),
    ],
)
def test_rows_that_are_no_problem_are_named(tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
    """An empty prompt, a missing target or one of the wrong kind names its row."""
    path = write_jsonl(tmp_path / "rows.jsonl", [ROWS[name] | change])
    with pytest.raises(TaskError, match=message):
        load(name, data_path=path)


@pytest.mark.parametrize(
    ("answer", "target"), [("25", "25"), ("025", "25"), (25.0, "25"), (r"$336^\circ$", "336"), ("0", "0")]
)
def test_aime_targets_are_plain_integers(tmp_path: Path, answer: object, target: str) -> None:
    """Leading zeros, floats and degrees come off, so that every copy of the dataset gives the same target."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "?", "answer": answer}])
    assert load("opencompass/AIME2025", data_path=path).problems[0].target == target


@given(st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"]))
def test_no_file_raises_anything_but_a_task_error(tmp_path_factory: Any, content: bytes, name: str) -> None:
    """Random bytes under any name load or are refused."""
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    with suppress(TaskError):
        assert load("mine", data_path=path, prompt_field="q").problems
