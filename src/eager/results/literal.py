"""The strings inside a result file that hold Python values: read without ever running them."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

# What no honest file reaches: an answer is a line, a branch a few dozen characters.
_MAX_CHARACTERS = 4_000_000
_MAX_DEPTH = 2
_MAX_SIGNS = 10_000
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


class UnreadableError(ValueError):
    """A value that is not what it should be; the message says what it is instead."""


def parse_literal(text: str) -> Any:
    """The value of a flat repr (a list or dict of strings, numbers and None). Raises UnreadableError for anything else.

    `ast.literal_eval` runs nothing, but nesting and size can exhaust it: both are looked at first.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UnreadableError(f"{len(text)} characters long")
    skeleton = _STRING.sub("", text)
    if sum(map(skeleton.count, "([{")) > _MAX_DEPTH or skeleton.count("-") + skeleton.count("+") > _MAX_SIGNS:
        raise UnreadableError("nested")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a wrong escape in a hand-edited string is no concern
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise UnreadableError("not a Python literal") from None


def parse_answers(value: Any) -> list[str | None]:
    """`extracted_answers`: the repr of a list of strings, or the list itself; '' and None are no answer."""
    answers = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(answers, list):
        raise UnreadableError("not a list")
    if not all(answer is None or isinstance(answer, (str, int, float)) for answer in answers):
        raise UnreadableError("not a list of strings")
    return [None if answer is None else str(answer) for answer in answers]


def parse_entropies(value: Any) -> list[float]:
    """One of `entropies`: the repr of a list of floats, sentinels included, or the list itself.

    Read as JSON, which a list of floats is: twenty times faster than as Python.
    """
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
        if isinstance(numbers, list) and math.isfinite(sum(numbers)):
            return numbers
    except (ValueError, TypeError, RecursionError, OverflowError):
        pass
    raise UnreadableError("not a list of finite numbers")
