"""Files of a model, whatever is in them: whole or not, the same as before or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from eager.engines.base import EngineError
from eager.words import count, one_line

_POINTER = b"version https://git-lfs"
_N_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


def local(name: str) -> Path:
    """The path that a name given by the user stands for; nothing need be there, and a home need not exist."""
    return Path(os.path.expanduser(name))  # Path's own raises where a home is not known


def check_no_pointer(path: Path, head: bytes) -> None:
    """Raises EngineError where `head` is what git keeps in place of a large file."""
    if head.startswith(_POINTER):
        raise EngineError(
            f"'{one_line(str(path))}' is only a pointer of git LFS to the file: run git lfs pull in its folder, "
            "or fetch the file itself"
        )


def cut_short(path: Path, n_bytes: int, n_needed: int | None) -> EngineError:
    """The sentence about a file that ends too early; `n_needed` None where it no longer says how long it should be."""
    missing = "ends too early" if n_needed is None else f"has {n_bytes:,} of {count(n_needed, 'byte')}"
    return EngineError(f"'{one_line(str(path))}' {missing}: its download stopped half-way, so fetch it again")


def fingerprint(files: Iterable[Path]) -> str:
    """A short hash of the files' names, sizes and 64 pieces of each, so that it costs little for any size.

    Weights trained or quantized otherwise differ almost everywhere: what is replaced is seen, a flipped bit is not.
    Raises EngineError where a file cannot be read.
    """
    found = hashlib.sha256()
    path = None
    try:
        for path in sorted(files):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                found.update(f"{os.fsencode(path.name)!r} {size}\n".encode())
                for start in _starts(size):
                    file.seek(start)
                    found.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise EngineError(f"'{one_line(str(path))}' cannot be read ({error.strerror}): mend that") from None
    return found.hexdigest()[:16]


def _starts(size: int) -> range | list[int]:
    """Where the pieces begin: all of a small file; of a large one spread evenly, its beginning and end among them."""
    if size <= _N_SAMPLES * _SAMPLE_BYTES:
        return range(0, size, _SAMPLE_BYTES)
    return [i * (size - _SAMPLE_BYTES) // (_N_SAMPLES - 1) for i in range(_N_SAMPLES)]
