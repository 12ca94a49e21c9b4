"""Runs `guest.py` where the code that it runs can hurt nothing: in bubblewrap, under limits, for a bounded time.

Inside there is no network, no home folder and no project: read-only /usr and the Python needed, a private /tmp of
limited size, and no other process. Limits (memory, CPU, file size, open files, no further process) are set by the
guest itself before the code is read in. The wall clock, what may be printed and the end of it all are ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from eager.errors import EagerError, last_line

Ending: TypeAlias = Literal["ended", "timeout", "output"]
_Mode: TypeAlias = Literal["root", "user", "unsafe"]

_GUEST, _PROGRAM = (Path(__file__).with_name(name) for name in ("guest.py", "program.py"))
_PACKAGES = "/packages"
_CHUNK_BYTES = 1 << 16
_PROBE_SECONDS = 30.0
_READY, _SAME = b'{"ready": true}\n', b'{"same": true}\n'
_NO_NETWORK = (["list", []], ["list", ["lo"]])
_KEPT_PRINT = 2000

# In no wise asked of the caller's environment, where keys and tokens live.
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a set has the same order in every run
    # numpy's libraries start a thread a core otherwise, and none is allowed.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_INSTALL = "install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora, Arch, Alpine: package bubblewrap)"
_OR_UNSAFE = "--unsafe runs generated code without it, as you"

_PROBE = """
def probe():
    import os, socket
    try:
        child = os.fork()
    except OSError:
        return [interface for _, interface in socket.if_nameindex()]
    if child == 0:
        os._exit(0)
    return "forks"
"""


class CodeEvalError(EagerError):
    """The code cannot be evaluated here; the message is one sentence that names the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python outside of the environments: what runs it, where its library is, and the packages it may import."""

    executable: str
    base_prefix: str
    packages: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. `seconds` is wall time; `printed_bytes` is standard output and error together."""

    seconds: float = 60.0
    memory_mb: int = 4096
    tmp_mb: int = 64
    file_mb: int = 16
    open_files: int = 64
    printed_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"the timeout must be above 0 seconds, got {self.seconds!r}")
        if self.memory_mb < 256:
            raise ValueError(f"the memory limit must be at least 256 MB, as Python needs that, got {self.memory_mb}")


@dataclass(frozen=True, slots=True)
class Job:
    """What the guest is to do: call `entry_point` of the program in `text` with every input of every suite.

    `prompt` is the head of the function, for a `text` that goes on where it ends. With `sanitize` the program is what
    EvalPlus's sanitizer leaves of it, else all of it is run. Each suite is {"name", "inputs", "seconds": one limit a
    call}. `answer_bytes` bounds what may come back.
    """

    text: str
    prompt: str
    entry_point: str
    suites: tuple[dict[str, Any], ...]
    sanitize: bool
    answer_bytes: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What came back: `answers` is whatever the program made of it, to be believed in nothing.

    `is_same`, said before the program is run: the sanitizer leaves all of it that does anything.
    """

    answers: bytes
    ending: Ending
    seconds: float
    is_same: bool = False


class Sandbox:
    """Safe to use from several threads; a program's whole process tree is gone when `run` returns.

    Making one proves that it holds: CodeEvalError where bubblewrap is missing or may not run, or does not confine.
    """

    def __init__(self, interpreter: Interpreter, limits: Limits, *, is_safe: bool = True) -> None:
        self.limits = limits
        self._interpreter = interpreter
        self._mode: _Mode = "unsafe"
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False
        if is_safe:
            _check_interpreter(interpreter)
            self._bwrap = Sandbox.require()
            self._mode = self._working_mode()

    @staticmethod
    def require() -> str:
        """Where bubblewrap is. CodeEvalError where it is missing."""
        path = shutil.which("bwrap")
        if path is None:
            raise CodeEvalError(f"generated code runs inside bubblewrap, which is missing: {_INSTALL}; {_OR_UNSAFE}")
        return path

    def run(self, job: Job, seconds: float) -> Ran:
        """Run for at most so long. CodeEvalError where the sandbox itself fails: that is no answer of the program."""
        ran, printed = self._run(job, seconds, self._mode)
        if ran.answers.startswith(_READY):
            answers = ran.answers[len(_READY) :]
            return Ran(answers, ran.ending, ran.seconds, is_same=answers.startswith(_SAME))
        if ran.ending == "timeout":
            raise CodeEvalError(f"Python did not start in {ran.seconds:.0f} s: use fewer --workers, a longer --timeout")
        raise CodeEvalError(f"a sandbox did not start ({last_line(printed.decode('utf-8', 'replace'))}): {_OR_UNSAFE}")

    def stop(self) -> None:
        """End the programs that are being run, as if they had ended themselves, and start no others."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                _kill(process)

    def _run(self, job: Job, seconds: float, mode: _Mode) -> tuple[Ran, bytes]:
        try:
            return self._run_in(job, seconds, mode)
        except OSError as error:
            where = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror or str(error)
            remedy = "make room in memory and for temporary files (TMPDIR), or use fewer --workers"
            raise CodeEvalError(f"a program cannot be run ({where}): {remedy}") from None

    def _run_in(self, job: Job, seconds: float, mode: _Mode) -> tuple[Ran, bytes]:
        """Raises OSError where files or processes cannot be had."""
        with tempfile.TemporaryFile() as task, tempfile.TemporaryDirectory() as folder:
            task.write(json.dumps(self._task(job, seconds, mode)).encode())
            task.seek(0)
            began = time.monotonic()
            with self._running_process(mode, task, folder) as process:
                answers, printed, ending = _read(process, began + seconds, job.answer_bytes, self.limits.printed_bytes)
        return Ran(answers, ending, time.monotonic() - began), printed

    @contextlib.contextmanager
    def _running_process(self, mode: _Mode, task: IO[bytes], folder: str) -> Iterator[subprocess.Popen[bytes]]:
        """The guest; gone after the block, whatever it started."""
        with self._lock:
            if self._is_stopped:
                raise CodeEvalError("the evaluation was stopped: run it again")
            process = subprocess.Popen(
                self._command(mode),
                stdin=task,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                cwd=folder if mode == "unsafe" else "/",
                start_new_session=True,
                umask=0o022,
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
            _end(process)

    def _task(self, job: Job, seconds: float, mode: _Mode) -> dict[str, Any]:
        limits = self.limits
        return {
            **asdict(job),
            "packages": self._interpreter.packages if mode == "unsafe" else _PACKAGES,
            "memory_bytes": limits.memory_mb << 20,
            "cpu_seconds": int(seconds) + 2,
            "file_bytes": limits.file_mb << 20,
            "open_files": limits.open_files,
            "leave_root": mode == "root",
        }

    def _command(self, mode: _Mode) -> list[str]:
        python = [self._interpreter.executable, "-I", "-S", "-B"]
        if mode == "unsafe":
            return [*python, str(_GUEST)]
        return [self._bwrap, *_confinement(self._interpreter, mode, self.limits.tmp_mb), "--", *python, "/guest.py"]

    def _working_mode(self) -> _Mode:
        """Root proper gives up its rights inside; a root of a container may have to do as others do."""
        modes: tuple[_Mode, ...] = ("root", "user") if os.geteuid() == 0 else ("user",)
        faults = [self._fault(mode) for mode in modes]
        if None in faults:
            return modes[faults.index(None)]
        raise CodeEvalError(f"bubblewrap cannot run here ({faults[0]}): allow user namespaces; {_OR_UNSAFE}")

    def _fault(self, mode: _Mode) -> str | None:
        """Why this mode does not do; None where it does."""
        suite = {"name": "probe", "inputs": [[]], "seconds": [_PROBE_SECONDS]}
        job = Job(_PROBE, "", "probe", (suite,), sanitize=False, answer_bytes=_CHUNK_BYTES)
        ran, printed = self._run(job, _PROBE_SECONDS, mode)
        if not ran.answers.startswith(_READY):
            return last_line(printed)
        found = json.loads(ran.answers[len(_READY) :])
        if found.get("value") == "forks":
            return "it does not limit the number of processes"
        return None if found.get("value") in _NO_NETWORK else "it does not take the network away"


def _check_interpreter(interpreter: Interpreter) -> None:
    base = Path(interpreter.base_prefix).resolve()
    try:
        home = Path.home().resolve()
    except RuntimeError:  # there is none to be kept from view
        return
    if base == home or base in home.parents:
        raise CodeEvalError(f"the Python in '{base}' cannot be shown without the home folder: use another Python")


def _confinement(interpreter: Interpreter, mode: _Mode, tmp_mb: int) -> list[str]:
    """bwrap's options. Root keeps the two rights that the guest needs to become nobody, and loses them by that."""
    base = interpreter.base_prefix
    arguments = ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
    if mode == "root":
        arguments += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        arguments += ["--unshare-all"]
    arguments += ["--ro-bind", "/usr", "/usr", *_system_folders()]
    arguments += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind-try", "/nix/store", "/nix/store"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--perms", "1777", "--size", str(tmp_mb << 20), "--tmpfs", "/tmp"]
    if not Path(base).is_relative_to("/usr"):
        for parent in reversed(Path(base).parents[:-1]):
            if str(parent) != "/tmp":
                arguments += ["--perms", "0755", "--dir", str(parent)]  # else root's only
        arguments += ["--ro-bind", base, base]
    arguments += ["--ro-bind", interpreter.packages, _PACKAGES, "--ro-bind", str(_GUEST), "/guest.py"]
    arguments += ["--ro-bind", str(_PROGRAM), "/program.py"]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def _system_folders() -> list[str]:
    """/lib and its like: links into /usr on most systems, folders on older ones."""
    arguments = []
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    return arguments


def _read(
    process: subprocess.Popen[bytes], deadline: float, answer_bytes: int, printed_bytes: int
) -> tuple[bytes, bytes, Ending]:
    """Answers, what was printed (its beginning), and how it came to an end. Never keeps more than it may."""
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    left = {process.stdout.fileno(): answer_bytes, process.stderr.fileno(): printed_bytes}
    to_keep = {process.stdout.fileno(): answer_bytes, process.stderr.fileno(): _KEPT_PRINT}
    ending: Ending = "ended"
    with selectors.DefaultSelector() as selector:
        for descriptor in kept:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and ending == "ended":
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if time.monotonic() >= deadline:
                ending = "timeout"
            for key, _ in ready:
                data = os.read(key.fd, _CHUNK_BYTES)
                if not data:
                    selector.unregister(key.fd)
                left[key.fd] -= len(data)
                if left[key.fd] < 0:
                    ending = "output"
                kept[key.fd] += data[: to_keep[key.fd] - len(kept[key.fd])]
    answers, printed = kept.values()
    return bytes(answers), bytes(printed), ending


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left: bwrap's end is the end of its process namespace, and so of everything in it."""
    _kill(process)
    process.wait()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
