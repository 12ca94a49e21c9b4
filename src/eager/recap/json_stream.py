"""Result files as a stream: one prompt in memory at a time, and the exact place of what is not JSON in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 18
_SMALL_CHUNK_BYTES = 1 << 14
# The longest escape is a surrogate pair, \ud83d\ude00: a cut with this many bytes free of backslashes cuts none.
_ESCAPE_BYTES = 12
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class NotJsonError(Exception):
    """The file stops being JSON; `place` says where."""

    def __init__(self, place: Place) -> None:
        super().__init__(str(place))
        self.place = place


@dataclass(frozen=True, slots=True)
class Place:
    """A byte of a file, counted from 0, and its line, counted from 1; `at_end`: the file just stops there."""

    line: int
    byte: int
    at_end: bool

    def __str__(self) -> str:
        return f"line {self.line}, byte {self.byte}"


class PairedSurrogates:
    r"""A binary file for ijson, in which every lone surrogate (\ud800) is read as \ufffd.

    Python's json writes them, ijson's parser stops at them. The replacement is as long, so bytes keep their places.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._carry = b""

    def read(self, size: int = -1) -> bytes:
        """About `size` bytes; b"" only at the end."""
        if size == 0:  # ijson asks for nothing once, to see whether it gets bytes
            return b""
        data = self._carry
        while True:
            chunk = self._file.read(size)
            data += chunk
            cut = _safe_cut(data) if chunk else len(data)
            if cut or not chunk:
                break
        self._carry = data[cut:]
        body = data[:cut]
        return _ESCAPE.sub(_replaced, body) if b"\\ud" in body or b"\\uD" in body else body


def _safe_cut(data: bytes) -> int:
    """The last place to cut without parting an escape; 0 where there is none."""
    cut = len(data)
    while cut >= _ESCAPE_BYTES:
        backslash = data.rfind(b"\\", cut - _ESCAPE_BYTES, cut)
        if backslash < 0:
            return cut
        cut = backslash
    return 0


def _replaced(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]


def items(path: Path, prefix: str) -> Iterator[Any]:
    """The values at an ijson `prefix`, one at a time. Raises NotJsonError after those that could still be read."""
    import ijson

    with path.open("rb") as file:
        try:
            yield from ijson.items(PairedSurrogates(file), prefix, use_float=True, buf_size=CHUNK_BYTES)
        except (ijson.JSONError, UnicodeDecodeError):
            raise NotJsonError(find_place(path)) from None


def read_head(path: Path, list_keys: tuple[str, ...]) -> tuple[dict[str, Any], str | None]:
    """What the file says before the first of `list_keys`, and which one that is (None: none of them is there)."""
    import ijson

    builder = ijson.ObjectBuilder()
    with path.open("rb") as file:
        try:
            for prefix, event, value in ijson.parse(PairedSurrogates(file), use_float=True, buf_size=CHUNK_BYTES):
                if event == "start_array" and prefix in list_keys:
                    return _as_dict(builder), prefix
                builder.event(event, value)
        except (ijson.JSONError, UnicodeDecodeError):
            raise NotJsonError(find_place(path)) from None
    return _as_dict(builder), None


def _as_dict(builder: Any) -> dict[str, Any]:
    value = getattr(builder, "value", None)
    return value if isinstance(value, dict) else {}


def find_place(path: Path) -> Place:
    """Where `path` stops being JSON. Reads it up to there, again: twice in chunks, the last chunk byte by byte."""
    chunk_start = _first_bad_chunk(path)
    if chunk_start is None:
        size = path.stat().st_size
        return Place(_line_of(path, size), size, at_end=True)
    byte = _first_bad_byte(path, chunk_start)
    return Place(_line_of(path, byte), byte, at_end=False)


def _first_bad_chunk(path: Path) -> int | None:
    parser, offset = _checker(), 0
    with path.open("rb") as file:
        source = PairedSurrogates(file)
        while chunk := source.read(_SMALL_CHUNK_BYTES):
            if not _accepts(parser, chunk):
                return offset
            offset += len(chunk)
    return None


def _first_bad_byte(path: Path, chunk_start: int) -> int:
    parser, offset = _checker(), 0
    with path.open("rb") as file:
        source = PairedSurrogates(file)
        while chunk := source.read(_SMALL_CHUNK_BYTES):
            if offset >= chunk_start:
                bad = (i for i in range(len(chunk)) if not _accepts(parser, chunk[i : i + 1]))
                return offset + next(bad, 0)
            _accepts(parser, chunk)
            offset += len(chunk)
    return offset


def _checker() -> Any:
    import ijson
    from ijson.utils import coroutine

    def ignore() -> Any:
        while True:
            yield

    return ijson.basic_parse_coro(coroutine(ignore)(), use_float=True)


def _accepts(parser: Any, data: bytes) -> bool:
    import ijson

    try:
        parser.send(data)
    except (ijson.JSONError, UnicodeDecodeError):
        return False
    return True


def _line_of(path: Path, byte: int) -> int:
    line, left = 1, byte
    with path.open("rb") as file:
        while left and (chunk := file.read(min(left, CHUNK_BYTES))):
            line += chunk.count(b"\n")
            left -= len(chunk)
    return line
