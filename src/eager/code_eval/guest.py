"""What runs inside the sandbox: one program, called with the inputs it is given; its answers leave as plain data.

A stand-alone script (this file, `program` beside it and the standard library are all it sees of us). It knows no
expected output and holds no verdict: see `checker`. The job comes as JSON on standard input, the answers leave as JSON
lines on what was standard output when it started; what the program prints goes to standard error.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

# Where root started bwrap, the change to a user without rights is ours: root is exempt from the limit on processes.
_NOBODY = 65534
_MAX_DEPTH = 64
_SANITIZE_SECONDS = 5.0
# numpy's import on a busy machine, and what the program does beside defining things; all of it has a clock outside.
_LOAD_SECONDS = 20.0
# Python's json reads back any integer of up to 4,300 digits; long texts travel as their hash.
_JSON_INT = 1 << 4000
_JSON_TEXT = 1000
_NUMPY_SCALARS = frozenset(
    ["bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)


class _OutOfTimeError(Exception):
    """EvalPlus's own is an Exception as well, which a program may catch."""


# It is missing, or meets a program that it was not made for.
_SANITIZER_FAILS = (
    *(ImportError, _OutOfTimeError, MemoryError, RecursionError),
    *(ValueError, LookupError, AttributeError, TypeError),
)
_DOES_NOT_PARSE = (SyntaxError, ValueError, MemoryError, RecursionError)


def main() -> None:
    job: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    send = _take_channel()
    _limit(job)
    sys.path.append(job["packages"])
    finder = _beside("program")
    send({"ready": True})
    found = finder.find_program(job["text"], job["entry_point"], job["prompt"])
    cells, is_strict = found.cells, False
    if job["sanitize"]:
        cells = (_sanitized(found.main, job["entry_point"]),)
        is_same = len(found.cells) == 1 and _are_same(cells[0], found.main)
        is_strict = not is_same
        send({"same": is_same})
    for suite in job["suites"]:
        for answer in _answers(cells, is_strict, job["entry_point"], suite["inputs"], suite["seconds"]):
            send({"suite": suite["name"], **answer})
    os._exit(0)  # nothing that the program left behind (atexit, threads) runs on


def _beside(name: str) -> ModuleType:
    """The module in the file `name`.py beside this one; its folder stays out of what the program can import."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    del sys.modules[name]
    return module


def _take_channel() -> Callable[[dict[str, Any]], None]:
    """Move standard output out of the program's way, and give it an empty standard input."""
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def send(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    return send


def _limit(job: dict[str, Any]) -> None:
    """Soft and hard limits, and no way back to root. Raises OSError where the system refuses."""
    import resource

    memory = job["memory_bytes"]
    for name, limit in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_DATA", memory),
        ("RLIMIT_CPU", job["cpu_seconds"]),
        ("RLIMIT_FSIZE", job["file_bytes"]),
        ("RLIMIT_NOFILE", job["open_files"]),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),  # not one more process or thread: a limit per process is one for all
    ):
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (limit, limit))
    if job["leave_root"]:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _sanitized(program: str, entry_point: str) -> str:
    """`program` through EvalPlus's sanitizer; as it is where that is missing, fails, or takes too long."""
    try:
        with _clock(_SANITIZE_SECONDS):
            from evalplus import sanitize  # type: ignore[import-untyped,unused-ignore]

            if _parses(program):
                # What the sanitizer looks for first, in the cube of the number of lines: the longest part that parses.
                sanitize.code_extract = lambda text: text
            return str(sanitize.sanitize(program, entry_point))
    except _SANITIZER_FAILS:
        return program


def _parses(program: str) -> bool:
    try:
        ast.parse(program)
    except _DOES_NOT_PARSE:
        return False
    return True


def _are_same(one: str, other: str) -> bool:
    """But for comments and layout."""
    try:
        return ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    except _DOES_NOT_PARSE:
        return one == other


def _answers(
    cells: tuple[str, ...], is_strict: bool, entry_point: str, inputs: list[Any], seconds: list[float]
) -> Iterator[dict[str, Any]]:
    """An answer a call, until one fails; as EvalPlus, each suite begins with a fresh namespace."""
    try:
        with _clock(_LOAD_SECONDS):
            function = _load(cells, is_strict, entry_point)
        if function is None:
            yield {"failed": "no code"}
            return
        for arguments, limit in zip(inputs, seconds, strict=True):
            own = deepcopy(arguments)
            began = time.perf_counter()
            with _clock(limit):
                value = function(*own)
            took = time.perf_counter() - began
            yield {"value": encode(value), "seconds": took}
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit and the like are the program's answer, too
        yield {"failed": _reason(error)}


def _load(cells: tuple[str, ...], is_strict: bool, entry_point: str) -> Any:
    """What is called `entry_point` when all cells have run in one namespace; None where nothing is.

    What a cell raises is raised where it is strict, or where the function is missing because of it. Once that is
    there, an example after it that fails, reads input or exits says nothing about it. Not so a program without end.
    """
    space: dict[str, Any] = {}
    faults = [fault for fault in (_fault(cell, space) for cell in cells) if fault is not None]
    if faults and (is_strict or entry_point not in space):
        raise faults[-1]
    return space.get(entry_point)


def _fault(cell: str, space: dict[str, Any]) -> BaseException | None:
    try:
        exec(compile(cell, "<program>", "exec", dont_inherit=True), space)
    except _OutOfTimeError:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit as well
        return error
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, _OutOfTimeError):
        return "timeout"
    if isinstance(error, MemoryError):
        return "memory"
    return type(error).__name__


@contextmanager
def _clock(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise _OutOfTimeError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def encode(value: Any, depth: int = 0) -> Any:
    """`value` as data for Python's json that keeps Python's types; `judge.decode` is the way back.

    What has no plain form (functions, generators, arrays, objects of the program's own) is ["?"], equal to nothing.
    """
    if depth > _MAX_DEPTH:
        return ["?"]
    if type(value).__module__ == "numpy":
        return _encode_numpy(value)
    for kind, tag, parts in _CONTAINERS:
        if isinstance(value, kind):
            held = list(parts(value))
            if not all(map(_is_plain, held)):  # the quick way for the million numbers that some answers hold
                held = [encode(part, depth + 1) for part in held]
            return [tag, held]
    return value if _is_plain(value) else _encode_scalar(value)


# A subclass is taken for what it derives from, by that class's own methods: its own may lie.
_CONTAINERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (list, "list", list.__iter__),
    (tuple, "tuple", tuple.__iter__),
    (set, "set", set.__iter__),
    (frozenset, "frozenset", frozenset.__iter__),
    (dict, "dict", lambda value: [pair for item in dict.items(value) for pair in item]),
)


def _is_plain(value: Any) -> bool:
    """Whether json writes it so that it is read back as it was."""
    kind = type(value)
    if kind is float or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_JSON_INT < value < _JSON_INT)
    return kind is str and len(value) <= _JSON_TEXT


def _encode_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _encode_text(str.__str__(value))
    if isinstance(value, int):
        number = int.__pos__(value)
        return number if _is_plain(number) else ["int", hex(number)]
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, bytes):
        return ["bytes", bytes.hex(value)]
    if type(value).__module__ in ("fractions", "decimal") and type(value).__name__ in ("Fraction", "Decimal"):
        return [type(value).__name__, str(value)]
    return ["?"]


def _encode_text(text: str) -> Any:
    """Texts are compared for equality only, and some are millions of characters long."""
    if len(text) <= _JSON_TEXT:
        return text
    return ["text", hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), len(text)]


def _encode_numpy(value: Any) -> Any:
    name = str(getattr(value, "dtype", ""))
    if getattr(value, "shape", None) == () and name in _NUMPY_SCALARS:
        return ["numpy", name, encode(value.item(), 1)]
    return ["?"]


if __name__ == "__main__":
    main()
