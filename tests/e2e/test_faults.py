"""A driver and what may befall it: killed, doubled, without room on its disk, with a clock that jumps.

After each the run completes: every prompt once, with the results of a run that nothing befell.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from children import EAGER, patched, run_eager, start

from eager.store.journal import Journal

EXPERIMENTS = ["parallel", "eager_init_th1.5", "eager_adapt_th1.5", "eager_th1.5", "eager_vote_th1.5"]
N_PROMPTS = 60
SLOW = {**os.environ, "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.005"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Of all experiments over 60 problems on the scripted engine, without the value of --output_dir at its end."""
    path = tmp_path_factory.mktemp("data") / "problems.csv"
    rows = [f"how many {'y ' * (i % 7)}?,{1 + i % 3}" for i in range(N_PROMPTS)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    rules = ["--max_sequences", "6", "--threshold_percentile", "none", "--entropy_threshold", "1.5"]
    data = ["--data_name", "mine", "--data_path", str(path), "--prompt_field", "question", "--target_field", "answer"]
    model = ["--engine", "scripted", "--model_name", "chain", "--capacity", "12"]
    return ["run", *model, *rules, *data, "--experiments", "all,eager_vote", "--output_dir"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, arguments):
    """The result files of a run that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_eager(*arguments, folder).returncode == 0
    return result_files(folder)


def result_files(folder: Path):
    """Without times."""
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for content in files.values():
        assert 0 <= content["extra"].pop("generation_time_so_far (s)") < 600
    return files


def assert_each_prompt_once(folder: Path) -> None:
    """In every experiment, none finished twice, and no line damaged."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    records = [(line["record"]["experiment"], line["record"]["prompt_index"]) for line in lines if "record" in line]
    assert sorted(records) == sorted((name, index) for name in EXPERIMENTS for index in range(N_PROMPTS))
    assert Journal(folder).problems == []


def test_killed_twenty_times_in_a_row(tmp_path, arguments, undisturbed):
    """At any moment, while a result file is written among others: no finished prompt is lost or generated twice."""
    script = Path(__file__).resolve().parents[1] / "kill_again.py"
    killed = subprocess.run(
        [sys.executable, script, "5", "20", *arguments, tmp_path],
        env={**os.environ, "EAGER_SCRIPTED_SECONDS_PER_STEP": "0.002"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == 0, killed.stderr
    n_before = sum(Journal(tmp_path).count(name) for name in EXPERIMENTS)
    assert N_PROMPTS / 2 < n_before < len(EXPERIMENTS) * N_PROMPTS
    done = run_eager(*arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert_each_prompt_once(tmp_path)
    assert result_files(tmp_path) == undisturbed
    assert list(tmp_path.glob(".eager-*")) == []  # what the killed ones were writing is cleared away


def test_two_drivers_started_at_once(tmp_path, arguments, undisturbed):
    """One has the folder, the other one says so and changes nothing."""
    both = [start([*EAGER, *arguments, str(tmp_path)], env=SLOW) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], outputs
    _, stderr = outputs[codes.index(1)]
    assert stderr.splitlines()[-1].endswith("is in use by another run: wait for it or give another --output_dir")
    assert_each_prompt_once(tmp_path)
    assert result_files(tmp_path) == undisturbed


def test_a_disk_that_fills_up_and_then_has_room(tmp_path, arguments, undisturbed):
    """A small one, again and again with a little more room: each time it ends in a sentence, at last it completes."""
    needs.program("unshare", "util-linux")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=128k tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    steps = [mount]
    for size in ("256k", "640k", "16m"):
        steps += ['"$@"; echo "exit code $?" >&2', f"mount -o remount,size={size} {disk}"]
    steps += ['"$@"', f"cp -r {disk}/out {kept}"]
    command = ["unshare", "-rm", "sh", "-c", "\n".join(["set -e", *steps]).replace('"$@";', '"$@" ||')]
    done = subprocess.run(
        [*command, "sh", *EAGER, *arguments, disk / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    ended = [lines[i - 1] for i, line in enumerate(lines) if line == "exit code 1"]
    assert len(ended) == 3
    for sentence in ended:
        assert "No space left on device" in sentence
        assert "make room and run the same command again; what is finished is kept" in sentence
    assert_each_prompt_once(kept)
    assert result_files(kept) == undisturbed


def test_a_clock_that_jumps(tmp_path, arguments, undisturbed):
    """Days ahead and back at every look: nothing waits for it, and no time that is recorded has it in it."""
    jumping = (
        "import random, time\n"
        "now, rng = time.time, random.Random(1)\n"
        "time.time = lambda: now() + rng.choice([-1e6, 0, 1e6])"
    )
    done = subprocess.run(patched(jumping, *arguments, tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_each_prompt_once(tmp_path)
    assert result_files(tmp_path) == undisturbed
