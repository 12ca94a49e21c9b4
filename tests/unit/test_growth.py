"""benchmarks/growth.py, which docs/scale.md's table is made with, measures what it says."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "growth.py"


def test_every_part_of_a_run_is_told_apart(tmp_path):
    """The engine's time and each of the driver's; the run is whole, and read again."""
    spec = importlib.util.spec_from_file_location("growth", SCRIPT)
    growth = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(growth)
    growth.write_problems(tmp_path / "problems.jsonl", 5)
    found = {part: growth.measured(part, tmp_path, 5, 4) for part in growth.PARTS}
    assert set(found["run"]["seconds"]) == {"engine", "trees", "journal", "texts and grades", "scores", "result file"}
    assert all(seconds > 0 for seconds in found["run"]["seconds"].values())
    assert 5 < found["run"]["n_sequences"] <= 20
    assert found["open"]["n"] == 5
    assert found["recap"]["n"] == 1
