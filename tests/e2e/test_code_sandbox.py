"""Hostile programs are graded as failed, nothing leaks, and the evaluation goes on."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from code_checker import evalplus_python, make_checker
from hostile_code import HOSTILE, RIGHT, TASK, Hostile, bait, filled
from right_code import ANSWERS, Answer

from eager.code_eval import CodeEvalError, Limits, Sandbox, guest
from eager.code_eval.extract import answer_in
from eager.code_eval.humaneval import SUITES
from eager.code_eval.program import find_program
from eager.code_eval.sandbox import Interpreter

SECONDS = 6.0


@pytest.fixture(scope="module")
def checker():
    with make_checker(Limits(seconds=SECONDS, memory_mb=1024)) as checker:
        checker.check(checker.problems.problems[TASK], RIGHT)  # the expected outputs are there from now on
        yield checker


@pytest.fixture(scope="module", name="bait")
def laid_bait():
    with bait() as places:
        yield places


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_program_fails_and_the_next_one_passes(checker, bait, hostile: Hostile):
    """Failed on base and plus, for a reason that fits, in bounded time; an honest program after it is not affected."""
    problem = checker.problems.problems[TASK]
    started = time.monotonic()
    verdict = checker.check(problem, filled(hostile, **bait))
    assert not verdict.base
    assert not verdict.plus
    assert verdict.reason in hostile.reasons
    assert time.monotonic() - started < SECONDS + 10
    assert not bait["outside"].exists()
    assert checker.check(problem, f"# after {hostile.name}\n{RIGHT}").is_correct


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_an_answer_is_graded_for_what_its_program_does(checker, answer: Answer):
    """Run as a whole; EvalPlus's figure, of what its sanitizer leaves, stands beside it."""
    verdict = checker.check_text(checker.problems.problems[TASK], answer.text)
    assert verdict.reason == answer.reason
    assert verdict.is_correct == (answer.reason is None)
    assert (verdict.evalplus_base, verdict.evalplus_plus) == (answer.passes_evalplus, answer.passes_evalplus)


def test_nothing_survives_a_program(checker):
    """When the verdict is there, no process of the sandbox is."""
    checker.check(checker.problems.problems[TASK], "# survivor\nwhile True:\n    pass\n")
    marker = b"/guest.py"
    for _ in range(50):
        if not any(marker in read(folder / "cmdline") and is_ours(folder) for folder in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.1)
    pytest.fail("a process of the sandbox is still there")


def is_ours(folder: Path) -> bool:
    """Not of another test run on this machine: those have living parents other than us."""
    fields = dict(line.split(":\t", 1) for line in read(folder / "status").decode().splitlines() if ":\t" in line)
    return fields.get("PPid", "").strip() in (str(os.getpid()), "1")


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def test_without_bubblewrap_it_stops_and_says_how_to_install_it(monkeypatch):
    """One sentence with the reason and the remedy; no program is run."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CodeEvalError, match=r"bubblewrap, which is missing: install it .*apt-get install bubblewrap"):
        Sandbox(Interpreter("/usr/bin/python3", "/usr", "/usr"), Limits())


def test_where_bubblewrap_may_not_run_it_stops_and_says_so(monkeypatch, tmp_path):
    """As where user namespaces are refused: bubblewrap's own complaint is in the sentence."""
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CodeEvalError, match=r"cannot run here \(bwrap: No permissions .*--unsafe"):
        Sandbox(Interpreter("/usr/bin/python3", "/usr", "/usr"), Limits())


@pytest.mark.skipif(len(socket.if_nameindex()) < 2, reason="this machine has no network that could be left open")
def test_a_sandbox_that_does_not_confine_is_not_used(monkeypatch, tmp_path):
    """A bwrap that only runs its command is found out before the first program."""
    fake = tmp_path / "bwrap"
    fake.write_text(f"#!/bin/sh\nexec '{sys.executable}' -I -S -B '{guest.__file__}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CodeEvalError, match=r"does not take the network away|it said nothing|Error"):
        Sandbox(Interpreter("/usr/bin/python3", "/usr", "/usr"), Limits())


def test_unsafe_still_limits_and_is_not_talked_into_a_pass():
    """Without the sandbox: no verdict can be forged, time and memory are limited."""
    by_name = {hostile.name: hostile for hostile in HOSTILE}
    with make_checker(Limits(seconds=SECONDS, memory_mb=1024), is_safe=False) as checker:
        problem = checker.problems.problems[TASK]
        assert checker.check(problem, RIGHT).is_correct
        for name in ("endless loop", "50 GB", "os._exit(0)", "equal to everything", "forged answers"):
            verdict = checker.check(problem, by_name[name].program.replace("{{", "{").replace("}}", "}"))
            assert (verdict.base, verdict.plus) == (False, False)
            assert verdict.reason in by_name[name].reasons


@pytest.mark.parametrize("name", ["secret file", "write outside", "socket"])
def test_it_is_the_sandbox_that_stops_them(bait, name):
    """The same programs reach what they are after where there is none, and only there."""
    hostile = next(hostile for hostile in HOSTILE if hostile.name == name)
    with make_checker(Limits(seconds=SECONDS, memory_mb=1024), is_safe=False) as checker:
        # The base tests: for all of plus the server, which answers nobody, has no room.
        assert checker.check(checker.problems.problems[TASK], filled(hostile, **bait)).base
    bait["outside"].unlink(missing_ok=True)


@pytest.mark.slow
def test_the_figure_for_evalplus_is_its_own(checker):
    """Of the same programs, sanitized and checked by EvalPlus alone."""
    problem = checker.problems.problems[TASK]
    texts = [(answer_in(answer.text) or "", answer.passes_evalplus) for answer in ANSWERS]
    programs = [find_program(text, problem.entry_point, problem.prompt).main for text, _ in texts]
    fields = {name: getattr(problem, name) for name in ("prompt", "entry_point", "canonical_solution", "atol")}
    job = {"problem": {**fields, **{f"{suite}_input": problem.inputs[suite] for suite in SUITES}}, "programs": programs}
    command = [str(evalplus_python()), "-I", str(Path(__file__).parents[1] / "evalplus_itself.py")]
    said = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [[passes, passes] for _, passes in texts]


@pytest.mark.slow
def test_canonical_solutions_pass_and_emptied_ones_fail():
    """All 164, on base and plus, through everything that a sample goes through."""
    with make_checker(Limits()) as checker:
        for problem in checker.problems.problems.values():
            right = checker.check_text(problem, f"```python\n{problem.prompt}{problem.canonical_solution}\n```")
            assert right.is_correct, (problem.task_id, right)
            empty = checker.check_text(problem, f"```python\n{problem.prompt}\n    pass\n```")
            assert not empty.base, problem.task_id
            assert not empty.plus, problem.task_id
