"""Whether llama.cpp's native code runs on this processor: tried in a child process, so that its crash is a sentence.

A build made for another processor, or with a compiler's mistake in it, ends the process that imports it or decodes
with it, without a word. The outcome is remembered in the cache folder, for this build on this processor.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from eager.atomic import replacing
from eager.child import isolated
from eager.engines._native_probe import IMPORTED, write_tiny_gguf
from eager.engines.base import EngineError
from eager.machine import NO_AMX, NoCacheError, cache_folder, is_x86_64, this_processor

RUNS = "runs"
_PACKAGE = "llama-cpp-python"
_SECONDS = 120.0  # half a second on an idle machine
_PROBE = "from eager.engines._native_probe import main; main(sys.argv[2])"
_WHY = {
    "SIGILL": "an instruction that this processor refuses; usually it was compiled for another processor, or gcc 12"
    " compiled its AMX code wrongly",
}
_WHY_ELSE = "usually a broken build, or one for another system"
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")  # nothing that a build does to itself


def ensure_llama_cpp_runs() -> None:
    """Return once llama.cpp is known to run here; the first time for a build that takes about a second.

    Raises EngineError where it dies from a signal or cannot be loaded. A failure is tried again each time. A check
    that gives no answer (out of time, another error) is no reason to refuse.
    """
    if remembered() == RUNS:
        return
    status, said, complaint = _try_it()
    if status is not None and status < 0:
        name = _signal_name(-status)
        if name in _FROM_OUTSIDE:
            raise EngineError(
                f"{_build()} was killed ({name}), usually because memory ran out: free some and try again"
            )
        _remember(name)
        raise EngineError(what_it_died_of(name))
    if status == 0:
        _remember(RUNS)
    elif status is not None and IMPORTED not in said:
        raise EngineError(f"{_build()} cannot be loaded here ({complaint}): {_cure()}")


def remembered() -> str | None:
    """RUNS, or the signal that this build died from on this processor; None if it was not tried yet."""
    with suppress(OSError, NoCacheError):
        outcome = _memory().read_text(encoding="ascii", errors="replace")
        if outcome == RUNS or outcome in signal.Signals.__members__:
            return outcome
    return None


def what_it_died_of(signal_name: str) -> str:
    """The sentence: which signal, why that usually is, and what cures it."""
    where = f"on this processor ({this_processor().name})"
    why = _WHY.get(signal_name, _WHY_ELSE)
    return f"{_build()} dies {where} with {signal_name}, {why}: build it for this one: {_cure()}"


def _try_it() -> tuple[int | None, str, str]:
    """Exit status (None: no answer) of the child, what it said, and the last line of its complaints."""
    try:
        with tempfile.TemporaryDirectory(prefix="eager-") as folder:  # ours to remove, should the child die
            model_file = Path(folder) / "tiny.gguf"
            write_tiny_gguf(model_file)
            done = subprocess.run(
                [*isolated(_PROBE), str(model_file)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=_SECONDS,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
    except (OSError, subprocess.TimeoutExpired):
        return None, "", ""
    return done.returncode, done.stdout, (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def _remember(outcome: str) -> None:
    """Where the cache cannot be written, the check is made again next time."""
    with suppress(OSError, NoCacheError):
        _memory().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_memory()) as file:
            file.write(outcome)


def _memory() -> Path:
    """NoCacheError where the user has no home folder."""
    build = hashlib.sha256("\n".join((_build(), *_native_files())).encode(errors="replace")).hexdigest()[:16]
    return cache_folder() / "native-checks" / f"llama_cpp-{build}-{this_processor().key}"


def _native_files() -> Iterator[str]:
    """Path, size and time of every library of the build, and of its package."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return
    package = Path(spec.origin)
    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or package.parent / "lib")  # as llama-cpp-python has it
    for path in (package, *sorted(folder.glob("*"))):
        with suppress(OSError):
            about = path.stat()
            yield f"{path} {about.st_size} {about.st_mtime_ns}"


def _build() -> str:
    try:
        return f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError:  # imported from a source tree
        return _PACKAGE


def _cure() -> str:
    """One line for a shell, for the Python that runs this."""
    flags = f'CFLAGS="{NO_AMX}" CXXFLAGS="{NO_AMX}" ' if is_x86_64() else ""
    return (
        f"{flags}{shlex.quote(sys.executable)} -m pip install --no-cache-dir --force-reinstall --no-deps"
        f" --no-binary {_PACKAGE} {_build().replace(' ', '==')}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
