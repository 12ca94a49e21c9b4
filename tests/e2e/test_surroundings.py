"""Folders, disks, caches and interpreters that refuse: every command ends in one sentence that names the place."""

import json
import os
import resource
import subprocess
from contextlib import nullcontext
from pathlib import Path

import needs
import pytest
from children import run_eager, scripted_run
from click.testing import CliRunner

from eager.cli import main
from eager.code_eval import CodeEvalError, ProblemSet
from eager.store.journal import Journal

LONG = "x" * 300


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a run over 5 problems on the scripted engine, without --output_dir."""
    return scripted_run(tmp_path)


@pytest.fixture
def folder(tmp_path, arguments) -> Path:
    """With results in it."""
    assert run_eager(*arguments, "--output_dir", tmp_path / "out").returncode == 0
    return tmp_path / "out"


def assert_sentence(done: subprocess.CompletedProcess, *fragments: object) -> None:
    """Exit code 1 or 2, the last line is an error with all of `fragments`, and there is no traceback."""
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    for fragment in fragments:
        assert str(fragment) in last


@pytest.mark.parametrize("place", ["file/in", f"{LONG}/out", "file", "/proc/eager/out", "/dev/null/out"])
def test_an_output_folder_that_cannot_be(tmp_path, arguments, place):
    """Under a file, of too long a name, in place of a file, where nothing can be made."""
    (tmp_path / "file").write_text("")
    assert_sentence(run_eager(*arguments, "--output_dir", place, cwd=tmp_path), f"cannot write to '{place}'")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "problems.csv"}


@pytest.mark.parametrize("name", ["journal.jsonl", ".lock", "parallel.json"])
def test_a_folder_in_place_of_a_file_of_the_run(tmp_path, arguments, name):
    """It is named, and what is finished stays."""
    (tmp_path / "out" / name).mkdir(parents=True)
    done = run_eager(*arguments, "--output_dir", tmp_path / "out")
    assert_sentence(done, "cannot write", tmp_path / "out", "Is a directory")
    if name == "parallel.json":
        assert Journal(tmp_path / "out").count("parallel") == 5


def test_outputs_cannot_be_made(tmp_path, arguments):
    """Without --output_dir, too: the place is named, and the option."""
    (tmp_path / "outputs").write_text("")
    assert_sentence(run_eager(*arguments, cwd=tmp_path), "'outputs/chain", "give --output_dir")


def test_results_that_cannot_be_written_cost_nothing_else(tmp_path, arguments):
    """A disk that is full when the results are written: the journal is whole, and the same command goes on."""
    assert run_eager(*arguments, "--output_dir", tmp_path / "whole").returncode == 0
    sizes = [(tmp_path / "whole" / name).stat().st_size for name in ("journal.jsonl", "parallel.json")]
    notes = "n" * (sizes[0] + 2000)  # they are in the result file twice, and once in the journal
    before = ["--output_dir", tmp_path / "out"]
    enough_for_journal = sizes[0] + len(notes) + 500
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (enough_for_journal,) * 2)  # noqa: E731 - needed as a callable
    done = run_eager(*arguments, *before, "--notes", notes, preexec_fn=limit)
    assert_sentence(done, tmp_path / "out" / "parallel.json", "make room and run the same command again")
    assert Journal(tmp_path / "out").count("parallel") == 5
    assert run_eager(*arguments, *before).returncode == 0


@pytest.mark.parametrize("output", ["/dev/null/page.html", "/proc/page.html", f"{LONG}.html", "folder"])
def test_a_page_that_cannot_be_written(tmp_path, folder, output):
    """The report names where it could not write."""
    needs.package("matplotlib", "report")
    (tmp_path / "folder").mkdir()
    assert_sentence(run_eager("report", folder, "--output", output, cwd=tmp_path), Path(output).stem)


def test_a_place_for_plots_that_is_a_file(folder):
    """Not the page is named, but what is in the way."""
    needs.package("matplotlib", "report")
    (folder / "report_plots").write_text("")
    assert_sentence(run_eager("report", folder), f"cannot write '{folder / 'report_plots'}'")


def test_a_large_file_that_cannot_be_written(folder):
    """--large names it."""
    needs.package("ijson", "report")
    (folder / "parallel.large").mkdir()
    assert_sentence(run_eager("recap", folder, "--large"), folder / "parallel.large")


@pytest.mark.parametrize("command", ["recap", "report", "eval-code"])
def test_a_folder_that_cannot_be_read(monkeypatch, tmp_path, command):
    """No right to list it, an input-output error: the system's refusal is a sentence with the path."""
    needs.package("matplotlib", "report")

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr("eager.cli.eval_code._checker", lambda options: nullcontext())
    done = CliRunner().invoke(main, [command, str(tmp_path)])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: cannot use '{tmp_path}' (Permission denied): ")


def test_one_folder_of_several_that_cannot_be_read_is_a_problem(monkeypatch, tmp_path, folder):
    """The others are shown all the same, and the exit code is 1."""
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    listed = Path.iterdir

    def refuse_one(path: Path):
        if path == sealed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse_one)
    done = CliRunner().invoke(main, ["recap", str(folder), str(sealed)])
    assert done.exit_code == 1
    assert f"Error: '{sealed}' cannot be read (Permission denied): left out" in done.stderr
    assert "parallel" in done.stdout


# -- eval-code: its interpreter and its cache ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("true", "is no Python (it said nothing)"),
        ("false", "EvalPlus does not run"),
        ("echo", "is no Python"),
        ("data", "cannot be started (Permission denied)"),
        ("noise", "is no Python"),
        ("latin", "is no Python"),
    ],
)
def test_an_interpreter_that_is_no_python(tmp_path, python, said):
    """Silent, failing, talkative, no program, JSON of another kind, bytes that are no text."""
    scripts = {
        "true": ":",
        "false": "exit 1",
        "echo": 'echo "$@"',
        "noise": "echo '[1, 2]'",
        "latin": r"printf '\351\n'",
    }
    path = tmp_path / python
    path.write_text(f"#!/bin/sh\n{scripts.get(python, '')}\n")
    if python in scripts:
        path.chmod(0o755)
    done = run_eager("eval-code", tmp_path, "--unsafe", "--evalplus_python", path)
    assert_sentence(done, f"'{path}'", said, "give --evalplus_python a Python that has evalplus==0.3.1")


@pytest.mark.parametrize(
    "cache", [["--cache_dir", "file/cache"], ["--cache_dir", LONG], ["--cache_dir", "/proc/eager"]]
)
def test_a_cache_that_cannot_be_made(tmp_path, cache):
    """The place is named, and the option that gives another."""
    (tmp_path / "file").write_text("")
    done = run_eager("eval-code", ".", "--unsafe", *cache, cwd=tmp_path)
    assert_sentence(done, f"cannot be installed in '{tmp_path / cache[1]}", "give another --cache_dir")


def test_a_user_without_a_home_folder(monkeypatch, tmp_path):
    """Says what to set; and --cache_dir is enough."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/counts/for/nothing")
    monkeypatch.delenv("EAGER_CACHE_DIR", raising=False)
    done = CliRunner().invoke(main, ["eval-code", str(tmp_path)])
    assert done.exit_code == 2
    assert "there is no home folder to keep a cache in: set XDG_CACHE_HOME, or give --cache_dir" in done.stderr
    false = ["--unsafe", "--evalplus_python", "/bin/false"]
    done = CliRunner().invoke(main, ["eval-code", str(tmp_path), "--cache_dir", str(tmp_path / "cache"), *false])
    assert "EvalPlus does not run" in done.stderr
    assert CliRunner().invoke(main, ["engines"]).exit_code == 0


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b\x08\x00" + b"a" * 20, b"[1]", b"{}", b"\xff\xfe", json.dumps({"task_id": 1}).encode()],
    ids=["torn gzip", "a list", "no columns", "no text", "few columns"],
)
def test_problems_that_are_none(tmp_path, content):
    """Torn, empty or of another kind: the file is named."""
    path = tmp_path / "problems"
    path.write_bytes(content)
    with pytest.raises(CodeEvalError, match=str(path)):
        ProblemSet(path, tmp_path)


def test_an_instruction_that_is_no_utf8_is_bad_usage(tmp_path, arguments):
    """No tokenizer reads it."""
    for option in ("--instruction", "--system_prompt"):
        done = run_eager(*arguments, "--output_dir", tmp_path / "out", option, os.fsdecode(b"caf\xe9"))
        assert_sentence(done, option, "is not UTF-8")
