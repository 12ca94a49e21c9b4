"""The numbers of a recap, and its forms: tables, JSON, CSV, .large, and the command."""

from __future__ import annotations

import ast
import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import needs
import numpy as np
import pytest
from click.testing import CliRunner
from result_builder import (
    demo_folder,
    published_prompt,
    record,
    sequence,
    write_experiment_file,
    write_journal,
    write_published,
)
from rich.console import Console

from eager.cli.recap import command
from eager.metrics import BOOTSTRAP_SEED, RESAMPLES, saved_share
from eager.recap import as_csv, as_json, folder_labels, print_comparison, recap
from eager.recap.correlation import PERCENTILES, correlations, peak_entropies
from eager.results.findings import Findings
from eager.results.large import write_large
from eager.results.scores import Regrader
from eager.words import visible

needs.package("ijson", "report")

ROOT = Path(__file__).resolve().parents[2]


def two_experiments(folder: Path) -> Path:
    """Prompt 0: parallel 1 of 2 right, 20 tokens; eager_init right, 5. Prompt 1: all wrong and a tie, 20 against 5."""
    parallel = [
        record("parallel", 0, [sequence("a", "42", True, n_tokens=10), sequence("b", "41", False, n_tokens=10)]),
        record("parallel", 1, [sequence("a", "1", False, n_tokens=10), sequence("b", "2", False, n_tokens=10)]),
    ]
    init = [
        record("eager_init", 0, [sequence("a", "42", True, n_tokens=5)]),
        record("eager_init", 1, [sequence("a", "41", False, n_tokens=5)]),
    ]
    write_experiment_file(folder, "parallel", parallel)
    write_experiment_file(folder, "eager_init", init)
    return folder


def test_scores_costs_and_ties(tmp_path: Path) -> None:
    """Every number of the two experiments, worked out by hand."""
    parallel, init = recap([two_experiments(tmp_path)]).rows
    assert parallel.scores.pass_at_k.value == 0.5
    assert parallel.scores.pass_rate.value == 0.25
    assert parallel.scores.cons_at_k.ties == 2
    assert [score.value for score in parallel.scores.pass_at_curve] == [0.25, 0.5]
    assert (parallel.n_generated, init.n_generated) == (40, 10)
    assert init.saved_against_parallel.value == 0.75
    assert (init.saved_against_parallel.low, init.saved_against_parallel.high) == (0.75, 0.75)
    assert parallel.saved_against_parallel.value is None


def test_differences_are_over_the_same_prompts(tmp_path: Path) -> None:
    """A difference is first minus second, paired by prompt; tokens are a share of the second's."""
    (difference,) = recap([two_experiments(tmp_path)]).differences
    assert (difference.first, difference.second) == ("eager_init_th2.2", "parallel")
    assert difference.pass_rate.value == 0.25
    assert difference.tokens.value == -0.75
    assert difference.pass_rate.n_prompts == 2


def test_parallel_at_the_same_number_of_tokens(tmp_path: Path) -> None:
    """One of two samples a prompt costs what eager_init used: half of parallel's Pass@k, and the paired difference."""
    folder = two_experiments(tmp_path)
    init = [
        record("eager_init", 0, [sequence("a", "42", True, n_tokens=10)]),
        record("eager_init", 1, [sequence("a", "41", False, n_tokens=10)]),
    ]
    write_experiment_file(folder, "eager_init", init)
    comparison = recap([folder])
    (same,) = comparison.same_tokens
    assert (same.n_tokens, same.n_samples) == (20, 1)
    assert same.scores["pass_at_k"].value == pytest.approx(0.25, abs=0.04)
    assert same.scores["cons_at_k"].value == same.scores["pass_rate"].value == same.scores["pass_at_k"].value
    assert same.differences["pass_at_k"].value == pytest.approx(0.5 - same.scores["pass_at_k"].value)
    assert same.differences["pass_at_k"].n_prompts == 2
    printed = io.StringIO()
    print_comparison(comparison, Console(file=printed, width=160))
    assert "parallel at the tokens of eager_init_th2.2" in printed.getvalue()
    assert "eager_init_th2.2 \u2212 parallel at its tokens" in printed.getvalue()
    assert json.loads(as_json(comparison))["same_tokens"][0]["experiment"] == "eager_init_th2.2"
    assert "eager_init_th2.2,parallel at the tokens of eager_init_th2.2,difference_pass_at_k" in as_csv(comparison)


def test_several_folders_are_one_comparison(tmp_path: Path) -> None:
    """Experiments of several folders are told apart by the folder, and all of them are paired."""
    folders = [demo_folder(tmp_path / name, n_prompts=4, seed=seed) for seed, name in enumerate(("one", "two"))]
    comparison = recap(folders)
    labels = [row.measures.label for row in comparison.rows]
    assert labels[0] == "one/parallel"
    assert labels[-1] == "two/eager_th2.2"
    assert len(comparison.differences) == 28
    assert all(difference.pass_at_k.n_prompts == 4 for difference in comparison.differences)


def test_other_prompts_are_not_paired(tmp_path: Path) -> None:
    """Prompts are matched by their text; experiments that share none have no difference, which is said."""
    write_experiment_file(tmp_path / "a", "parallel", [record("parallel", 0, [sequence("a", "1", True)], prompt="A")])
    write_experiment_file(tmp_path / "b", "parallel", [record("parallel", 0, [sequence("a", "1", True)], prompt="B")])
    comparison = recap([tmp_path / "a", tmp_path / "b"])
    assert comparison.differences[0].pass_at_k.n_prompts == 0
    assert "share no prompt" in comparison.findings.notices[-1]


def test_the_same_problem_twice_in_a_file_is_two_prompts(tmp_path: Path) -> None:
    """A text that comes again is another prompt, matched with its own occurrence elsewhere."""
    records = [record("parallel", i, [sequence("a", "1", True)], prompt="same") for i in range(3)]
    write_experiment_file(tmp_path, "parallel", records)
    assert len(recap([tmp_path]).rows[0].measures.prompts) == 3


def test_a_broken_file_beside_a_good_one_is_said_and_the_rest_reported(tmp_path: Path) -> None:
    """A file that cannot be read costs only itself."""
    two_experiments(tmp_path)
    (tmp_path / "eager_th2.2.json").write_text('{"entropy-aware-generations": [', encoding="utf-8")
    comparison = recap([tmp_path])
    assert len(comparison.rows) == 2
    assert "eager_th2.2.json" in comparison.findings.problems[0]


def test_an_interval_of_savings_comes_from_resampled_prompts() -> None:
    """The interval is that of whole prompts drawn anew, not of tokens."""
    score = saved_share([(1, 10), (9, 10)])
    assert score.value == 0.5
    assert score.low == pytest.approx(0.1)
    assert score.high == pytest.approx(0.9)
    assert saved_share([]).value is None


def test_an_interval_of_savings_is_the_plain_bootstrap_of_both_sums() -> None:
    """Used and reference tokens are summed over the same resamples, to the last digit."""
    totals = np.random.default_rng(7).integers(1, 9000, (200, 2)).astype(np.float64)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).multinomial(200, np.full(200, 1 / 200), size=RESAMPLES)
    used, reference = (drawn @ totals).T
    score = saved_share([(int(a), int(b)) for a, b in totals])
    assert (score.low, score.high) == tuple(np.percentile(1 - used / reference, [2.5, 97.5]))


def test_peaks_are_means_above_the_sequences_own_percentile() -> None:
    """Tokens that were not monitored do not count; a sequence without any has no peak."""
    peaks = peak_entropies((0.0, 1.0, 2.0, 3.0, 4.0, None))
    assert peaks[0] == 2.0
    assert peaks[PERCENTILES.index(50)] == 3.0
    assert peaks[-1] == 4.0
    assert np.isnan(peak_entropies((None, None))).all()
    assert np.isnan(peak_entropies(())).all()


def test_correlations_agree_with_scipy() -> None:
    """Pearson and Spearman are scipy's, over graded and monitored sequences."""
    stats = needs.package("scipy.stats", "report")
    x = np.array([0.1, 0.5, 0.3, 0.9])
    peaks = [np.repeat(value, len(PERCENTILES)).reshape(1, -1) for value in x]
    correct = [(True,), (False,), (True,), (False,)]
    found = correlations(peaks, correct)[0]
    assert found.pearson == pytest.approx(stats.pearsonr(x, [1, 0, 1, 0])[0])
    assert found.spearman == pytest.approx(stats.spearmanr(x, [1, 0, 1, 0])[0])
    assert found.n == 4


def test_ungraded_and_unvarying_sequences_have_no_correlation() -> None:
    """Nothing is made up where nothing is graded, or nothing varies."""
    peaks = [np.ones((2, len(PERCENTILES)))] * 2
    assert correlations(peaks, [(None, None)] * 2) == ()
    assert all(found.pearson is None for found in correlations(peaks, [(True, False)] * 2))


def test_json_and_csv_hold_the_same_numbers(tmp_path: Path) -> None:
    """Both forms for machines say what the comparison says."""
    comparison = recap([two_experiments(tmp_path)])
    data = json.loads(as_json(comparison))
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    init = data["experiments"][1]
    assert init["saved_against_parallel"]["value"] == 0.75
    values = {(line["experiment"], line["against"], line["measure"]): line["value"] for line in lines}
    assert values["eager_init_th2.2", "parallel", "saved"] == "0.75"
    assert values["parallel", "", "pass_at_2_unbiased"] == "0.5"
    assert values["eager_init_th2.2", "parallel", "difference_pass_rate"] == "0.25"


@pytest.mark.parametrize("sign", list("=+-@\uff1d\uff0b\uff0d\uff20"))
def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, sign: str) -> None:
    """A folder's name that a spreadsheet would run begins with an apostrophe; negative numbers stay numbers."""
    hostile = f"{sign}cmd|'C calc'!A1"
    comparison = recap([two_experiments(tmp_path / hostile), two_experiments(tmp_path / "-1")])
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    names = {line[column] for line in lines for column in ("experiment", "against", "measure")}
    assert f"'{hostile}/parallel" in names
    assert "'-1/parallel" in names
    assert not any(name.startswith((sign, "-")) for name in names)
    assert "-0.75" in {line["value"] for line in lines}
    for line in lines:
        for column in ("value", "low", "high", "n"):
            assert line[column] == "" or np.isfinite(float(line[column]))


def test_large_is_the_list_with_its_strings_parsed(tmp_path: Path) -> None:
    """Answers and entropies become lists; branches stay strings, as published."""
    folder = demo_folder(tmp_path / "run", n_prompts=3)
    write_large([folder], Findings())
    source = json.loads((folder / "eager_th2.2.json").read_text(encoding="utf-8"))["entropy-aware-generations"]
    large = json.loads((folder / "eager_th2.2.large").read_text(encoding="utf-8"))
    assert [entry["prompt"] for entry in large] == [entry["prompt"] for entry in source]
    assert large[-1]["entropies"][0][0] >= 0
    assert large[-1]["extracted_answers"] == ast.literal_eval(source[-1]["extracted_answers"])
    assert large[-1]["recorded_branches"] == source[-1]["recorded_branches"]


def test_large_of_a_published_file(tmp_path: Path) -> None:
    """Sentinels stay what they are, no answer is null, as the published recapper writes it."""
    prompt = published_prompt("Q?", 1, ["1", None], ["a", "b"], [[0.5, -9.0], [-1, -2.0]])
    path = write_published(tmp_path / "t", "default_results", [prompt])
    write_large([tmp_path / "t"], Findings())
    (entry,) = json.loads(path.with_suffix(".large").read_text(encoding="utf-8"))
    assert entry["entropies"] == [[0.5, -9.0], [-1, -2.0]]
    assert entry["extracted_answers"] == ["1", None]


def test_the_command_prints_tables_json_and_csv(tmp_path: Path) -> None:
    """One command, three forms."""
    folder = str(two_experiments(tmp_path))
    result = CliRunner().invoke(command, [folder])
    assert result.exit_code == 0
    assert "eager_init_th2.2" in result.output
    assert "75.0 % [75.0, 75.0]" in result.output
    assert json.loads(CliRunner().invoke(command, [folder, "--json"]).stdout)["problems"] == []
    assert CliRunner().invoke(command, [folder, "--csv"]).stdout.startswith("experiment,against,measure")


def test_exit_codes(tmp_path: Path) -> None:
    """2 for wrong usage, 1 for nothing to read or for what could not be read, with the rest reported."""
    assert CliRunner().invoke(command, []).exit_code == 2
    assert CliRunner().invoke(command, [str(tmp_path / "none")]).exit_code == 2
    empty = CliRunner().invoke(command, [str(tmp_path)])
    assert empty.exit_code == 1
    assert "holds no results" in empty.output
    two_experiments(tmp_path)
    (tmp_path / "eager_th2.2.json").write_text("{", encoding="utf-8")
    partial = CliRunner().invoke(command, [str(tmp_path)])
    assert partial.exit_code == 1
    assert "What it reached" in partial.output
    assert "eager_th2.2.json" in partial.output


def test_what_a_file_says_cannot_colour_the_terminal(tmp_path: Path) -> None:
    """Control characters of a file are shown as signs, markup as text."""
    records = [record("parallel", 0, [sequence("a", "1", True)])]
    write_experiment_file(tmp_path, "parallel", records, model="\x1b[31mred[/bold]\x00")
    output = CliRunner().invoke(command, [str(tmp_path)]).output
    assert "\x1b" not in output
    assert "\u241b[31mred[/bold]\u2400" in output


def test_the_published_script_recaps_and_writes_large(tmp_path: Path) -> None:
    """Called with its three documented arguments it finds the folder; with others it says how to call it."""
    two_experiments(tmp_path / "outputs" / "Qwen3-4B" / "AIME2025" / "t1")
    script = [sys.executable, str(ROOT / "script_manual_parallel_recapper.py")]
    done = subprocess.run(
        [*script, "Qwen/Qwen3-4B", "AIME2025", "t1"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "What it cost" in done.stdout
    assert (tmp_path / "outputs/Qwen3-4B/AIME2025/t1/parallel.large").is_file()
    assert subprocess.run(script, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_without_math_verify_strings_decide_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Math-Verify is missing normalised strings are compared, and the reason is kept for a notice."""
    from eager.grading import GradingUnavailable, MathGrader

    def unavailable(*_: object) -> bool:
        raise GradingUnavailable("no Math-Verify")

    monkeypatch.setattr(MathGrader, "equivalent", unavailable)
    regrader = Regrader(MathGrader())
    assert regrader.grade(["$5$", "6", None], "5") == [True, False, False]
    assert regrader.group(["$5$", "5", None]) == [0, 0, None]
    assert regrader.fallback == "no Math-Verify"
    with pytest.raises(GradingUnavailable, match="no Math-Verify"):
        Regrader(MathGrader(), may_fall_back=False).group(["x", "y"])


def test_folders_are_told_apart_by_as_little_as_is_needed(tmp_path: Path) -> None:
    """One folder needs no name; several get as many last path components as differ."""
    assert folder_labels([tmp_path]) == [""]
    assert folder_labels([tmp_path / "a" / "t", tmp_path / "b" / "t"]) == ["a/t", "b/t"]
    assert folder_labels([tmp_path / "a", tmp_path / "a"]) == ["a [1]", "a [2]"]
    assert folder_labels([tmp_path / "a", tmp_path / "b", tmp_path / "a"]) == ["a [1]", "b", "a [2]"]
    assert folder_labels([Path("/a/t"), Path("/t")]) == ["a/t", "/t"]


def test_what_cannot_be_seen_is_shown() -> None:
    """Control characters, direction marks and lone surrogates become visible signs."""
    shown = visible("a\x00\x1b[31m\u202eb\ud800\u200f\x9b\nc")
    assert shown == "a\u2400\u241b[31m\u27e6U+202E\u27e7b\ufffd\u27e6U+200F\u27e7\u27e6U+009B\u27e7\nc"


def test_failed_sequences_are_counted_and_said(tmp_path: Path) -> None:
    """An engine's error is no answer: the sequence is ungraded, and a notice says how many there were, and why."""
    failed = replace(sequence("", None, None), finish_reason="error", error="gone")
    write_experiment_file(tmp_path, "parallel", [record("parallel", 0, [sequence("a", "42", True), failed])])
    notices = recap([tmp_path]).findings.notices
    assert "parallel: 1 sequence failed: recorded as errors, not as answers (the first: gone)" in notices


def test_a_brief_recap_is_what_a_run_prints(tmp_path: Path) -> None:
    """Only what is complete, only cost, scores and differences, and scipy is not asked for."""
    two_experiments(tmp_path)
    write_experiment_file(tmp_path, "eager", [record("eager", 0, [sequence("a", "42", True)])], is_complete=False)
    comparison = recap([tmp_path], is_brief=True)
    assert [row.measures.label for row in comparison.rows] == ["parallel", "eager_init_th2.2"]
    assert all(row.correlations == () for row in comparison.rows)
    text = io.StringIO()
    print_comparison(comparison, Console(file=text, width=160), is_brief=True)
    assert "seconds" in text.getvalue()
    assert "12.5" in text.getvalue()
    assert "Unbiased" not in text.getvalue()


def test_both_readings_of_choices_are_reported(tmp_path: Path) -> None:
    """The score is the strict one; what would count outside a box is said beside it, from journal and file alike."""
    spoken = replace(sequence("It is B.", None, False), lenient=True)
    records = [record("parallel", 0, [sequence("a", "B", True), spoken]), record("parallel", 1, [spoken])]
    said = "parallel: read leniently, choices outside a box included: Pass@k 100.0 %, Pass rate 100.0 %"
    for folder in (write_journal(tmp_path / "journal", records, n_prompts=2), tmp_path / "file"):
        if folder.name == "file":
            write_experiment_file(folder, "parallel", records)
        comparison = recap([folder])
        assert comparison.rows[0].scores.pass_rate.value == 0.25
        assert said in comparison.findings.notices
