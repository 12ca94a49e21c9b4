"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from filelock import FileLock


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that takes the place of `path` when the block ends well; otherwise `path` stays as it was.

    On disk before it counts. Raises OSError where the folder cannot be written.
    """
    with replacing_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        try:
            yield text
        finally:
            text.detach()  # written out, and left open


@contextmanager
def replacing_bytes(path: Path) -> Iterator[BinaryIO]:
    """`replacing`, for bytes."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already where the block ended well


def made_once(path: Path, make: Callable[[Path], None], is_whole: Callable[[Path], bool] = Path.exists) -> Path:
    """`path`, a file or a folder; where it `is_whole` not, `make(place)` makes it in a place beside it first.

    Processes that want it at once wait for the one that makes it. Raises OSError, and what `make` raises: then `path`
    is as it was.
    """
    if is_whole(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not is_whole(path):
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                made = Path(folder) / path.name
                make(made)
                if path.is_dir():
                    shutil.rmtree(path)  # what is not whole
                made.replace(path)
    return path
