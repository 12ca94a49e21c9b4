"""Tables at every width: no number and no name is ever cut."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from eager.cli.eval_code import _table
from eager.code_eval.folder import Outcome
from eager.metrics import GradedPrompt, summarise
from eager.recap.grid import Grid, print_wrapped

HEADERS = ("experiment", "tokens", "saved against parallel", "why they failed")
ROWS = (
    ("parallel", "1,234,567", "–", ""),
    ("eager_adapt_th1.2", "182", "−1.1 % [−53.7, 66.7]", "12 timeout, 3 wrong answer"),
    ("2025-10-01_12-00-01/eager_th2.25", "9", "+100.0 % [+66.7, +100.0]", "1 error"),
)


def printed(width: int, rows: tuple[tuple[str, ...], ...] = ROWS) -> str:
    """What a console of this width gets."""
    text = io.StringIO()
    grid = Grid("A title of a few words", HEADERS, texts=frozenset({0, 3}), rows=list(rows))
    grid.print_on(Console(file=text, width=width, height=25, highlight=False))
    return text.getvalue()


def words(text: str) -> list[str]:
    return re.findall(r"[^\s/_:,\[\]]+", text)


@pytest.mark.parametrize("width", [1, 8, 20, 30, 40, 50, 60, 80, 100, 160])
def test_every_number_is_whole_at_every_width(width: int) -> None:
    """Each word of each cell is there, unbroken, and nothing is an ellipsis."""
    found = words(printed(width))
    for row in ROWS:
        for cell in row:
            assert set(words(cell)) <= set(found), (cell, width)
    assert "…" not in printed(width)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 160])
def test_lines_keep_to_the_width(width: int) -> None:
    """Where no single word is longer than a line, no line is."""
    rows = tuple(row for row in ROWS if "/" not in row[0])
    assert max(map(len, printed(width, rows).splitlines())) <= width


def test_a_table_that_fits_is_one_and_a_narrow_one_is_stacked() -> None:
    """Wide: a line a row. Narrow: a block a row, a line a number, empty cells left out."""
    assert re.search(r"^eager_adapt_th1\.2 +182 +−1\.1 % \[−53\.7, 66\.7\]", printed(160), re.MULTILINE)
    assert "parallel\n  tokens: 1,234,567\n  saved against parallel: –\neager" in printed(40)


def test_an_interval_goes_below_its_number_before_anything_is_stacked() -> None:
    """Between the two a table whose intervals stand on a line of their own."""
    lines = printed(65).splitlines()
    (row,) = (number for number, line in enumerate(lines) if line.startswith("eager_adapt_") and "182" in line)
    assert "−1.1 %" in lines[row]
    assert "[−53.7, 66.7]" in lines[row + 1]


def test_a_folders_name_is_no_markup() -> None:
    """Brackets are printed, in table and block."""
    rows = (("[bold]x[/bold]", "1", "–", ""),)
    assert "[bold]x[/bold]" in printed(160, rows)
    assert "[bold]x[/bold]" in printed(20, rows)


@given(
    st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))] * 4)),
    st.integers(1, 200),
)
def test_no_text_and_no_width_is_an_error(rows: list[tuple[str, ...]], width: int) -> None:
    """Whatever stands in the cells, something is printed."""
    assert printed(width, tuple(rows))


def test_a_long_line_is_broken_at_spaces_only() -> None:
    """A path longer than the terminal stays in one piece, to be copied."""
    text = io.StringIO()
    print_wrapped(Console(file=text, width=10, height=25), "note: '/a/very/long/path' cannot be read")
    assert "'/a/very/long/path'" in text.getvalue().splitlines()


def test_the_table_of_eval_code_is_one_of_these(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 40 columns it has every count of every experiment, and why samples failed."""
    monkeypatch.setenv("COLUMNS", "40")
    scores = summarise([GradedPrompt(correct=(True, False), groups=(0, 1))] * 2)
    reasons = Counter({"timeout": 12, "wrong answer": 3})
    _table([Outcome(Path("run/eager_adapt_th1.25.json"), scores, 1234567, 23, 45, reasons)], {Path("run"): ""})
    shown = capsys.readouterr().out
    assert set(words("eager adapt th1.25 1,234,567 23 45 12 timeout 3 wrong answer 0.500 1.000")) <= set(words(shown))
    assert max(map(len, shown.splitlines())) <= 40
