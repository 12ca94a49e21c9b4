"""A test run says in one last line what was skipped for want of what."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SKIPPING = """
import needs, pytest
@pytest.mark.parametrize("n", [1, 2])
def test_two(n):
    needs.program("no-such-program", "package")
def test_one():
    needs.package("no_such_module", "extra")
def test_none():
    pass
"""


def last_line(folder: Path, source: str) -> str:
    (folder / "test_it.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_the_last_line_names_what_is_missing_and_its_command(tmp_path):
    """The most frequent first; the command that brings it beside each."""
    assert last_line(tmp_path, SKIPPING) == (
        "skipped: 2 x package is missing: apt-get install package;"
        " 1 x no_such_module is missing: pip install 'eager-gen[extra]'"
    )


def test_nothing_skipped_says_nothing(tmp_path):
    """The last line is pytest's own."""
    assert last_line(tmp_path, "def test_none(): pass").startswith("1 passed")


def test_every_missing_module_has_a_reason_of_ours():
    """pytest's own reason names no command."""
    bare = re.compile(r"importorskip\(\s*\"[\w.]+\"\s*\)")
    assert [path.name for path in TESTS.rglob("*.py") if bare.search(path.read_text(encoding="utf-8"))] == []
