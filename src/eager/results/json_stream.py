"""JSON files as a stream: one prompt in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 18
# The longest escape is a surrogate pair, \ud83d\ude00: a cut with this many bytes free of backslashes cuts none.
_ESCAPE_BYTES = 12
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class NotJsonError(Exception):
    """The file is cut short or damaged."""


class PairedSurrogates:
    r"""A binary file for ijson, in which every lone surrogate (\ud800) is read as \ufffd.

    Python's json writes them, ijson's parser stops at them.
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


def is_installed() -> bool:
    """Whether files can be read here at all: that takes ijson."""
    return find_spec("ijson") is not None


def items(path: Path, key: str) -> Iterator[Any]:
    """The members of the list under `key`, one at a time. Raises NotJsonError after those that could still be read."""
    import ijson

    with path.open("rb") as file:
        try:
            yield from ijson.items(PairedSurrogates(file), f"{key}.item", use_float=True, buf_size=CHUNK_BYTES)
        except (ijson.JSONError, UnicodeDecodeError):
            raise NotJsonError from None


def read_head(path: Path, list_keys: tuple[str, ...]) -> tuple[dict[str, Any], str | None]:
    """What the file says before the first of `list_keys`, and which one that is (None: none of them is there)."""
    import ijson

    builder = ijson.ObjectBuilder()
    for prefix, event, value in _events(path):
        if event == "start_array" and prefix in list_keys:
            return _as_dict(builder), prefix
        builder.event(event, value)
    return _as_dict(builder), None


def without(path: Path, key: str) -> dict[str, Any]:
    """All that the file says, before and after the list under `key`."""
    import ijson

    builder = ijson.ObjectBuilder()
    for prefix, event, value in _events(path):
        is_in_list = prefix == key or prefix.startswith(f"{key}.")
        if not is_in_list and not (prefix == "" and event == "map_key" and value == key):
            builder.event(event, value)
    return _as_dict(builder)


def _events(path: Path) -> Iterator[tuple[str, str, Any]]:
    import ijson

    with path.open("rb") as file:
        try:
            yield from ijson.parse(PairedSurrogates(file), use_float=True, buf_size=CHUNK_BYTES)
        except (ijson.JSONError, UnicodeDecodeError):
            raise NotJsonError from None


def _as_dict(builder: Any) -> dict[str, Any]:
    value = getattr(builder, "value", None)
    return value if isinstance(value, dict) else {}
