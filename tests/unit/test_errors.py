"""What others complain of, put into a sentence of ours."""

import pytest

from eager.errors import first_line, last_line


@pytest.mark.parametrize(
    ("said", "line"),
    [("\n  No room.\nmore", "No room"), ("", "ValueError"), (" \n", "ValueError")],
)
def test_an_error_is_its_first_line(said: str, line: str) -> None:
    """Or its type, where it says nothing."""
    assert first_line(ValueError(said)) == line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Traceback:\nValueError: no\n\n", "ValueError: no"),
        (b"caf\xe9 \x1b[31m", "caf\ufffd \u241b[31m"),
        ("x" * 1000, "x" * 299 + "\u2026"),
        ("", "it said nothing"),
        (b"\n", "it said nothing"),
    ],
)
def test_a_program_that_fails_is_quoted_with_its_last_line(said: str | bytes, line: str) -> None:
    """Short, and without what would act on a terminal."""
    assert last_line(said) == line
