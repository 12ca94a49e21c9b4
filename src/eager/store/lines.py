"""One line of the journal as bytes: JSON that ends with a checksum of what comes before it.

So damage is seen, whatever byte it hits, and told from what another version wrote. Lines of earlier versions carry no
checksum.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

_NAME = "crc32"
_END = re.compile(rb',"crc32":"([0-9a-f]{8})"\}\n')
_END_BYTES = len(b',"crc32":"00000000"}\n')


class DamagedLineError(ValueError):
    """The line is not as it was written."""


def encode(content: dict[str, Any]) -> bytes:
    """The line, its newline included; `content` is not empty."""
    body = _body(content)
    return b'%b,"%b":"%b"}\n' % (body, _NAME.encode(), _checksum(body).encode())


def is_intact(line: bytes) -> bool:
    """Whether it ends with the checksum of its bytes: then it can be trusted without parsing it."""
    end = _END.fullmatch(line, max(0, len(line) - _END_BYTES))
    return end is not None and end[1].decode() == _checksum(memoryview(line)[:-_END_BYTES])


def decode(line: bytes) -> tuple[dict[str, Any], bool]:
    """The content, and whether a checksum vouches for it. Raises DamagedLineError.

    It is the values that are checked: a line that another program wrote anew, with other spaces or escapes, is whole.
    """
    try:
        content = json.loads(line)
        said = content.pop(_NAME, None) if isinstance(content, dict) else None
        is_damaged = said is not None and not is_intact(line) and said != _checksum(_body(content))
    except (ValueError, RecursionError):
        is_damaged = True
    if is_damaged or not isinstance(content, dict):
        raise DamagedLineError("not as it was written")
    return content, said is not None


def _body(content: dict[str, Any]) -> bytes:
    """All of the line that is checked: up to its closing brace."""
    return json.dumps(content, separators=(",", ":")).encode()[:-1]


def _checksum(body: bytes | memoryview) -> str:
    return f"{zlib.crc32(body):08x}"
