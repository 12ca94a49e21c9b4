"""JSON files as a stream: one prompt in memory at a time, and never more than an honest one takes.

What Python's own json writes is read, whatever the parser thinks of it: halves of surrogate pairs, numbers that are not
finite, a byte-order mark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The longest escape is a surrogate pair, \ud83d\ude00: a cut with this many bytes free of backslashes cuts none.
_ESCAPE_BYTES = 12
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
# Where a chunk may end with a part of one of these, that part waits for the next chunk.
_WORD_BYTES = len(b"-Infinity")
_WORD_PART = re.compile(rb"[-A-Za-z]{1,%d}\Z" % _WORD_BYTES)
_STRING_OR_WORD = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)|-?Infinity|NaN', re.DOTALL)
# The parser has no such numbers: it gets texts, which are turned back behind it.
_AS_TEXT = {word: b'"\\u0000%b"' % word for word in (b"NaN", b"Infinity", b"-Infinity")}
_FROM_TEXT = {"\0NaN": math.nan, "\0Infinity": math.inf, "\0-Infinity": -math.inf}

# No honest file reaches these: a prompt's object holds a list or an object a sequence and a branch.
_MOST_DEPTH = 50
_MOST_PARTS = 100_000
_STARTS = ("start_map", "start_array")
_ENDS = ("end_map", "end_array")


class NotJsonError(Exception):
    """The file cannot be read on: the message says what it is."""


class PlainJson:
    r"""A binary file for ijson: what its parser stops at is written as it knows it.

    A lone surrogate (\ud800) is read as \ufffd, NaN and Infinity as the keys of _FROM_TEXT. `has_words` says whether
    there were any of these so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._carry = b""
        self._is_begun = False
        self._is_in_string = False
        self.has_words = False

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes; b"" only at the end."""
        if size == 0:  # ijson asks for nothing once, to see whether it gets bytes
            return b""
        data = self._carry
        while True:
            chunk = self._file.read(size)
            data += chunk
            if not self._is_begun and (len(data) >= len(_BYTE_ORDER_MARK) or not chunk):
                data = data.removeprefix(_BYTE_ORDER_MARK)
                self._is_begun = True
            cut = _safe_cut(data) if chunk else len(data)
            if cut or not chunk:
                break
        self._carry = data[cut:]
        return self._plain(data[:cut])

    def _plain(self, body: bytes) -> bytes:
        if b"\\ud" in body or b"\\uD" in body:
            body = _ESCAPE.sub(_with_pairs, body)
        was_in_string = self._is_in_string
        quotes = body.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"')
        self._is_in_string ^= quotes % 2 == 1
        if b"NaN" in body or b"Infinity" in body:
            opened = b'"' * was_in_string
            body = _STRING_OR_WORD.sub(self._without_word, opened + body)[len(opened) :]
        return body

    def _without_word(self, match: re.Match[bytes]) -> bytes:
        text = _AS_TEXT.get(match[0])
        self.has_words |= text is not None
        return match[0] if text is None else text


def _safe_cut(data: bytes) -> int:
    """The last place to cut without parting an escape or a word; 0 where there is none."""
    cut = len(data)
    while cut >= _ESCAPE_BYTES + _WORD_BYTES:
        backslash = data.rfind(b"\\", cut - _ESCAPE_BYTES - _WORD_BYTES, cut)
        if backslash < 0:
            part = _WORD_PART.search(data, cut - _WORD_BYTES, cut)
            return cut if part is None else part.start()
        cut = backslash
    return 0


def _with_pairs(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]


def is_installed() -> bool:
    """Whether files can be read here at all: that takes ijson."""
    return find_spec("ijson") is not None


def items(path: Path, key: str) -> Iterator[Any]:
    """The members of the list under `key`, one at a time. Raises NotJsonError after those that could still be read."""
    is_inside, builder = False, _Builder()
    for depth, name, event, value in _events(path):
        if depth == 1 and name == key:
            is_inside = event == "start_array"
        elif is_inside:
            builder.add(event, value)
            if depth == 2 and event not in _STARTS:
                yield builder.value
                builder = _Builder()


def read_head(path: Path, list_keys: tuple[str, ...]) -> tuple[dict[str, Any], str | None]:
    """What the file says before the first of `list_keys`, and which one that is (None: none of them is there)."""
    builder = _Builder()
    for depth, name, event, value in _events(path):
        if depth == 1 and event == "start_array" and name in list_keys:
            return builder.as_dict(), name
        builder.add(event, value)
    return builder.as_dict(), None


def without(path: Path, key: str) -> dict[str, Any]:
    """All that the file says, before and after the list under `key`."""
    builder = _Builder()
    for depth, name, event, value in _events(path):
        if not (depth and name == key):
            builder.add(event, value)
    return builder.as_dict()


class _Builder:
    """A value out of its events. Raises NotJsonError where it has more parts than can be."""

    def __init__(self) -> None:
        import ijson

        self._builder = ijson.ObjectBuilder()
        self._n_parts = 0

    def add(self, event: str, value: Any) -> None:
        self._n_parts += event in _STARTS
        if self._n_parts > _MOST_PARTS:
            raise NotJsonError(f"holds more than {_MOST_PARTS:,} lists and objects in one place")
        self._builder.event(event, value)

    @property
    def value(self) -> Any:
        return self._builder.value

    def as_dict(self) -> dict[str, Any]:
        value = getattr(self._builder, "value", None)
        return value if isinstance(value, dict) else {}


def _events(path: Path) -> Iterator[tuple[int, str | None, str, Any]]:
    """Everything in the file: how deep it lies, under which key of the outermost object, what it is, its value."""
    import ijson

    depth, name = 0, None
    with path.open("rb") as file:
        source = PlainJson(file)
        try:
            for event, value in ijson.basic_parse(source, use_float=True, buf_size=CHUNK_BYTES):
                depth -= event in _ENDS
                if depth == 1 and event == "map_key":
                    name = value
                if event == "string" and source.has_words and value in _FROM_TEXT:
                    yield depth, name, "number", _FROM_TEXT[value]
                else:
                    yield depth, name, event, value
                depth += event in _STARTS
                if depth > _MOST_DEPTH:
                    raise NotJsonError(f"is nested more than {_MOST_DEPTH} deep")
        except (ijson.JSONError, ValueError, RecursionError):
            raise NotJsonError("is cut short or damaged") from None
