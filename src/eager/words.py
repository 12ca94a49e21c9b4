"""Texts of models and files made safe to look at: what cannot be seen is shown as a sign of its own."""

from __future__ import annotations

import re

MINUS = "\u2212"
DASH = "\u2013"

_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
# Marks that turn the direction of the text around them, C1 controls and invisible tags: named, not obeyed.
_INVISIBLE = re.compile("[\u0080-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with control characters, direction marks and lone surrogates replaced by visible signs."""
    text = _LONE_SURROGATE.sub("\ufffd", text.translate(_CONTROL_PICTURES))
    return _INVISIBLE.sub(lambda match: f"\u27e6U+{ord(match[0]):04X}\u27e7", text)


def one_line(text: str, limit: int = 200) -> str:
    """`text` visible, on one line, cut with an ellipsis after `limit` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def decimal(number: float, places: int = 1, signed: bool = False) -> str:
    """`number` with a real minus sign, and without one before a zero."""
    rounded = round(number, places) + 0.0
    return f"{rounded:{'+' if signed else ''}.{places}f}".replace("-", MINUS)


def count(number: int, word: str) -> str:
    """ "1 prompt", "2 prompts"."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
