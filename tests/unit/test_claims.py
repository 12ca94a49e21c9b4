"""The evidence of docs/claims.md: what is run, what is kept of it, and that the pages show nothing else."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import claims
import claims_results
import claims_table
import needs
import pytest
from result_builder import grouped, record, sequence, write_journal

from eager.cli.calibrate import command as calibrate_command
from eager.cli.run import command
from eager.metrics import Score
from eager.recap import recap
from eager.results.experiment import Experiment

ROOT = Path(__file__).resolve().parents[2]
RIGHT, WRONG = ("42", True), ("41", False)


def answers(*said: tuple[str, bool], n_tokens: int = 10):
    return [sequence("a", answer, correct, n_tokens=n_tokens) for answer, correct in said]


def run_folder(folder: Path, n_prompts: int = 4) -> Path:
    """`parallel`, and an `eager_init` and an `eager_vote` that take other numbers of sequences on each prompt."""
    records = []
    for index in range(n_prompts):
        said = [RIGHT if (index + number) % 3 == 0 else WRONG for number in range(4)]
        records.append(record("parallel", index, answers(*said)))
        records.append(record("eager_init_th1.6", index, answers(*said[: 1 + index % 4], n_tokens=9)))
        records.append(record("eager_vote_th1.6", index, answers(RIGHT)[: index % 2]))
    settings = {"model_name": "/somewhere/models/tiny-bf16", "n_prompts": n_prompts}
    return write_journal(folder, [grouped(item) for item in records], **settings)


def packed(tmp_path: Path, folder: Path) -> claims_results.Packed:
    needs.package("matplotlib", "report")
    (path, *_) = claims_results.pack("gsm8k_m8", folder, into=tmp_path / "results")
    return claims_results.read("gsm8k_m8", path)


@pytest.mark.parametrize("name", ["claims.md", "choosing.md"])
def test_the_pages_show_what_is_committed(name: str) -> None:
    """Every number between the marks is computed from benchmarks/results: `claims.py table --write` was run."""
    evidence = claims_results.packed_lines(claims_results.RESULTS)
    text = {
        "claims.md": lambda: claims_table.claims(evidence, claims.LINES),
        "choosing.md": lambda: claims_table.example(evidence),
    }
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert claims_table.START in page
    assert page == claims_table.with_tables(page, text[name]())


def test_what_is_committed_is_known_and_small() -> None:
    """Every file of benchmarks/results is a line's, and under 300 kB."""
    for path in claims_results.RESULTS.iterdir():
        assert path.name.split(".")[0] in claims.LINES
        assert path.stat().st_size < 300_000, path.name


def test_packing_keeps_every_number(tmp_path: Path) -> None:
    """Scores, costs, differences and the same-token rows of the packed line are those of `eager recap`."""
    folder = run_folder(tmp_path / "run")
    line, whole = packed(tmp_path, folder), recap([folder])
    ours = claims_table.compared(line)
    for mine, theirs in zip(ours.rows, whole.rows, strict=True):
        assert mine.scores == theirs.scores
        assert mine.weighted_cons_at_k == theirs.weighted_cons_at_k
        assert (mine.n_generated, mine.n_naive) == (theirs.n_generated, theirs.n_naive)
        assert mine.saved_against_parallel == theirs.saved_against_parallel
    assert [replace(d, first="", second="") for d in ours.differences] == [
        replace(d, first="", second="") for d in whole.differences
    ]
    assert [same.differences for same in ours.same_tokens] == [same.differences for same in whole.same_tokens]


def test_packing_keeps_no_text_and_no_place(tmp_path: Path) -> None:
    """Neither the problems nor the folder of the model are in the file."""
    packed(tmp_path, run_folder(tmp_path / "run"))
    text = lzma.decompress((tmp_path / "results" / "gsm8k_m8.jsonl.xz").read_bytes()).decode()
    assert "6 times 7" not in text
    assert "somewhere" not in text
    assert json.loads(text.splitlines()[0])["settings"]["model_name"] == "tiny-bf16"


def test_an_unfinished_experiment_is_not_packed(tmp_path: Path) -> None:
    """The prompts that end first are the short ones: they alone would be no fair sample."""
    records = [record("parallel", index, answers(RIGHT)) for index in range(3)]
    records += [record("eager_init_th1.6", index, answers(RIGHT)) for index in range(2)]
    folder = write_journal(tmp_path / "run", [grouped(item) for item in records], n_prompts=3)
    assert list(packed(tmp_path, folder).experiments) == ["parallel"]


def test_what_has_no_grade_is_not_packed(tmp_path: Path) -> None:
    """Programs that nobody has run yet would count as wrong."""
    ungraded = [replace(sequence, correct=None) for sequence in answers(RIGHT, WRONG)]
    folder = write_journal(tmp_path / "run", [record("parallel", 0, ungraded)], n_prompts=1)
    with pytest.raises(SystemExit, match="without a grade"):
        claims_results.pack("humaneval_m8", folder, into=tmp_path / "results")


def test_nothing_complete_is_nothing_to_pack(tmp_path: Path) -> None:
    """It ends with a sentence."""
    folder = write_journal(tmp_path / "run", [record("parallel", 0, answers(RIGHT))], n_prompts=2)
    with pytest.raises(SystemExit, match="no complete experiment"):
        claims_results.pack("gsm8k_m8", folder, into=tmp_path / "results")


def test_the_foreseen_is_held_against_other_prompts(tmp_path: Path) -> None:
    """The prompts that were calibrated on are left out of what came."""
    line = packed(tmp_path, run_folder(tmp_path / "run", n_prompts=8))
    score = {"value": 2.0, "low": 1.0, "high": 3.0, "n_prompts": 4, "ties": 0}
    estimate = {"threshold": 1.6, "n_sequences": score, "n_tokens": {**score, "value": 27.0}, "saved": score}
    calibration = {"n_prompts": 7, "target": "saving=0.4", "recommended": estimate, "estimates": [estimate]}
    (row,) = claims_table.foreseen_rows(replace(line, calibration=calibration))
    # Prompt 7 took 4 sequences of 9 tokens.
    assert row[:2] == ("1.6", "1")
    assert row[3:5] == ("4.0 [4.0, 4.0]", "\N{MINUS SIGN}50 %")
    assert row[6:] == ("36 [36, 36]", "\N{MINUS SIGN}25 %")


def test_the_tables_of_a_whole_line(tmp_path: Path) -> None:
    """A line is there with its scores, differences, and why; what was not run is said to be so."""
    text = claims_table.claims({"gsm8k_m8": packed(tmp_path, run_folder(tmp_path / "run"))}, claims.LINES)
    assert "| `gsm8k_m8` | qwen2.5-coder-0.5b, gsm8k, M = 8, percentile none | not done yet: eager_adapt_th1.6" in text
    assert text.count("not run yet") == len(claims.LINES) - 1
    for part in ("Full Parallel at the tokens of EAGer-init", "by how often parallel answers", "Trees that have all 4"):
        assert part in text


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.1, "noise"), (0.0, 0.1, "noise")]
)
def test_a_verdict_needs_an_interval_without_zero(low: float, high: float, word: str) -> None:
    """Better and worse are said only where the interval leaves out 0."""
    assert claims_table.verdict(Score((low + high) / 2, low, high, 10)) == word


def test_tables_are_written_between_the_marks() -> None:
    """The rest of the page stays, and writing twice is writing once."""
    page = f"before\n{claims_table.START}old\n{claims_table.END}after\n"
    written = claims_table.with_tables(page, "new\n")
    assert written == f"before\n{claims_table.START}\nnew\n\n{claims_table.END}after\n"
    assert claims_table.with_tables(written, "new\n") == written


@pytest.mark.parametrize("name", claims.LINES)
def test_every_line_is_what_the_command_line_takes(name: str) -> None:
    """`eager run` knows every option and value, and the experiments have the names that are looked for."""
    line = claims.LINES[name]
    for arguments, names in zip(
        claims.commands(line, Path("m"), Path(__file__), Path("out")), line.experiments, strict=True
    ):
        assert arguments[0] == "run"
        assert command.make_context("run", arguments[1:]).params["max_sequences"] == line.max_sequences
        assert all(Experiment.parse(experiment).name == experiment for experiment in names)
    calibrate = claims.calibrate_command(line, Path("m"), Path(__file__), Path("out"))
    assert calibrate_command.make_context("calibrate", calibrate[1:]).params["limit"] == 16


@pytest.mark.parametrize("name", [name for name, line in claims.LINES.items() if line.base])
def test_a_rule_is_compared_with_the_same_prompts(name: str) -> None:
    """A line without a `parallel` of its own differs from its base in rules and the number of prompts only."""
    line = claims.LINES[name]
    base = claims.LINES[line.base]
    for what in ("model", "task", "data", "max_sequences", "max_tokens"):
        assert getattr(line, what) == getattr(base, what)
    assert f"eager_init_th{claims_table.BASE_THRESHOLD}" in base.experiments[0]


def test_the_easiest_problems_go_by_their_level() -> None:
    """Those up to the level, in the order of the file."""
    rows = [json.dumps({"problem": number, "level": level}) for number, level in enumerate((3, 1, 2, 5, 1))]
    assert [json.loads(row)["problem"] for row in claims.easiest(rows, 2)] == [1, 2, 4]


def started(monkeypatch: pytest.MonkeyPatch, out: Path) -> list[list[str]]:
    """What a slice of gsm8k_m8 starts, where nothing that is started does anything."""
    calls: list[list[str]] = []
    monkeypatch.setattr(claims, "call_until", lambda arguments, end: calls.append(arguments))
    claims.run("gsm8k_m8", Path("models"), Path("data"), out, minutes=55)
    return calls


def test_a_line_begins_with_its_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In a new folder; then its passes follow, and what is left is said."""
    assert [call[0] for call in started(monkeypatch, tmp_path)] == ["calibrate", "run", "run"]
    assert "left: parallel, eager_init_th1.6" in capsys.readouterr().out


def test_a_slice_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that is complete is not started again, nor is the calibration beside a journal."""
    first, second = claims.LINES["gsm8k_m8"].experiments
    write_journal(tmp_path / "gsm8k_m8", [record(name, 0, answers(RIGHT)) for name in first], n_prompts=1)
    (call,) = started(monkeypatch, tmp_path)
    assert call[call.index("--entropy_threshold") + 1] == "1.8,2.0"
    assert second == ["eager_init_th1.8", "eager_init_th2"]


def test_programs_are_graded_before_the_labels_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EAGer on HumanEval+ comes after `eager eval-code` has been called on what is there."""
    folder = tmp_path / "humaneval_m8"
    names = claims.LINES["humaneval_m8"].experiments[0]
    write_journal(folder, [record(name, 0, [sequence("a", None, None)]) for name in names], n_prompts=1)
    calls: list[list[str]] = []
    monkeypatch.setattr(claims, "call_until", lambda arguments, end: calls.append(arguments))
    claims.run("humaneval_m8", Path("models"), Path("data"), tmp_path, minutes=55)
    assert [call[0] for call in calls] == ["eval-code", "run"]


def test_a_slice_ends_with_the_run_saved(tmp_path: Path) -> None:
    """When the time is over the child gets one signal, and time to write."""
    saved = tmp_path / "saved"
    code = (
        "import pathlib, signal, sys, time\n"
        f"def end(*_): time.sleep(0.1); pathlib.Path({str(saved)!r}).touch(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    claims.end_saving(child)
    assert saved.exists()
    assert child.returncode == 0
