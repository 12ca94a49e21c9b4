"""Terminals as they are: other encodings, no width, 40 columns, none at all."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from functools import cache
from pathlib import Path

import needs
import pytest
from children import EAGER, run_eager

needs.package("ijson", "report")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "data" / "first_results" / "demo"
NO_UTF8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C"},
]
COMMANDS = [
    ("--help",),
    ("run", "--help"),
    ("recap", "--help"),
    ("report", "--help"),
    ("eval-code", "--help"),
    ("tasks",),
    ("engines",),
    ("recap", FOLDER),
    ("recap", FOLDER, "--csv"),
    ("recap", "no θ – é"),
    ("report", "no θ – é"),
    ("eval-code", "no θ – é"),
    ("run", "--engine", "scripted", "--model_name", "θ – é", "--data_name", "demo", "--output_dir", "θ – é"),
    ("run", "--engine", "scripted", "--model_name", "chain", "--data_name", "θ – é"),
]


def run_bytes(*arguments: object, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """`eager` with the bytes it prints."""
    return subprocess.run(
        [*EAGER, *map(str, arguments)], capture_output=True, check=False, cwd=cwd,
        env={**os.environ, **NO_UTF8, **environment},
    )  # fmt: skip


@cache
def exit_code_in_utf8(folder: Path, arguments: tuple[object, ...]) -> int:
    return run_bytes(*arguments, cwd=folder, environment={"PYTHONIOENCODING": "utf-8"}).returncode


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda env: "-".join(env.values()))
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda args: " ".join(map(str, args[:2])))
def test_no_command_fails_for_the_encoding(
    tmp_path: Path, arguments: tuple[object, ...], environment: dict[str, str]
) -> None:
    """Text, help and errors come out in any encoding, and the exit code is that of UTF-8."""
    done = run_bytes(*arguments, cwd=tmp_path, environment=environment)
    assert done.returncode == exit_code_in_utf8(tmp_path.parent, arguments)
    assert b"Traceback" not in done.stderr
    assert b"\\u" not in done.stderr, "stands for nothing that a reader knows"
    done.stdout.decode(environment.get("PYTHONIOENCODING", "ascii"))


def test_what_an_encoding_lacks_is_written_in_ascii(tmp_path: Path) -> None:
    """A minus is a hyphen, a middle dot a bar, and all the numbers are there."""
    plain = run_bytes("recap", FOLDER, cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"}).stdout.decode("ascii")
    rich = run_bytes("recap", FOLDER, cwd=tmp_path, environment={"PYTHONIOENCODING": "utf-8"}).stdout.decode("utf-8")
    assert plain == rich.replace("−", "-").replace("–", "-").replace("·", "|")


def test_a_run_with_names_of_any_kind_ends_well_in_ascii(tmp_path: Path) -> None:
    """Its folder has a byte that is no UTF-8, its task an accent; run, recap and report say where they wrote."""
    folder = os.fsdecode(b"out\xff\xce\xb8")
    (tmp_path / "p.jsonl").write_text('{"q": "one", "a": 1}\n', encoding="utf-8")
    names = ("--model_name", "chain", "--data_name", "café", "--data_path", "p.jsonl", "--output_dir", folder)
    fields = ("--prompt_field", "q", "--target_field", "a", "--max_sequences", "2", "--max_tokens", "5")
    for command in (("run", "--engine", "scripted", *names, *fields), ("recap", folder), ("report", folder)):
        done = run_bytes(*command, cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"})
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"cafe" in run_bytes("recap", folder, cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"}).stdout


@pytest.mark.parametrize("script", ["script_manual_parallel_recapper.py", "script_eval_code_gen.py"])
def test_the_published_scripts_take_any_text_too(tmp_path: Path, script: str) -> None:
    """Their errors are sentences in any encoding."""
    done = subprocess.run(
        [sys.executable, ROOT / script, "model", "data", "θ – é"], capture_output=True, check=False, cwd=tmp_path,
        env={**os.environ, **NO_UTF8, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 2
    assert b"outputs/model/data/theta - e" in done.stderr


def raw_in_terminal(columns: int, *arguments: object, program: tuple[str, ...] = EAGER, **environment: str) -> str:
    """What `eager` sends to a terminal so wide."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execvpe(program[0], [*program, *map(str, arguments)], {**os.environ, "TERM": "xterm", **environment})
    shown = b""
    try:
        while piece := os.read(terminal, 1 << 16):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(terminal)
    os.waitpid(process, 0)
    return shown.decode("utf-8")


def in_terminal(columns: int, *arguments: object, **environment: str) -> str:
    """What can be read there."""
    raw = raw_in_terminal(columns, *arguments, **environment)
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", raw).replace("\r", "")


def numbers(text: str) -> set[str]:
    return set(re.findall(r"[+−]?\d[\d,.]*\d|\d", text))


@pytest.mark.parametrize("term", ["xterm", "dumb", ""])
@pytest.mark.parametrize("columns", [0, 20, 40, 80, 200])
def test_no_terminal_cuts_a_number(columns: int, term: str) -> None:
    """Whatever its width and kind, it shows what a file gets; one that knows no width counts as wide."""
    shown = in_terminal(columns, "recap", FOLDER, TERM=term)
    assert "…" not in shown
    assert numbers(run_eager("recap", FOLDER).stdout) == numbers(shown)


def widest_line(text: str) -> int:
    return max(map(len, text.splitlines()))


def test_columns_says_how_wide_a_terminal_and_a_pipe_are() -> None:
    """It counts for both; without it a pipe is wide enough for every table, and what is no number counts for none."""
    unset = run_eager("recap", FOLDER).stdout
    assert widest_line(run_eager("recap", FOLDER, environment={"COLUMNS": "70"}).stdout) <= 70 < widest_line(unset)
    assert widest_line(in_terminal(200, "recap", FOLDER, COLUMNS="70")) <= 70
    for nonsense in ("0", "-5", "wide", "²", ""):
        assert run_eager("recap", FOLDER, environment={"COLUMNS": nonsense}).stdout == unset


def test_a_dumb_terminal_gets_no_codes() -> None:
    """Neither bold nor anything else; another one does."""
    assert "\x1b" in raw_in_terminal(80, "recap", FOLDER)
    assert "\x1b" not in raw_in_terminal(80, "recap", FOLDER, TERM="dumb")


def test_a_dumb_terminal_is_told_of_progress_line_by_line(tmp_path: Path) -> None:
    """It cannot redraw one, so it gets what a log gets, if here for the test's sake at every step."""
    code = "from eager.cli import display, main; display._LINE_EVERY_SECONDS = 0; main()"
    names = ("--engine", "scripted", "--model_name", "chain", "--data_name", "demo", "--limit", "1")
    few = ("--experiments", "parallel", "--max_sequences", "2", "--max_tokens", "9", "--output_dir", tmp_path / "out")
    program = (sys.executable, "-c", code)
    shown = raw_in_terminal(200, "run", *names, *few, program=program, TERM="dumb")
    assert re.search(r"^parallel: 0/1 prompts, 2 sequences open, .* left", shown.replace("\r", ""), re.MULTILINE)


def test_machines_get_json_in_ascii(tmp_path: Path) -> None:
    """--json is the same bytes in every encoding."""
    done = run_bytes("recap", FOLDER, "--json", cwd=tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    assert json.loads(done.stdout)["problems"] == []
