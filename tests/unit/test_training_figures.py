"""The benchmarks of docs/training.md: a run that is broken off goes on, and the tables say what the lines hold."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpo_reward
import pytest
import training_groups
from training_groups import Setting

from eager.engines.scripted import ScriptedEngine
from eager.tasks import load

SETTING = Setting("chain", 5, 2, 1.0, 4, 40, 1.0, 3)


def problems(folder: Path):
    """Whose answers the scripted model may give."""
    path = folder / "problems.jsonl"
    asked = ("How many are left?", "Why so?", "How many come?", "What is larger?", "Who?")
    rows = ({"question": text, "answer": f"#### {1 + i % 3}"} for i, text in enumerate(asked))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load("openai/gsm8k", data_path=path)


def run_on(out: Path, task, end: float = float("inf")) -> None:
    training_groups.run(SETTING, training_groups.ARMS, ScriptedEngine(), task, out, end)


def test_a_run_that_was_broken_off_comes_to_the_same_lines(tmp_path, capsys):
    """Its time over at once, or a line cut short: the same command adds what is missing, and nothing else."""
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    task = problems(tmp_path)
    run_on(whole, task)
    run_on(broken, task, end=time.monotonic())
    assert "9 of 9 batches left" in capsys.readouterr().out
    broken.write_text("".join(whole.read_text().splitlines(keepends=True)[:4]) + '{"arm": "sam')
    run_on(broken, task)
    assert broken.read_text() == whole.read_text()


def test_a_file_of_another_setting_is_refused(tmp_path):
    """Its lines would be compared with what they cannot be compared with."""
    out = tmp_path / "lines.jsonl"
    out.write_text(json.dumps({"model": "other"}) + "\n")
    with pytest.raises(SystemExit, match="give another file"):
        run_on(out, problems(tmp_path))


def test_no_arm_draws_more_than_n_a_problem(tmp_path):
    """In each batch, all its stages together."""
    out = tmp_path / "lines.jsonl"
    run_on(out, problems(tmp_path))
    for line in training_groups.whole_lines(out)[1:]:
        assert sum(len(row["tokens"]) for row in line["prompts"]) <= 4 * len(line["prompts"])


def row(prompt: int, right: list[int], tokens: list[int], n_init: int, n_trees: int, shares=None):
    shares = shares or [1.0] * len(right)
    return {"prompt": prompt, "right": right, "tokens": tokens, "shares": shares, "n_init": n_init, "n_trees": n_trees}


def test_the_table_counts_groups_that_differ_and_their_tokens(tmp_path):
    """Each form with its own members and its own cost."""
    out = tmp_path / "lines.jsonl"
    lines = [
        {"n": 4},
        {"arm": "parallel", "batch": 0, "prompts": [row(0, [1, 1, 0, 1], [50] * 4, 4, 4)]},
        {"arm": "sample", "batch": 0, "prompts": [row(0, [0, 0, 1, 0], [40, 20, 20, 20], 2, 3)]},
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = training_groups.table(out)
    assert "| n samples | 4 | 200 | 1 of 1 | 5.000 [5.000, 5.000] | 1.00 [1.00, 1.00] |" in table
    assert "| half as many | 2 | 100 | 0 of 1 | 0.000" in table
    assert "| `sample`, trees alone | 2 | 60 | 0 of 1 |" in table
    assert "| `sample`, second stage, as they are | 3 | 80 | 1 of 1 | 12.500 [12.500, 12.500] | 2.50" in table
    assert "| `sample`, second stage, n by fresh samples | 4 | 100 | 1 of 1 |" in table
    assert "top2" not in table


def test_a_trees_pass_rate_goes_by_its_first_stage(tmp_path):
    """Sequences alike, and by their shares."""
    found = row(0, [1, 0, 0, 1], [9] * 4, 3, 4, [0.5, 0.25, 0.25, 1.0])
    assert training_groups.init_rate(found, False) == pytest.approx(1 / 3)
    assert training_groups.init_rate(found, True) == pytest.approx(0.5)


def test_the_reward_table_compares_at_the_same_number_of_tokens(tmp_path):
    """By interpolation at what the cheapest run took; the gain is for a thousand tokens."""
    out = tmp_path / "reward.jsonl"
    runs = {"plain": (2000, 0.6), "eager": (1000, 0.5)}
    lines = [
        {
            "arm": arm,
            "seed": 0,
            "step": step,
            "tokens": tokens * step,
            "taught": 9 * step,
            "reward": 0.2 + (last - 0.2) * step,
        }
        for arm, (tokens, last) in runs.items()
        for step in (0, 1)
    ]
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain, eager = grpo_reward.table(out).splitlines()[2:]
    assert plain.startswith("| `plain` | 1 | 9 | 2,000 |")
    assert plain.endswith("| 0.2000 (0.2000 to 0.2000) | 0.400 (0.400 to 0.400) |")
    assert eager.endswith("| 0.3000 (0.3000 to 0.3000) | 0.500 (0.500 to 0.500) |")


def test_a_sum_is_right_by_its_last_number():
    """However it is said."""
    assert grpo_reward.reward(
        [[{"content": "7 + 5 = 12."}], [{"content": "12 or 13"}], [{"content": ""}]], ["12"] * 3
    ) == [1, 0, 0]
    assert all(int(item["target"]) <= 100 for item in grpo_reward.problems(20, 1, 50))


@pytest.mark.parametrize("name", ["training_groups", "grpo_reward"])
def test_the_benchmarks_start_without_their_libraries(name):
    """--help needs neither torch nor TRL."""
    path = Path(training_groups.__file__).with_name(f"{name}.py")
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
