"""This machine: its processor, for what is built or tried once on each kind, and where such things are kept."""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eager.errors import EagerError

NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
"""Compiler flags (x86-64) for llama.cpp: with gcc 12 its AMX code ends in an illegal instruction."""


class NoCacheError(EagerError):
    """Nobody says where caches are to be kept; the message says how to."""


def cache_folder() -> Path:
    """`eager` in the user's cache folder (XDG_CACHE_HOME, by default ~/.cache); it may not exist yet.

    NoCacheError where the user has no home folder. A relative XDG_CACHE_HOME counts for nothing, as XDG has it.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "eager"
    try:
        return Path.home() / ".cache" / "eager"
    except RuntimeError:
        raise NoCacheError("there is no home folder to keep a cache in: set XDG_CACHE_HOME") from None


def memory_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """How much memory this machine has, or the container this process is in; None where the system does not tell."""
    found: list[int] = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # there is no limit, or no such file
        found.append(int(limit.read_text(encoding="ascii")))
    return min(found, default=None)


@dataclass(frozen=True, slots=True)
class Processor:
    """Its name and the instruction sets it has, as the system tells them."""

    name: str
    features: str

    @property
    def key(self) -> str:
        """Short, fit for a file's name; another where native code may run differently."""
        text = "\n".join((platform.machine(), self.name, self.features))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_x86_64() -> bool:
    """Whether this is a processor that `NO_AMX` is for."""
    return platform.machine().lower() in ("x86_64", "amd64")


def this_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The first one of this machine; where Linux's `cpuinfo` is missing, only what Python knows."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    named = facts.get("model name") or platform.processor() or platform.machine()
    return Processor(named, facts.get("flags") or facts.get("Features", ""))
