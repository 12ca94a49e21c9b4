"""Standard streams that break, are closed, or are no terminal: what was asked for counts, narration does not."""

import os
import subprocess
from pathlib import Path

import needs
import pytest
from children import EAGER, patched, run_eager, scripted_run

from eager.store.journal import Journal

FULL = Path("/dev/full")


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a run over 5 problems on the scripted engine, into tmp_path/out."""
    return [*scripted_run(tmp_path), "--output_dir", str(tmp_path / "out")]


@pytest.fixture
def folder(tmp_path, arguments) -> Path:
    """With results in it."""
    assert run_eager(*arguments).returncode == 0
    return tmp_path / "out"


@pytest.fixture
def closed_pipe():
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full():
    """A file on a full disk."""
    if not FULL.is_char_device():
        pytest.skip("no /dev/full on this system")
    with FULL.open("wb") as file:
        yield file


def ends(command: list[object], **streams: object) -> tuple[int, str]:
    """Exit code and what it said on standard error, if that is not among the streams."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run([*EAGER, *map(str, command)], check=False, text=True, **streams)
    return done.returncode, done.stderr or ""


def commands_over(folder: Path) -> list[list[object]]:
    """Every command that prints something without a model, and every way that recap has."""
    reading = [["recap", folder], ["recap", folder, "--csv"], ["recap", folder, "--json"], ["report", folder]]
    return [*reading, ["tasks"], ["engines"], ["--help"], ["recap", "--help"], ["--version"]]


def test_a_reader_that_has_gone_ends_a_command_quietly(folder, closed_pipe):
    """As `| head` does: no word, and the code of a program that SIGPIPE ends."""
    needs.package("matplotlib", "report")
    for command in commands_over(folder):
        assert ends(command, stdout=closed_pipe) == (141, ""), command


def test_a_full_disk_under_standard_output_is_a_sentence(folder, full):
    """What was asked for could not be written: exit code 1."""
    needs.package("matplotlib", "report")
    sentence = "Error: standard output takes no more (No space left on device): what is in files is kept\n"
    for command in commands_over(folder):
        assert ends(command, stdout=full) == (1, sentence), command


def test_a_run_whose_table_nobody_reads_has_its_results(tmp_path, arguments, closed_pipe):
    """They are written before the table is shown; the code says that the table was not."""
    code, said = ends(arguments, stdout=closed_pipe)
    assert (code, said) == (141, "loading chain with scripted\n")
    assert Journal(tmp_path / "out").count("parallel") == 5
    assert (tmp_path / "out" / "parallel.json").is_file()


@pytest.mark.parametrize("broken", ["full", "closed_pipe"])
def test_a_run_outlives_its_progress(tmp_path, arguments, request, broken):
    """A standard error that breaks falls silent; hours of work do not end for a line about them."""
    code, _ = ends(arguments, stderr=request.getfixturevalue(broken))
    assert code == 0
    assert Journal(tmp_path / "out").count("parallel") == 5


def test_an_error_that_cannot_be_said_keeps_its_code(arguments, full):
    """Nothing can be read of it, so the code has to say it."""
    assert ends([*arguments, "--model_name", "no such"], stderr=full)[0] == 1
    assert ends([*arguments, "--no_such_option"], stderr=full)[0] == 2


def test_closed_streams_are_not_taken_by_files(tmp_path, arguments):
    """The journal would get the number of one, and with it whatever native code prints there."""
    noise = (
        "import os, eager.engines.scripted\n"
        "engine = eager.engines.scripted.ScriptedEngine\n"
        "step = engine.step\n"
        "engine.step = lambda self: [os.write(1, b'noise'), os.write(2, b'noise'), step(self)][-1]"
    )

    def close_all() -> None:
        for number in range(3):
            os.close(number)

    done = subprocess.run(patched(noise, *arguments), check=False, preexec_fn=close_all)
    assert done.returncode == 0
    assert Journal(tmp_path / "out").count("parallel") == 5
    assert b"noise" not in (tmp_path / "out" / "journal.jsonl").read_bytes()


def test_forced_colour_draws_no_progress_into_a_log(arguments):
    """FORCE_COLOR asks for colours, not for a line that is redrawn where nothing can be."""
    done = run_eager(*arguments, environment={"FORCE_COLOR": "1", "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.02"})
    assert done.returncode == 0
    assert "\x1b" not in done.stderr


def test_paths_that_are_no_utf8_are_written_out(tmp_path, arguments):
    """A folder of such a name gets its results, its page and its tables; what is said of it has a ? for the byte."""
    needs.package("matplotlib", "report")
    name = os.fsdecode(b"caf\xe9")
    folder = tmp_path / name
    run = [*arguments, "--output_dir", folder, "--notes", name]
    page = ["report", folder, tmp_path / "also", "--output", folder / "both.html"]
    assert subprocess.run([*EAGER, *arguments, "--output_dir", tmp_path / "also"], check=False).returncode == 0
    for command in (run, ["report", folder], page, ["recap", folder, "--large"], ["recap", folder, "--json"]):
        done = subprocess.run([*EAGER, *map(str, command)], check=False, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert {"parallel.json", "parallel.large", "report.html", "both.html"} <= {path.name for path in folder.iterdir()}
    assert b"caf?" in subprocess.run([*EAGER, *map(str, run)], check=False, capture_output=True).stdout
