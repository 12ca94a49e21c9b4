"""Finished trees as lines of JSON and in a notebook; progress; and what `import eager` costs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings, strategies as st
from test_api import grow
from test_branching import trees

import eager
import eager.api
from eager.engines.scripted import ScriptedEngine

# -- lines of JSON ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), trees, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_tree_comes_back_from_its_line(seed, config, record_all):
    """To the last digit, after the second stage, too; and no token is in the line twice."""
    rules = {name: value for name, value in config.items() if name != "max_length"}
    made = grow(seed, rules=rules, record_all=record_all)
    for tree in made + eager.allocate(made, engine=ScriptedEngine(script=lambda ids: {0: 0.5, 1: 0.5})):
        line = eager.to_json(tree)
        assert "\n" not in line
        assert eager.from_json(line) == tree
        assert sum(len(sequence["token_ids"]) for sequence in json.loads(line)["sequences"]) == tree.n_tokens


def a_line(**changes: object) -> str:
    """A good line but for what is changed of its second sequence."""
    (tree, _) = grow(5, rules={"entropy_threshold": 1.0})
    line = json.loads(eager.to_json(tree))
    line["sequences"][1].update(changes)
    return json.dumps(line)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{}",
        '{"eager_tree": 2}',
        a_line(parent=1),
        a_line(parent=-1),
        a_line(fork=10**6),
        a_line(parent=None, fork=1),
        a_line(token_ids=["1"], entropies=[1], logprobs=[1], forced=[True]),
        "[" * 10**5,
        a_line(logprobs=[]),
        a_line(token_ids=None),
        a_line(more=1),
        a_line().replace('"max_sequences": 6', '"max_sequences": 0'),
    ],
)
def test_what_is_no_such_line_is_refused_in_a_sentence(line):
    """Whatever is wrong with it."""
    with pytest.raises(eager.ApiError, match="this line is no tree that to_json wrote"):
        eager.from_json(line)


# -- in a notebook ----------------------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """The tags of a piece of HTML, each closed, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"open", "style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


HOSTILE = "</div><script>alert(1)</script><img src=x onerror='x'> \u202e &lt; \x1b[31m"


def test_a_notebook_shows_what_models_write_and_obeys_none_of_it():
    """Tags are text, control characters and direction marks are signs; so are an engine's errors and the prompt."""
    (tree, _) = grow(5)
    first = replace(tree.sequences[0], text=HOSTILE, error=HOSTILE, finish_reason="error")
    tree = replace(tree, prompt_text=HOSTILE, sequences=(first, *tree.sequences[1:]))
    seen = Seen(tree._repr_html_())
    assert set(seen.tags) <= {"div", "b", "details", "summary"}
    assert not seen.open
    assert seen.text.count("<script>alert(1)</script>") == 3
    assert not set(seen.text) & {"\u202e", "\x1b"}


def test_a_notebook_shows_where_every_sequence_came_from():
    """And its own text alone."""
    (tree, _) = grow(5, rules={"entropy_threshold": 1.0})
    seen = Seen(tree._repr_html_())
    assert f"Tree of prompt 0: {len(tree.sequences)} sequences, {len(tree.branches)} branches" in seen.text
    for branch in tree.branches:
        title = f"{branch.new_seq} from {branch.seq} at token {branch.position}, entropy {branch.entropy:.2f}"
        assert title in seen.text
    child = tree.sequences[-1]
    assert child.text not in seen.text
    assert "of its own · " in seen.text


def test_long_texts_and_many_sequences_are_cut():
    """A notebook is saved with what it shows; beginning and end stay, and what is missing is told."""
    (tree, _) = grow(5)
    long = replace(tree.sequences[0], text="first" + 10**6 * "x" + "last", parent=None)
    html = replace(tree, sequences=(long,) * 1000)._repr_html_()
    assert len(html) < 300_000
    seen = Seen(html)
    assert "first" in seen.text
    assert "last" in seen.text
    assert "998,009 characters" in seen.text
    assert "and 936 more" in seen.text


def test_a_tree_is_a_line_where_it_is_printed():
    """Not its thousands of tokens."""
    (tree, _) = grow(5)
    assert max(map(len, map(repr, (tree, *tree.sequences)))) < 160
    assert "\x1b" not in repr(replace(tree.sequences[0], text=HOSTILE))


# -- progress ---------------------------------------------------------------------------------------------------------


def test_who_asks_is_told_of_every_step():
    """With counts that only grow."""
    told = []
    grow(5, progress=lambda progress: told.append((progress.trees_done, progress.n_tokens)))
    assert len(told) > 5
    assert told == sorted(told)
    assert told[-1][0] == 2


def test_a_terminal_gets_a_line_that_goes_away(monkeypatch):
    """A file gets nothing."""
    for is_terminal in (True, False):
        written = io.StringIO()
        written.isatty = lambda is_terminal=is_terminal: is_terminal
        monkeypatch.setattr("sys.stderr", written)
        grow(5, progress=True)
        lines = written.getvalue().split("\r")
        assert ("2/2 trees, 0 sequences open" in written.getvalue()) == is_terminal
        assert (lines[-2:] == [" " * 78, ""]) == is_terminal


def test_a_notebook_gets_a_bar_in_one_place(monkeypatch):
    """One output, replaced."""
    shown = []

    def display(data, *, raw, display_id):
        assert raw
        assert display_id
        return SimpleNamespace(update=lambda data, raw: shown.append(data["text/html"]))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    grow(5, progress=True)
    assert shown[-1].startswith("<progress value='2' max='2'></progress> 2/2 trees")


# -- the package ------------------------------------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """The packages beyond Python's own that a fresh interpreter has loaded after the code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {name for name in found if not name.startswith("_")}


def test_importing_takes_nothing_and_using_it_numpy():
    """A tree grows on engine scripted without one of the libraries that only commands and real engines need."""
    assert loaded_by("import eager") == {"eager"}
    grow_one = (
        "import eager; rules = eager.BranchingParams(2, 1.5);"
        "eager.vote(*eager.generate(['a'], engine='scripted', model_name='chain', branching=rules, max_tokens=9))"
    )
    assert loaded_by(grow_one) == {"eager", "numpy", "filelock"}


def test_the_package_has_the_names_that_it_tells():
    """Every one of them, whatever else was imported before; no other."""
    assert eager.__all__ == eager.api.__all__
    assert set(eager.__all__) <= set(dir(eager))
    for name in eager.__all__:
        assert getattr(eager, name) is getattr(eager.api, name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        eager.nothing  # noqa: B018 - the access is what is tried
