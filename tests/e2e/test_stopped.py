"""Commands stopped from outside: by Ctrl-C, SIGTERM or SIGHUP, once and twice, early and late, or by a lost folder."""

import json
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import needs
import pytest
from children import EAGER, patched, start, start_on

from eager.results.findings import Findings
from eager.results.folder import open_folder
from eager.store.journal import Journal

RULES = ["--max_sequences", "6", "--threshold_percentile", "none", "--entropy_threshold", "1.5"]
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
SLOW = {**os.environ, "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.02"}


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a run over 30 problems on the scripted engine, into tmp_path/out, without --experiments."""
    path = tmp_path / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"how many {'y ' * (i % 7)}?,{1 + i % 3}\n" for i in range(30)))
    data = ["--data_name", "mine", "--data_path", str(path), "--prompt_field", "question", "--target_field", "answer"]
    model = ["--engine", "scripted", "--model_name", "chain", "--capacity", "12"]
    return ["run", *model, *RULES, *data, "--output_dir", str(tmp_path / "out")]


def wait_for_prompts(folder: Path, number: int, process: subprocess.Popen, experiment: str = "parallel") -> None:
    """Until the journal holds so many, or the process that should write them has ended."""
    while process.poll() is None:
        if (folder / "journal.jsonl").exists() and Journal(folder).count(experiment) >= number:
            return
        time.sleep(0.02)


def in_file(folder: Path, name: str) -> list[int]:
    """The prompts that a result file lists."""
    content = json.loads((folder / f"{name}.json").read_text())
    return [entry["prompt_index"] for key in content if key.endswith("-generations") for entry in content[key]]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_what_is_finished_is_written_on_the_way_out(tmp_path, arguments, number, code):
    """The result file holds what the journal holds; one sentence says how to go on, and the code says which signal."""
    process = start([*EAGER, *arguments], env=SLOW)
    wait_for_prompts(tmp_path / "out", 3, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    last = stderr.splitlines()[-1]
    assert last == f"stopped; the same command with --output_dir {tmp_path / 'out'} goes on from here"
    assert "Traceback" not in stderr
    finished = Journal(tmp_path / "out").prompts("parallel")
    assert 3 <= len(finished) < 30
    assert in_file(tmp_path / "out", "parallel") == finished


def test_a_stopped_run_goes_on_to_the_same_results(tmp_path, arguments):
    """Stopped in each experiment, it ends with what an undisturbed run has."""
    for name in ("parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5"):
        process = start([*EAGER, *arguments], env=SLOW)
        wait_for_prompts(tmp_path / "out", 2, process, name)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert (tmp_path / "out" / f"{name}.json").exists()
    assert subprocess.run([*EAGER, *arguments], check=False, capture_output=True).returncode == 0
    undisturbed = [*arguments[:-1], str(tmp_path / "whole")]
    assert subprocess.run([*EAGER, *undisturbed], check=False, capture_output=True).returncode == 0
    for path in (tmp_path / "whole").glob("*.json"):
        contents = [json.loads((tmp_path / folder / path.name).read_text()) for folder in ("whole", "out")]
        for content in contents:
            del content["extra"]["generation_time_so_far (s)"]
        assert contents[0] == contents[1]


def test_a_run_stopped_before_its_first_prompt_leaves_nothing(tmp_path, arguments):
    """No folder of it is left for a shell's * to find, and the sentence says that nothing is lost."""
    loading = (
        "import time, eager.engines\n"
        "eager.engines.load_engine = lambda *a, **k: print('at work', flush=True) or time.sleep(60)"
    )
    process = start(patched(loading, *arguments[:-1], tmp_path / "new" / "out"))
    assert process.stdout.readline() == "at work\n"
    assert (tmp_path / "new" / "out").is_dir()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 143
    assert stderr.splitlines()[-1].endswith(" goes on from here, with the first prompt: none was finished")
    assert not (tmp_path / "new").exists()


def test_a_second_signal_ends_it_at_once_and_spoils_nothing(tmp_path, arguments):
    """While the results are being written, too: the old file and the journal stay whole, and the run goes on."""
    process = start([*EAGER, *arguments], env=SLOW)
    wait_for_prompts(tmp_path / "out", 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    before = (tmp_path / "out" / "parallel.json").read_bytes()
    writing = (
        "import time, eager.atomic, eager.keeping\n"
        "def write(journal, experiment, regrader):\n"
        "    with eager.atomic.replacing(journal.folder / 'parallel.json') as file:\n"
        "        file.write('half of it'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "eager.keeping.write_experiment = write"
    )
    process = start(patched(writing, *arguments), env=SLOW)
    wait_for_prompts(tmp_path / "out", len(Journal(tmp_path / "out").prompts("parallel")) + 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "writing\n"
    time.sleep(1.2)  # two signals within a second are one wish
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert (tmp_path / "out" / "parallel.json").read_bytes() == before
    done = subprocess.run([*EAGER, *arguments, "--experiments", "parallel"], check=False, capture_output=True)
    assert done.returncode == 0
    assert in_file(tmp_path / "out", "parallel") == list(range(30))


def test_the_same_signal_twice_in_a_row_is_one_wish(tmp_path, arguments):
    """`timeout` sends it to the process and then to its group: the results are written all the same."""
    writing = (
        "import time, eager.keeping\n"
        "write = eager.keeping.write_experiment\n"
        "eager.keeping.write_experiment = lambda *a: time.sleep(0.3) or write(*a)"
    )
    process = start(patched(writing, *arguments), env=SLOW)
    wait_for_prompts(tmp_path / "out", 3, process)
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert in_file(tmp_path / "out", "parallel") == Journal(tmp_path / "out").prompts("parallel")


def test_ctrl_c_finishes_what_is_open(tmp_path, arguments):
    """Trees under way are kept, and no other one begins; the run ends as soon as they have, as one that was stopped."""
    process = start([*EAGER, *arguments], env=SLOW)
    wait_for_prompts(tmp_path / "out", 3, process)
    n_before = len(Journal(tmp_path / "out").prompts("parallel"))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "finishing what is open, for at most 3 s; Ctrl-C again stops at once" in stderr.splitlines()
    assert stderr.splitlines()[-1].startswith("stopped; the same command")
    finished = Journal(tmp_path / "out").prompts("parallel")
    assert n_before < len(finished) < 30
    assert finished == list(range(len(finished)))  # of what had begun none was dropped
    assert in_file(tmp_path / "out", "parallel") == finished


LONG_STEP = (
    "import time, eager.engines.scripted as scripted\n"
    "scripted.ScriptedEngine.step = lambda engine: print('at work', flush=True) or time.sleep(60)"
)


@pytest.mark.parametrize(("n_signals", "at_least", "at_most"), [(1, 2.5, 10), (2, 0, 1.5)])
def test_ctrl_c_waits_three_seconds_and_ctrl_c_twice_no_longer(tmp_path, arguments, n_signals, at_least, at_most):
    """A step that takes a minute is left in the middle."""
    process = start(patched(LONG_STEP, *arguments))
    assert process.stdout.readline() == "at work\n"
    for _ in range(n_signals - 1):
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)  # two within a second are one wish
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert at_least < time.monotonic() - before < at_most
    assert stderr.splitlines()[-1].startswith("stopped; the same command")


def test_an_engine_that_ends_with_ctrl_c_is_no_error(tmp_path, arguments):
    """A terminal sends it to all processes, the engine's own among them: the run was stopped, and says so."""
    dying = (
        "import time, eager.engines.scripted as scripted\n"
        "def step(engine):\n"
        "    print('at work', flush=True); time.sleep(0.5)\n"
        "    raise scripted.EngineError('the core has ended')\n"
        "scripted.ScriptedEngine.step = step"
    )
    process = start(patched(dying, *arguments))
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Error" not in stderr
    assert stderr.splitlines()[-1].startswith("stopped; the same command")


def test_what_is_ignored_stays_ignored(tmp_path, arguments):
    """A run that was started with nohup goes on when its terminal is closed."""
    process = start(["nohup", *EAGER, *arguments, "--experiments", "parallel"], env=SLOW)
    wait_for_prompts(tmp_path / "out", 1, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_cursor_comes_back(tmp_path, arguments):
    """The line that is redrawn hides it; a run that is terminated shows it again."""
    terminal, ours = pty.openpty()
    process = start_on(ours, [*EAGER, *arguments], {**SLOW, "TERM": "xterm"})
    os.close(ours)
    wait_for_prompts(tmp_path / "out", 3, process)
    process.send_signal(signal.SIGTERM)
    said = b""
    while b"goes on from here" not in said:
        said += os.read(terminal, 4096)
    process.wait(timeout=30)
    os.close(terminal)
    assert process.returncode == 143
    assert said.rfind(b"\x1b[?25h") > said.rfind(b"\x1b[?25l") >= 0


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("command", ["recap", "report"])
def test_reading_commands_stop_alike(tmp_path, command, number, code):
    """One sentence, the signal's code, no traceback."""
    needs.package("matplotlib", "report")
    code_of = {"recap": "eager.recap.recap", "report": "eager.report.write_report"}[command]
    work = (
        "import time, eager.recap, eager.report\n"
        f"{code_of} = lambda *a, **k: print('at work', flush=True) or time.sleep(60)"
    )
    process = start(patched(work, command, tmp_path))
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (code, "stopped; run the same command again\n")


def test_an_error_writes_what_is_finished_too(tmp_path, arguments):
    """An engine that breaks costs the prompts that it was at, and no result file."""
    process = start([*EAGER, *arguments], env={**os.environ, "EAGER_SCRIPTED_FAIL_AFTER": "30"})
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.splitlines()[-1]) == (1, "Error: the scripted engine broke, as it was told to")
    finished = Journal(tmp_path / "out").prompts("parallel")
    assert 0 < len(finished) < 30
    assert in_file(tmp_path / "out", "parallel") == finished


def test_a_folder_that_goes_in_mid_run_is_a_sentence(tmp_path, arguments):
    """An open journal takes lines after its name has gone: nothing would be left of them."""
    process = start([*EAGER, *arguments], env=SLOW)
    wait_for_prompts(tmp_path / "out", 2, process)
    shutil.rmtree(tmp_path / "out")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.splitlines()[-1].startswith(f"Error: '{tmp_path / 'out'}' has gone while the run was at work")
    assert "Traceback" not in stderr


def test_a_folder_that_is_moved_in_mid_run_goes_on_where_it_is(tmp_path, arguments):
    """What was finished lies in its new place, and is all that a run with that --output_dir needs."""
    process = start([*EAGER, *arguments], env=SLOW)
    wait_for_prompts(tmp_path / "out", 2, process)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "run the same command with its new place as --output_dir" in stderr
    (results,) = open_folder(tmp_path / "elsewhere", Findings())
    assert len(list(results.records())) >= 2
    there = [*arguments[:-1], str(tmp_path / "elsewhere"), "--experiments", "parallel"]
    assert subprocess.run([*EAGER, *there], check=False, capture_output=True).returncode == 0
