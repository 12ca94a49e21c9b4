"""Every example runs as it is, on the scripted engine; the snippets of docs/python.md and README.md, too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import eager

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
# What each has printed by its end.
SAYS = {
    "adaptive_answers": r"sequences used\n.*; right is 42\n$",
    "export_for_training": r"2/\d: \d+ tokens, log p = -\d.*without shared prefixes\n$",
    "stream_events": r"forks at token \d+, entropy.*ends \(stop\).*whole, \d sequences for \d+ tokens\n$",
}


def test_every_example_is_tried():
    """A new one says what it prints."""
    assert {path.stem for path in EXAMPLES} == set(SAYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    """To its end, and prints what it is about."""
    arguments = ["out.jsonl"] if path.stem == "export_for_training" else []
    command = [sys.executable, str(path), *arguments, "scripted", "chain"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(SAYS[path.stem], done.stdout, re.DOTALL), done.stdout


def test_the_pages_snippets_run(tmp_path, monkeypatch):
    """In their order, in one Python, with the embedded model replaced by the scripted one."""
    snippets = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(snippets) > 4
    code = "\n".join(snippets).replace('"llama_cpp", "demo"', '"scripted", "chain"')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/python.md", "exec"), {})


def test_the_readmes_snippet_runs():
    """As it is, with the embedded model replaced by the scripted one."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(snippet.replace('"llama_cpp", "demo"', '"scripted", "chain"'), "README.md", "exec"), {})


def test_the_page_tells_of_every_name():
    """All that `import eager` has."""
    told = set(re.findall(r"`(?:eager\.)?(\w+)", PAGE))
    assert set(eager.__all__) <= told
