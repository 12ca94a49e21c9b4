"""What a run makes of sequences that an engine could not decode: errors, never answers."""

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from eager.cli import main
from eager.engines import scripted

CHAIN = scripted.MODELS["chain"]
TORN = 5  # the word after which the torn model knows nothing more


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs experiments of a model that breaks; the outcome, and all sequences of the journal."""
    nothing = dict.fromkeys(range(12), math.nan)
    monkeypatch.setitem(scripted.MODELS, "broken", lambda ids: nothing)
    monkeypatch.setitem(scripted.MODELS, "torn", lambda ids: nothing if ids[-1] == TORN else CHAIN(ids))
    problems = tmp_path / "problems.jsonl"
    lines = [json.dumps({"q": f"problem number {n} " * (n + 1), "a": "1"}) for n in range(6)]
    problems.write_text("\n".join(lines))

    def run(model: str, experiments: str):
        arguments = [
            "run", "--engine", "scripted", "--model_name", model, "--data_name", "mine", "--data_path", str(problems),
            "--prompt_field", "q", "--target_field", "a", "--max_sequences", "4", "--entropy_threshold", "1.5",
            "--experiments", experiments, "--output_dir", str(tmp_path / "out"),
        ]  # fmt: skip
        done = CliRunner().invoke(main, arguments)
        lines = map(json.loads, (tmp_path / "out" / "journal.jsonl").read_text().splitlines())
        return done, [s for line in lines if "record" in line for s in line["record"]["sequences"]]

    return run


def test_a_failed_sequence_is_neither_right_nor_wrong(run, tmp_path: Path):
    """It has what was decoded before, an error and no grade; the others are graded, and the scores are theirs alone."""
    done, sequences = run("torn", "parallel,eager_init")
    assert done.exit_code == 0
    failed = [s for s in sequences if s["finish_reason"] == "error"]
    others = [s for s in sequences if s["finish_reason"] != "error"]
    assert failed
    assert others
    for sequence in failed:
        assert sequence["token_ids"][-1] == TORN
        assert "tokens: the model's logits are not numbers, or infinite" in sequence["error"]
        assert (sequence["answer"], sequence["correct"], sequence["group"]) == (None, None, None)
    assert all(sequence["correct"] is not None and sequence["error"] is None for sequence in others)
    details = json.loads((tmp_path / "out" / "parallel.json").read_text())["results"]["details"]
    assert details["n_ungraded"] > 0
    assert "failed: recorded as errors, not as answers (the first: the sequence failed" in " ".join(done.output.split())


def test_a_run_of_nothing_but_failures_ends_with_the_cause(run):
    """After the first experiment: the next would do no better, and a table would hold no number."""
    done, sequences = run("broken", "parallel,eager_init")
    assert done.exit_code == 1
    assert len(sequences) == 6 * 4
    assert "every sequence of parallel failed (the first: the sequence failed after" in " ".join(done.output.split())


def test_what_comes_up_while_an_engine_works_is_told_once(run, monkeypatch):
    """Each sentence, on a line of its own."""

    def step(engine):
        engine.news = ("one thing came up", "another did")[: len(engine.news) + 1]
        return decode(engine)

    decode = scripted.ScriptedEngine.step
    monkeypatch.setattr(scripted.ScriptedEngine, "step", step)
    done, _ = run("chain", "eager_init")
    assert [line for line in done.output.splitlines() if line.endswith((" came up", " did"))] == [
        "one thing came up",
        "another did",
    ]
