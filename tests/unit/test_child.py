"""The process beside this one: its clock, its end, its new start, and what it must never run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest

from eager import child
from eager.child import Child, StartError, environment_without, isolated, isolated_children

SRC = Path(__file__).resolve().parents[2] / "src"

ECHO = """
import json, os, subprocess, sys, time
print('{"ready": true}', flush=True)
while line := sys.stdin.buffer.readline():
    request = json.loads(line)
    payload = sys.stdin.buffer.read(request.get("n_bytes", 0))
    if request.get("start"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(request.get("sleep", 0))
    if request.get("exit"):
        os._exit(0)
    print(request.get("raw") or json.dumps({"text": request.get("text"), "n": len(payload)}), flush=True)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


@pytest.fixture
def echo() -> Iterator[Child]:
    """Says back what it is told."""
    echo = Child(python(ECHO))
    yield echo
    echo.kill()


def pid(running: Child) -> int:
    assert running._process is not None
    return running._process.pid


@pytest.mark.parametrize("text", ["", "é\ud800\x00\n{}", "x" * 1_000_000], ids=["empty", "odd", "long"])
def test_a_reply_belongs_to_its_request(echo: Child, text: str) -> None:
    """Any text and any bytes arrive as they are; one process serves all requests."""
    assert echo.ask({"text": text, "n_bytes": 300_000}, 20, b"\n" * 300_000) == {"text": text, "n": 300_000}
    first = pid(echo)
    assert echo.ask({"text": "more"}, 20) == {"text": "more", "n": 0}
    assert pid(echo) == first


def test_a_request_that_takes_too_long_ends_its_process(echo: Child) -> None:
    """It says so in time; the next request has a new process and its own reply."""
    echo.start()
    first, start = pid(echo), time.perf_counter()
    assert echo.ask({"text": "late", "sleep": 60}, 0.2) == "timed out"
    assert time.perf_counter() - start < 20
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert echo.ask({"text": "next"}, 20) == {"text": "next", "n": 0}


def test_a_request_that_is_not_even_read_times_out() -> None:
    """More than a pipe holds, to a process that reads nothing: the clock runs while it is written."""
    deaf = Child(python("import time; print('{\"ready\": true}', flush=True); time.sleep(60)"))
    assert deaf.ask({}, 0.2, bytes(10_000_000)) == "timed out"


@pytest.mark.parametrize("request_", [{"exit": True}, {"raw": "no JSON"}, {"raw": "[1]"}], ids=str)
def test_what_is_no_reply_is_a_crash(echo: Child, request_: dict[str, object]) -> None:
    """A process that dies, or says something else, is not asked again."""
    assert echo.ask(request_, 20) == "crashed"
    assert echo.ask({"text": "next"}, 20) == {"text": "next", "n": 0}


def test_a_process_that_was_killed_between_requests_is_replaced(echo: Child) -> None:
    """One request is lost at most."""
    echo.start()
    os.kill(pid(echo), 9)
    assert echo.ask({"text": "lost"}, 20) == "crashed"
    assert echo.ask({"text": "next"}, 20) == {"text": "next", "n": 0}


def test_what_it_started_dies_with_it(echo: Child) -> None:
    """A process of its own would hold its pipes open for a minute, and live on."""
    start = time.perf_counter()
    assert echo.ask({"start": True, "sleep": 60}, 2) == "timed out"
    assert time.perf_counter() - start < 30


def test_an_interrupt_leaves_no_reply_behind(echo: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to a request that was given up is not taken for the next one's."""
    echo.start()

    def interrupt(line: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(child, "_parsed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            echo.ask({"text": "given up"}, 20)
    assert echo.ask({"text": "next"}, 20) == {"text": "next", "n": 0}


def test_threads_take_turns(echo: Child) -> None:
    """Each gets its own reply."""
    replies: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda n=n: replies.update({n: echo.ask({"text": n}, 20)}))  # type: ignore[misc]
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {n: {"text": n, "n": 0} for n in range(8)}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (python('print(\'{"unavailable": "no such library"}\')'), "no such library"),
        (python("print('{}')"), "another program"),
        (python("print('hello')"), "crashed at the start"),
        (python("raise SystemExit"), "crashed at the start"),
        (["/no/such/python"], "No such file"),
        ([os.devnull], "Permission denied"),
    ],
)
def test_a_process_that_does_not_get_ready_says_why(command: list[str], reason: str) -> None:
    """Every time it is asked; nothing is left running."""
    broken = Child(command)
    for _ in range(2):
        with pytest.raises(StartError, match=reason):
            broken.ask({}, 20)
        assert broken._process is None


def test_a_start_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that never gets ready does not hang the run."""
    monkeypatch.setattr(child, "START_SECONDS", 0.2)
    with pytest.raises(StartError, match="timed out at the start"):
        Child(python("import time; time.sleep(60)")).start()


# Imported by this package, by its children, or by the libraries that these use.
TRAPS = ("eager", "json", "logging", "math_verify", "numpy", "re", "runpy", "subprocess", "sympy", "threading", "types")
RESULTS = {
    "model_name": "m",
    "temperature": 0.6,
    "entropy_threshold": None,
    "max_sequences": 2,
    "seed": 1,
    "status": {"state": "COMPLETED", "completed_sequences": 1, "total_sequences": 1, "progress": ""},
    "extra": {"notes": "", "generation_time_so_far (s)": 1.0},
    "results": {},
    "default-generations": [
        {
            "prompt": "p",
            "generated_sequences": 2,
            "target": r"2\sqrt{3}",
            "extracted_answers": repr([r"\sqrt{12}", r"2\sqrt{3}"]),
            "generations": ["a", "b"],
            "entropies": ["[0.1]", "[0.2]"],
            "recorded_branches": [],
        }
    ],
}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder of results that somebody sent, with modules that note, in `ran` beside it, that they were run."""
    folder = tmp_path / "trap"
    folder.mkdir()
    (folder / "parallel.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n", encoding="utf-8")
    return folder


def run_in(folder: Path, *command: str) -> str:
    """What a Python that is started there, and has this package, prints."""
    environment = {**environment_without("PYTHON"), "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def script(tmp_path: Path, code: str) -> str:
    """A program in a folder of its own, as an installed command is."""
    path = tmp_path / "bin" / "program"
    path.parent.mkdir()
    path.write_text(code, encoding="utf-8")
    return str(path)


def is_graded(printed: str) -> bool:
    """Whether Math-Verify has found both answers right."""
    return bool(json.loads(printed)["experiments"][0]["scores"]["pass_rate"]["value"] == 1.0)


def test_the_traps_work(trap: Path, tmp_path: Path) -> None:
    """A Python that is started plainly runs them."""
    run_in(trap, "-c", "import json, sympy")
    assert (tmp_path / "ran").read_text() == "jsonsympy"


def test_a_command_runs_nothing_from_the_current_folder(trap: Path, tmp_path: Path) -> None:
    """`eager recap .` in a folder of unknown origin grades its answers, and runs none of its modules."""
    needs.package("ijson", "report")
    assert is_graded(run_in(trap, script(tmp_path, "from eager.cli import main; main()"), "recap", "--json", "."))
    assert not (tmp_path / "ran").exists()


def test_python_m_runs_nothing_but_what_python_itself_looks_up(trap: Path, tmp_path: Path) -> None:
    """`python -m` finds runpy and the package in the current folder before a line of ours runs; after that, nothing."""
    needs.package("ijson", "report")
    for name in ("eager", "runpy", "types"):
        (trap / f"{name}.py").unlink()
    assert is_graded(run_in(trap, "-m", "eager", "recap", "--json", "."))
    assert not (tmp_path / "ran").exists()


def test_grading_runs_nothing_from_the_current_folder(trap: Path, tmp_path: Path) -> None:
    """Not even where the program itself imports from there, as notebooks do."""
    code = (
        "import os, sys; from eager.grading import MathGrader; sys.path[:0] = ['', '.', os.getcwd()]\n"
        "with MathGrader() as grader: print(grader.outcome(r'\\sqrt{12}', r'2\\sqrt{3}'))"
    )
    assert run_in(trap, script(tmp_path, code)) == "equivalent\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python cannot be told by a variable")
def test_pythons_that_a_library_starts_run_nothing_from_the_current_folder(trap: Path, tmp_path: Path) -> None:
    """In the block; after it, everything is as it was."""
    before = dict(os.environ)
    with isolated_children():
        subprocess.run([sys.executable, "-c", "import json, re"], cwd=trap, check=True)
    assert not (tmp_path / "ran").exists()
    assert dict(os.environ) == before


def test_a_child_has_its_parents_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This very package, and what only this process was told of."""
    (tmp_path / "only_here.py").write_text("name = 'found'", encoding="utf-8")
    (tmp_path / "eager.py").write_text("raise ImportError('another eager')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    code = "import only_here, eager; print(only_here.name, eager.__file__)"
    done = subprocess.run(isolated(code), capture_output=True, text=True, check=True)
    assert done.stdout == f"found {SRC / 'eager' / '__init__.py'}\n"
