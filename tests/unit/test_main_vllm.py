"""The entry point `python -m src.main_vllm`."""

import subprocess
import sys
from pathlib import Path

from src.main_vllm import with_engine

ROOT = Path(__file__).resolve().parents[2]


def test_main_vllm_means_engine_vllm_unless_told_otherwise():
    """--engine in either form is left as it is; otherwise vllm is chosen."""
    assert with_engine(["--seed", "5"]) == ["run", "--engine", "vllm", "--seed", "5"]
    assert with_engine(["--engine", "scripted"]) == ["run", "--engine", "scripted"]
    assert with_engine(["--engine=scripted"]) == ["run", "--engine=scripted"]


def test_main_vllm_runs_as_a_module_from_the_root():
    """`python -m src.main_vllm --help` shows the options of a run."""
    command = [sys.executable, "-m", "src.main_vllm", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "--gpu_memory_utilization" in shown.stdout
