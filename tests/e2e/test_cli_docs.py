"""The command line's page, and what a newcomer types first."""

import runpy
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from eager.cli import main
from eager.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_about_the_command_line_is_fresh():
    """docs/cli.md is what `make docs` would write now."""
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["page"]()
    assert made == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run `make docs`"


def test_tasks_and_engines_are_listed():
    """Both lists name all there is, and a task's source; with nothing missing there is no advice."""
    tasks = CliRunner().invoke(main, ["tasks"])
    engines = CliRunner().invoke(main, ["engines"])
    assert tasks.exit_code == engines.exit_code == 0
    assert all(
        name in tasks.output for name in ("demo", "openai/gsm8k", "fingertap/GPQA-Diamond", "evalplus/humanevalplus")
    )
    assert all(task.citation in tasks.output for task in TASKS.values())
    assert all(name in engines.output for name in ("llama_cpp", "vllm", "scripted"))


def test_the_published_entry_point_works_from_the_root():
    """`python -m src.main_vllm` is `eager run` with engine vllm unless another is named."""
    done = subprocess.run(
        [sys.executable, "-m", "src.main_vllm", "--engine", "nope", "--model_name", "x", "--data_name", "demo"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown engine 'nope': choose from" in done.stderr
    assert "Traceback" not in done.stderr
