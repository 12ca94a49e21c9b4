"""Standard output and error that take any text, whatever their encoding: what it lacks is written in ASCII."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

_POLICY = "eager.ascii"
_PLAIN = "eager_ascii"
_WITHOUT_TERMINAL = 160
"""Columns of what a file or another program reads: tables are not folded to the 80 of an unknown terminal."""

# What the commands themselves print; accents and the like are taken off by Unicode's own tables.
_ASCII = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u2014": "-",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u00b7": "|",
        "\u2026": "...",
        "\u2044": "/",
        "\u03b8": "theta",
        "\u00d7": "x",
        "\u27e6": "[",
        "\u27e7": "]",
        "\u2502": "|",
        "\u2500": "-",
    }
)


def take_any_text() -> None:
    """Make standard output and error write what their encoding lacks in ASCII, `?` where nothing is like it."""
    codecs.register_error(_POLICY, _in_ascii)
    codecs.register(_plain_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # neither where it is closed, nor in a notebook
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_PLAIN if is_ascii else None, errors=_POLICY)


def _plain_ascii(name: str) -> codecs.CodecInfo | None:
    """ASCII under another name: click takes a stream called ASCII for a mistake, and writes UTF-8 into it."""
    if name != _PLAIN:
        return None
    ascii_codec = codecs.lookup("ascii")
    encoder = ascii_codec.incrementalencoder
    return codecs.CodecInfo(ascii_codec.encode, ascii_codec.decode, incrementalencoder=encoder, name=_PLAIN)


def width() -> int:
    """The columns of standard output: COLUMNS, the terminal's, or plenty where it is none."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and 0 < int(asked) < 1 << 15:
        return int(asked)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _WITHOUT_TERMINAL
    except (OSError, ValueError):  # no terminal; no file at all, or a closed one
        return _WITHOUT_TERMINAL


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(map(_like, missing)), error.end


def _like(character: str) -> str:
    """What stands for a character in ASCII. A lone surrogate, a byte of a path that is no UTF-8, is like nothing."""
    plain = unicodedata.normalize("NFKD", character).translate(_ASCII).encode("ascii", "ignore").decode("ascii")
    return plain or "?"
