"""Prints the path of a llama-cpp-python wheel compiled on this kind of processor, making it where there is none yet.

pip keeps what it compiled by where the source came from, not by the flags, so one bad build would come back for ever.
The wheel lies under our own name instead, by requirement, flags and processor: compiled once on a machine.

The flags leave AMX out wherever the compiler knows them: gcc 12 compiles llama.cpp's AMX code into an illegal
instruction, and no build for a processor without AMX has any of it to lose.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # nothing of the package is installed yet

from eager.machine import NO_AMX, NoCacheError, cache_folder, this_processor  # noqa: E402

PATTERN = "llama_cpp_python-*.whl"


def main() -> None:
    """Raises CalledProcessError where it cannot be compiled; pip has said why by then."""
    requirement = requirement_in((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    environment = build_environment()
    folder = wheel_folder(key_of(requirement, environment))
    if not any(folder.glob(PATTERN)):
        print("Compiling llama-cpp-python, once on this machine: about 5 minutes on 2 cores.", file=sys.stderr)
        compile_wheel(requirement, environment, folder)
    print(max(folder.glob(PATTERN)))


def requirement_in(pyproject: str) -> str:
    """What pyproject.toml asks for."""
    found = re.search(r'"(llama-cpp-python[^"]*)"', pyproject)
    assert found is not None
    return found[1]


def build_environment() -> dict[str, str]:
    """The user's own, with AMX left out where the C compiler has flags for that: on x86-64, if it is not too old."""
    environment = dict(os.environ)
    if knows_amx_flags(environment.get("CC") or "cc"):
        for name in ("CFLAGS", "CXXFLAGS"):
            environment[name] = f"{environment.get(name, '')} {NO_AMX}".strip()
    return environment


def knows_amx_flags(compiler: str) -> bool:
    """Tried on an empty file."""
    command = [*shlex.split(compiler), *NO_AMX.split(), "-fsyntax-only", "-x", "c", os.devnull]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:  # no compiler: pip will say so
        return False


def key_of(requirement: str, environment: dict[str, str]) -> str:
    """Another for every build that may differ."""
    chosen = [environment.get(name, "") for name in ("CFLAGS", "CXXFLAGS", "CC", "CXX", "CMAKE_ARGS")]
    text = "\n".join((requirement, *chosen, this_processor().key))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def wheel_folder(key: str) -> Path:
    """Made in the user's cache folder, or where that cannot be written, in this Python's own environment."""
    with suppress(OSError, NoCacheError):
        folder = cache_folder() / "wheels" / key
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(sys.prefix) / "wheels" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compile_wheel(requirement: str, environment: dict[str, str], folder: Path) -> None:
    """From source, past pip's cache; moved to its place when it is whole."""
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir"),
                *("--no-binary", "llama-cpp-python", "--wheel-dir", unfinished, requirement),
            ],
            env=environment,
            stdout=sys.stderr,
            check=True,
        )
        wheel = next(Path(unfinished).glob(PATTERN))
        wheel.replace(folder / wheel.name)


if __name__ == "__main__":
    main()
