"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from filelock import FileLock

_TEMPORARY = re.compile(r"\.eager-[0-9a-f]{16}\.tmp")
_NEW_FILE = 0o666  # less the umask, which the system takes off
_STANDARD_OUTPUT = 1


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that takes the place of `path` when the block ends well; otherwise `path` stays as it was.

    On disk before it counts. A new file has the mode that the umask gives it, one that is replaced keeps its own, and a
    link goes on leading where it leads. What is no regular file (a pipe, /dev/null, standard output) is written to as
    it is. Raises OSError where that cannot be written.
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
    old = _status(path)
    if old is not None and not _can_be_replaced(path, old):
        with _opened_as_it_is(path, old) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    _remove_leftovers(target.parent)
    with _temporary(target.parent) as (file, temporary):
        if old is not None:
            with suppress(PermissionError):  # another's file, in a folder that is ours as well
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
        yield file
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, target)
    sync_folder(target.parent)


def copy_file(path: Path, copy: Path) -> None:
    """Have `copy` hold what `path` holds. Raises OSError."""
    with path.open("rb") as source, replacing_bytes(copy) as file:
        shutil.copyfileobj(source, file)


def is_replaced(path: Path) -> bool:
    """Whether `replacing` puts a file there; False where it writes into what is no regular file."""
    old = _status(path)
    return old is None or _can_be_replaced(path, old)


def sync_folder(folder: Path) -> None:
    """Have the folder's entries on disk, where its file system can be asked for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _status(path: Path) -> os.stat_result | None:
    """Of what a path leads to; None where there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _can_be_replaced(path: Path, old: os.stat_result) -> bool:
    """Only a regular file can, and not the one that standard output goes to: that is held open."""
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return stat.S_ISREG(old.st_mode) and not _is_standard_output(old)


def _is_standard_output(status: os.stat_result) -> bool:
    with suppress(OSError):  # it may be closed
        return os.path.samestat(status, os.fstat(_STANDARD_OUTPUT))
    return False


def _opened_as_it_is(path: Path, old: os.stat_result) -> BinaryIO:
    if _is_standard_output(old):  # opened anew, it would be written from its beginning
        return os.fdopen(os.dup(_STANDARD_OUTPUT), "wb")
    return path.open("wb")


# -- temporary files: each is locked by its writer for as long as that lives -----------------------------------------


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new locked file; it is gone at the end, if only because it has another name by then."""
    file, path = _locked_file(folder)
    try:
        with file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _locked_file(folder: Path) -> tuple[BinaryIO, Path]:
    while True:
        path = folder / f".eager-{secrets.token_hex(8)}.tmp"
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _NEW_FILE), "wb")
        with suppress(OSError):  # where the file system has no locks, leftovers stay
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return file, path
        file.close()  # taken for a leftover, in the moment before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Clear away what writers left that were killed: nobody holds a lock on it any more."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                _remove_if_left(Path(entry.path))


def _remove_if_left(path: Path) -> None:
    with suppress(OSError), path.open("rb+") as file:  # locked by its writer, or another's
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)


# -- what is made once -----------------------------------------------------------------------------------------------


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
            prefix = f".{path.name}."
            for left in path.parent.glob(f"{glob.escape(prefix)}????????"):  # whoever made it there died
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
                made = Path(folder) / path.name
                make(made)
                if path.is_dir():
                    shutil.rmtree(path)  # what is not whole
                made.replace(path)
    return path
