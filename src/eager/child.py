"""Another Python process that answers requests under a clock, and dies when it does not.

It may loop for ever inside one call, or be killed for its memory, without harm to this one. Every Python that this
package starts is isolated (`-I`): started plainly, it would look for its modules in the current folder first, and run
what somebody put there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

Failure: TypeAlias = Literal["timed out", "crashed"]

# Importing sympy on a cold, busy disk; a request's own clock starts after that.
START_SECONDS = 120.0
_SAFE_PATH = "PYTHONSAFEPATH"
# This very package first, whatever else is called so; after that, modules come from where they come from here.
_BOOTSTRAP = (
    "import json, sys; home, *path = json.loads(sys.argv[1]); "
    "sys.path.insert(0, home); import eager; sys.path[:1] = path; "
)


class StartError(Exception):
    """The process did not get ready; the message is the reason, as a part of a sentence."""


class Child:
    """A process that answers one request at a time; threads take turns.

    What it runs reads a JSON line, and bytes after it where the line says how many, and answers with a JSON line. Its
    first one comes unasked: {"ready": true}, or {"unavailable": REASON}. It is started when it is first needed, and
    anew after it failed.
    """

    def __init__(self, command: Seq[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Have it ready. Raises StartError."""
        with self._lock:
            self._ready()

    def ask(self, request: Mapping[str, Any], seconds: float, payload: bytes = b"") -> dict[str, Any] | Failure:
        """Its reply; "timed out" if that takes longer, "crashed" if none can come: then it is gone. StartError."""
        with self._lock:
            # ASCII: json escapes whatever the text holds, lone surrogates too.
            return self._exchange(self._ready(), json.dumps(request).encode("ascii") + b"\n" + payload, seconds)

    def kill(self) -> None:
        """End it, after the request under way. A later request starts it anew."""
        with self._lock:
            self._end()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        try:
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
        except OSError as error:
            raise StartError(f"'{self._command[0]}': {error.strerror}") from None
        hello = self._exchange(process, b"", START_SECONDS)
        if isinstance(hello, str):
            raise StartError(f"its process {hello} at the start")
        if "ready" not in hello:
            self._end()
            raise StartError(str(hello.get("unavailable", "its process is another program")))
        return process

    def _exchange(self, process: subprocess.Popen[bytes], data: bytes, seconds: float) -> dict[str, Any] | Failure:
        """Write, and read a line. No pipe has a deadline on every system, so the clock kills the process instead."""
        assert process.stdin is not None
        assert process.stdout is not None
        clock = _Clock(seconds, process)
        reply = None
        try:
            with suppress(OSError):  # a broken pipe: it is dead
                process.stdin.write(data)
                process.stdin.flush()
                reply = _parsed(process.stdout.readline())
        finally:  # an interrupt, too, leaves no process that owes an answer
            if clock.stop() or reply is None:
                self._end()
        if clock.has_struck:
            return "timed out"
        return "crashed" if reply is None else reply

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        with suppress(OSError):  # what was still to be written has nowhere to go
            process.stdin.close()


class _Clock:
    """Kills a process after `seconds`, unless it is stopped before."""

    def __init__(self, seconds: float, process: subprocess.Popen[bytes]) -> None:
        self.has_struck = False
        self._process = process
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> bool:
        """Whether it has struck; if not, it never will."""
        self._timer.cancel()
        self._timer.join()
        return self.has_struck

    def _strike(self) -> None:
        self.has_struck = True
        _kill(self._process)


def isolated(code: str) -> list[str]:
    """The command that runs `code` in a Python that has this one's modules, and none from the current folder."""
    return [sys.executable, "-I", "-c", _BOOTSTRAP + code, json.dumps([_home(), *_module_path()])]


@contextmanager
def isolated_children() -> Iterator[None]:
    """Pythons that a library starts in this block look for no module in the current folder (from Python 3.11 on)."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def environment_without(*prefixes: str) -> dict[str, str]:
    """This process's environment without the variables that begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def _home() -> str:
    """The folder that this package lies in."""
    return str(Path(__file__).resolve().parents[1])


def _module_path() -> list[str]:
    """Where this process imports from, without the current folder, which `python -c` and `python -m` put there."""
    return [entry for entry in map(str, sys.path) if os.path.isabs(entry) and not _is_current(entry)]


def _is_current(folder: str) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:  # it does not exist
        return False


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None for what is no whole JSON object."""
    if not line.endswith(b"\n"):
        return None
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: they would hold its pipes open."""
    if sys.platform == "win32":
        process.kill()
        return
    # Not even a zombie any more; on macOS, nothing but zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
