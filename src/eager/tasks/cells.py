"""Cells of any type as text. Rows are untrusted: what is neither text nor number is a TaskError, never its repr."""

from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from eager.tasks.base import Row, TaskError
from eager.words import one_line

# What writers of nan leave in a file of texts is no answer either: a target that no answer equals.
_MISSING = ("", "nan", "NaN")
_SCALARS = (str, bool, int, float, Decimal, date, time, timedelta, np.generic)
_MOST_DIGITS = 1000


def as_text(value: object) -> str | None:
    """A cell as text: 25, 25.0, b"25" and " 25 " are all "25"; None, nan and an empty cell are None.

    Raises ValueError, saying what the cell holds, where that is neither a text nor a number.
    """
    text = as_it_stands(value)
    return None if text is None or text.strip() in _MISSING else text.strip()


def as_it_stands(value: object) -> str | None:
    """A cell as text with its spaces; None where there is no value. Raises ValueError as `as_text` does."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("bytes that are no UTF-8 text") from None
    if value is None or (isinstance(value, _SCALARS) and value != value):  # nan, NaT
        return None
    if isinstance(value, np.floating):
        value = Decimal(str(value))  # the fewest digits that are this number in its own precision
    if isinstance(value, float | Decimal):
        return _number(Decimal(repr(value)) if isinstance(value, float) else value)
    if not isinstance(value, _SCALARS):
        raise ValueError(f"a value of the kind {type(value).__name__}")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half a character (a lone surrogate)")
    return text


def _number(number: Decimal) -> str:
    """All its digits, without an exponent and without zeros at the end."""
    if not number.is_finite():
        raise ValueError("an infinite number")
    if number and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError(f"a number of more than {_MOST_DIGITS:,} digits")
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if not number else text


def optional(row: Row, column: str, index: int, read: Callable[[object], str | None] = as_text) -> str | None:
    """The text in `column`, None where it is empty; TaskError where there is something else."""
    try:
        return read(row[column])
    except ValueError as error:
        raise TaskError(
            f"row {index + 1} has {error} in column '{one_line(column)}', where a text or a number belongs: correct it"
        ) from None


def required(row: Row, column: str, index: int, read: Callable[[object], str | None] = as_text) -> str:
    """The text in `column`; TaskError where it is empty."""
    text = optional(row, column, index, read)
    if text is None or not text.strip():
        raise TaskError(f"row {index + 1} has nothing in column '{one_line(column)}': fill it or take the row out")
    return text


def noted(row: Row, *columns: str) -> dict[str, Any]:
    """What a problem's `meta` keeps of these columns, where they are there: texts and whole numbers as they are."""
    found = {name: row.get(name) for name in columns}
    kept = {name: value if isinstance(value, str | int) else _as_note(value) for name, value in found.items()}
    return {name: value for name, value in kept.items() if value is not None}


def _as_note(value: object) -> str | None:
    try:
        return as_text(value)
    except ValueError:
        return one_line(str(value))
