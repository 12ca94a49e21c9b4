"""The parts of code evaluation that run no sandbox: encoding, problems, limits."""

import gzip
import json
import subprocess
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from eager.code_eval import CodeEvalError, Limits, ProblemSet, environment, environment_python
from eager.code_eval.checker import _Judge
from eager.code_eval.guest import _are_same, _load, encode
from eager.code_eval.judge import _answers_of, _are_zeros, _fault, decode

VALUES = [
    *(None, True, False, 0, -1, 2**53, 10**5000, -(10**5000), 0.1, -0.0, 1e308, "", "é\ud800", 1j, b"\x00"),
    *([], [1, [2.5, "x"]], (1,), (), {1, 2}, frozenset("a"), {"a": [1], 2: (3,)}, {(1, 2): {3}}, [[[]]]),
    *(Fraction(1, 3), Decimal("1.10"), np.float64(0.5), np.int32(7), np.bool_(True), [np.float32(1.5)]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: str(type(v)))
def test_answers_keep_value_and_type_through_json(value):
    """What leaves the sandbox is what the function gave."""
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_infinities_and_nan_pass():
    """Python's json reads them back."""
    back = decode(json.loads(json.dumps(encode([float("inf"), float("-inf"), float("nan")]))))
    assert back[:2] == [float("inf"), float("-inf")]
    assert back[2] != back[2]


def test_long_texts_are_equal_only_to_themselves():
    """They travel as a hash."""
    text = "x" * 5000
    assert decode(encode(text)) == decode(encode("x" * 5000))
    assert decode(encode(text)) != decode(encode("x" * 4999 + "y"))
    assert len(json.dumps(encode(text))) < 100


class Liar(list):
    def __eq__(self, other):
        return True

    __hash__ = None

    def __iter__(self):
        return iter([9])


@pytest.mark.parametrize("value", [object(), len, iter([1]), np.array([1, 2]), range(3), type])
def test_what_has_no_plain_form_equals_nothing(value):
    """Not even itself: no object of a program's own comes out."""
    assert encode(value) == ["?"]
    assert decode(["?"]) != decode(["?"])


def test_a_subclass_is_what_it_derives_from():
    """Its own methods are not asked."""
    assert decode(encode(Liar([1, 2]))) == [1, 2]


def test_a_nesting_without_end_is_opaque():
    """A list that holds itself is encoded all the same."""
    loop: list = []
    loop.append(loop)
    assert decode(json.loads(json.dumps(encode(loop)))) != loop


@pytest.mark.parametrize(
    "data",
    [[], ["nope"], ["list"], ["dict", [1]], ["set", [["list", []]]], ["int", 3], ["numpy", "object", 1], {"a": 1}],
)
def test_forged_data_is_refused(data):
    """It raises what `_fault` catches; nothing else comes of it."""
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        decode(data)


@pytest.mark.parametrize(
    "after", ["assert f() == 1", "raise SystemExit", "import nothing_of_this_name", "f(1, 2)", "x = 1 / 0", "pass"]
)
def test_what_follows_a_function_is_no_fault_of_it(after):
    """It is called all the same, but not where EvalPlus's figure is wanted and EvalPlus would stop."""
    program = f"def f():\n    return 7\n\n{after}\n"
    assert _load((program,), False, "f")() == 7
    if after != "pass":
        with pytest.raises((Exception, SystemExit)):
            _load((program,), True, "f")


def test_what_precedes_a_function_is():
    """It is not there then, and the reason is what was raised."""
    with pytest.raises(NameError):
        _load(("print(f())\ndef f():\n    return 7\n",), False, "f")
    assert _load(("print('no function')",), False, "f") is None


def test_cells_share_a_namespace():
    """Each is compiled for itself, by Python's own rules and not by the guest's."""
    assert _load(("from __future__ import annotations\ng = 7", "def f(x: int = g): return f"), False, "f") is not None
    assert _load(("def f(x: int): ...",), False, "f").__annotations__ == {"x": int}
    with pytest.raises(NameError):
        _load(("def f(x: List): ...",), False, "f")


def test_programs_are_the_same_but_for_comments_and_layout():
    """Only then does one run stand for both figures."""
    assert _are_same("def f(): return 1  # one\n\n", "def f():\n    return 1")
    assert not _are_same("def f(): return 1\nprint(f())", "def f(): return 1")
    assert not _are_same("def f(:", "def f(): return 1")


def line(**fields) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_answers_end_where_the_guest_says_so():
    """Each suite has its own; a reason is only believed if it looks like one."""
    data = line(suite="base", value=1) + line(suite="base", failed="NameError") + line(suite="plus", failed="<b>\n")
    assert _answers_of(data, "base") == ([1], "NameError")
    assert _answers_of(data, "plus") == ([], "forged answer")


@pytest.mark.parametrize("data", [b"", b'{"suite": "base", "value": 1}', line(suite="base", value=1)])
def test_too_few_answers_are_missing(data):
    """Whatever ended them, a torn line included."""
    assert _fault({"answers": {"base": [1, 2]}}, "base", data) == "missing"


def test_deep_json_is_forged_not_fatal():
    """The judge lives on."""
    data = b'{"suite": "base", "value": ' + b"[" * 200_000 + b"\n"
    assert _fault({"answers": {"base": [1]}}, "base", data) == "forged answer"


def problem(**changes) -> dict:
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
    }
    return {**row, "base_input": [[1]], "plus_input": [[2]], "atol": 0, **changes}


def test_problems_are_found_by_task_and_by_text(tmp_path):
    """Zipped or not; in published files the prompt's text says which one it is."""
    path = tmp_path / "p.jsonl.gz"
    rows = [problem(), problem(task_id="HumanEval/1", prompt="def g(x):\n", entry_point="g")]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    problems = ProblemSet(path, tmp_path)
    assert problems.find({"task_id": "HumanEval/1"}, "").entry_point == "g"
    assert problems.find({"task_id": ["x"]}, "def f(x):").entry_point == "f"
    assert problems.find({}, "Complete:\n```\ndef g(x):\n```").entry_point == "g"
    assert problems.find({}, "What is 1 + 1?") is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no problem"),
        (b"{}\n{", "line 1: no 'task_id'"),
        (b"nonsense", "line 1: not JSON"),
        (json.dumps({**problem(), "base_input": 0}).replace("base_input", "test").encode(), "hub's copy lacks"),
        (b"\x1f\x8b cut", "cannot be read"),
    ],
)
def test_a_wrong_problem_file_is_one_sentence(tmp_path, content, sentence):
    """With the file, the line and what to give instead."""
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(CodeEvalError, match=f"p.jsonl.*{sentence}.*--problems"):
        ProblemSet(path, tmp_path)


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"memory_mb": 10}])
def test_limits_that_cannot_be_are_refused(limits):
    """Before anything runs."""
    with pytest.raises(ValueError, match="must be"):
        Limits(**limits)


def test_zeros_are_judged_by_the_polynomial():
    """HumanEval/32: any zero is right, not only the canonical solution's. Needs EvalPlus's oracle."""
    pytest.importorskip(
        "evalplus.eval._special_oracle",
        reason="evalplus is missing: pip install evalplus==0.3.1 (vLLM does not go with it)",
    )
    assert _are_zeros([[[-1, 1]]], [1.0], 1e-4)
    assert not _are_zeros([[[-1, 1]]], ["1"], 1e-4)


def test_the_environment_is_made_by_isolated_pythons(tmp_path, monkeypatch):
    """`python -m venv` and `python -m pip` would run a venv.py or pip.py of the current folder."""
    commands = []

    def run(command, **options):
        commands.append(command)
        if "venv" in command:
            packages = Path(command[-1]) / "packages"
            packages.mkdir(parents=True)
        described = json.dumps(["python", "base", str(Path(commands[0][-1]) / "packages")])
        return subprocess.CompletedProcess(command, 0, described, "")

    monkeypatch.setattr(environment.subprocess, "run", run)
    python = environment_python(tmp_path, lambda text: None)
    assert python.parents[1].is_dir()
    assert len(commands) == 4
    assert {command[1] for command in commands} == {"-I"}


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/echo", "/bin/false", "/"])
def test_an_interpreter_that_is_none_is_one_sentence(tmp_path, python):
    """Whether it is missing, is another program, or dies: it names the option."""
    judge = _Judge(Path(python))
    with pytest.raises(CodeEvalError, match=f"does not run with '{python}' .*: give another --evalplus_python"):
        judge.faults(tmp_path / "key", b"")
