"""The entry point `python -m src.main_vllm`."""

import re
import subprocess
import sys
from pathlib import Path

from src.main_vllm import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]


def main_vllm(*arguments):
    command = [sys.executable, "-m", "src.main_vllm", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_its_help_shows_its_own_defaults():
    """What is not given is as in the published code, and the help says so; every one of these is an option of a run."""
    shown = main_vllm("--help")
    assert shown.returncode == 0, shown.stderr
    for name, value in PUBLISHED.items():
        assert re.search(rf"--{name} .*?\[default:\s+{value}\]", shown.stdout, re.DOTALL), name


def test_what_is_given_goes_before_its_defaults(tmp_path):
    """--engine scripted runs the scripted engine, on the bare problems of a file."""
    data = tmp_path / "rows.jsonl"
    data.write_text('{"q": "how many?"}\n')
    arguments = ["--engine", "scripted", "--model_name", "chain", "--data_name", "mine", "--data_path", str(data)]
    arguments += ["--prompt_field", "q", "--experiments", "parallel", "--max_sequences", "2"]
    done = main_vllm(*arguments, "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[0]
    assert '"engine":"scripted"' in settings
    assert '"instruction":""' in settings
    assert '"threshold_percentile":99.0' in settings


def test_an_engine_that_is_missing_is_one_sentence(tmp_path):
    """`pip install -e .` and the documented command: what to install, before any data is asked for."""
    blocked = f"import sys; sys.modules['vllm'] = None; sys.path.insert(0, {str(ROOT)!r}); import runpy"
    argv = ["main_vllm", "--model_name", "Qwen/Qwen3-4B", "--data_name", "opencompass/AIME2025"]
    code = f"{blocked}; sys.argv = {argv!r}; runpy.run_module('src.main_vllm', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: engine 'vllm' is not installed: pip install 'eager-gen[vllm]'"
