"""`eager calibrate`, thresholds that a run finds by itself, and `eager replay`, on the scripted engine."""

import json
import math
from pathlib import Path

import pytest
from children import run_eager

RULES = ["--max_sequences", "6", "--threshold_percentile", "none"]
BASE = ["--engine", "scripted", "--model_name", "chain", *RULES]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """A local file of 24 problems; the scripted model answers 1, 2 or 3."""
    path = tmp_path / "problems.csv"
    rows = [f"how many {'y ' * (i % 7)}?,{1 + i % 3}" for i in range(24)]
    path.write_text("question,answer\n" + "\n".join(rows) + "\n")
    return ["--data_name", "mine", "--data_path", str(path), "--prompt_field", "question", "--target_field", "answer"]


def extra_of(folder: Path) -> dict[str, dict]:
    """What the result files say beside their results, by experiment."""
    return {path.stem: json.loads(path.read_text())["extra"] for path in folder.glob("eager_init*.json")}


def test_what_calibrate_recommends_is_what_auto_takes(tmp_path, data):
    """One command recommends and keeps the streams; a run takes the threshold from there, and says what it cost."""
    out = tmp_path / "out"
    said = run_eager("calibrate", *BASE, *data, "--output_dir", out, "--target_saving", "0.3")
    assert said.returncode == 0, said.stderr
    assert "saved against 6 samples" in said.stdout
    assert f"--output_dir {out}" in said.stdout
    kept = json.loads((out / "calibration.json").read_text())
    assert (kept["n_prompts"], kept["target"]) == (16, "saving=0.3")
    assert kept["n_tokens"] == sum(len(stream["entropies"]) for stream in kept["streams"])
    threshold = kept["recommended"]["threshold"]
    assert kept["recommended"]["saved"]["value"] >= 0.3
    auto = ["--entropy_threshold", "auto:0.3", "--experiments", "parallel,eager_init"]
    done = run_eager("run", *BASE, *data, "--output_dir", out, *auto)
    assert done.returncode == 0, done.stderr
    assert f"entropy_threshold {threshold:g} for saving=0.3" in done.stderr
    name = f"eager_init_th{threshold:g}"
    calibration = {"threshold": threshold, "target": "saving=0.3", "n_prompts": 16, "n_tokens": kept["n_tokens"]}
    assert extra_of(out)[name]["calibration"] == calibration
    assert f"{name}: finding its threshold took {kept['n_tokens']:,} tokens" in done.stdout
    # The streams are the sequences that parallel draws first.
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    records = [line["record"] for line in journal if line.get("record", {}).get("experiment") == "parallel"]
    first = {record["prompt_index"]: record["sequences"][0]["entropies"] for record in records}
    assert [first[index] for index in range(16)] == [stream["entropies"] for stream in kept["streams"]]
    (out / "journal.jsonl").unlink()
    assert f"{name}: finding its threshold took {kept['n_tokens']:,} tokens" in run_eager("recap", out).stdout


def test_a_run_calibrates_by_itself_once(tmp_path, data):
    """Without a calibration in the folder it is made first; another target and a number beside it need no new one."""
    out = tmp_path / "out"
    few = [*BASE, *data, "--limit", "5", "--output_dir", out, "--experiments", "eager_init"]
    assert run_eager("run", *few, "--entropy_threshold", "auto:sequences=1.5").returncode == 0
    kept = (out / "calibration.json").read_bytes()
    assert json.loads(kept)["n_prompts"] == 5
    done = run_eager("run", *few, "--entropy_threshold", "2.5,auto:0.3,auto:sequences=1.5")
    assert done.returncode == 0, done.stderr
    assert (out / "calibration.json").read_bytes() == kept
    found = extra_of(out)
    assert "calibration" not in found.pop("eager_init_th2.5")
    assert {extra["calibration"]["target"] for extra in found.values()} == {"sequences=1.5", "saving=0.3"}
    assert "calibration.json" not in run_eager("recap", out).stderr


def test_a_calibration_of_other_settings_is_refused(tmp_path, data):
    """Its first difference is named, and it is left as it is; other rules of branching are none."""
    out, other = tmp_path / "out", tmp_path / "other"
    assert run_eager("calibrate", *BASE, *data, "--output_dir", out).returncode == 0
    other.mkdir()
    (other / "calibration.json").write_bytes((out / "calibration.json").read_bytes())
    auto = ["--entropy_threshold", "auto", "--experiments", "eager_init", "--output_dir", other]
    warmer = run_eager("run", *BASE, *data, *auto, "--temperature", "0.9")
    assert warmer.returncode == 1
    assert "was made with temperature=0.6, now it is 0.9: remove it" in warmer.stderr
    assert (other / "calibration.json").read_bytes() == (out / "calibration.json").read_bytes()
    assert run_eager("run", *BASE[:4], *data, *auto, "--max_sequences", "4", "--branch_rule", "sample").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target_saving", "0.9"], "no threshold saves 90 % where a prompt has 6 sequences at most"),
        (["--target_saving", "0.3", "--quantile", "0.9"], "give one of --target_saving"),
        (["--target_sequences", "0"], "is not in the range 1<=x<=100000"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, data, arguments, said):
    """Wrong usage, before a model is loaded; no folder is made."""
    done = run_eager("calibrate", *BASE, *data, "--output_dir", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_damaged_calibration_is_a_sentence(tmp_path, data):
    """Whatever lies there under that name is not overwritten."""
    path = tmp_path / "out" / "calibration.json"
    path.parent.mkdir()
    path.write_text('{"streams": [{"entropies": []}], "settings": {}}')
    done = run_eager("run", *BASE, *data, "--output_dir", path.parent, "--entropy_threshold", "auto")
    assert done.returncode == 1
    assert f"'{path}' is no calibration of this version: remove it to calibrate anew" in done.stderr
    assert path.read_text() == '{"streams": [{"entropies": []}], "settings": {}}'


@pytest.fixture
def recorded(tmp_path, data) -> Path:
    """A folder with all four experiments, M = 6."""
    folder = tmp_path / "recorded"
    rule = ["--branch_rule", "distinct", "--entropy_threshold", "1.5"]
    assert run_eager("run", *BASE, *data, *rule, "--output_dir", folder).returncode == 0
    return folder


def test_a_replay_is_what_the_smaller_run_gives(tmp_path, data, recorded):
    """Under `distinct` every number at M = 3 is the one of a run with M = 3; nothing of the folder is changed."""
    before = {path.name: path.read_bytes() for path in recorded.iterdir()}
    done = run_eager("replay", recorded, "--max_sequences", "3", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["recorded"]: row["result"] for row in json.loads(done.stdout)["replayed"]}
    small = tmp_path / "small"
    rule = ["--branch_rule", "distinct", "--entropy_threshold", "1.5", "--max_sequences", "3"]
    run_eager("run", *BASE, *data, *rule, "--output_dir", small, "--experiments", "parallel,eager_init")
    for name, row in rows.items():
        actual = json.loads((small / f"{name}.json").read_text())
        assert row["n_exact"] == row["n_prompts"] == 24
        assert row["n_sequences"] == [actual["extra"]["sequences"]] * 2
        assert row["n_tokens"] == [actual["extra"]["tokens"]["generated"]] * 2
        for ours, score in (("pass_at_k", "pass_at_1"), ("cons_at_k", "cons_at_max"), ("pass_rate", "avg_acc")):
            assert all(math.isclose(bound["value"], actual["results"][score]) for bound in row[ours])
    assert set(rows) == {"parallel", "eager_init_th1.5"}
    assert {path.name: path.read_bytes() for path in recorded.iterdir()} == before


def test_a_replay_as_a_table(recorded):
    """Every combination is a row; what cannot be replayed is said, and so is what was not recorded."""
    table = run_eager("replay", recorded, "--max_sequences", "2,6", "--entropy_threshold", "1.5,2.4")
    assert table.returncode == 0, table.stderr
    assert sum(line.startswith("eager_init_th1.5 ") for line in table.stdout.splitlines()) == 4
    assert sum(line.startswith("parallel ") for line in table.stdout.splitlines()) == 2
    assert "eager_adapt_th1.5 cannot be replayed" in table.stdout
    more = run_eager("replay", recorded, "--max_sequences", "7")
    assert (more.returncode, "at most 6 sequences" in more.stderr) == (1, True)
    lower = run_eager("replay", recorded, "--entropy_threshold", "1")
    assert (lower.returncode, "no eager_init at a threshold of 1 or less" in lower.stderr) == (1, True)
    assert "holds no journal" in run_eager("replay", recorded.parent).stderr
