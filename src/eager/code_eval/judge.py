"""EvalPlus's own comparison, over recorded answers. Runs outside the sandbox, in EvalPlus's environment.

A stand-alone script for another interpreter. A request is a JSON line {"key": PATH, "n_bytes": N} and N bytes of what
came out of the sandbox; the reply a JSON line, for each suite why it fails, or null. PATH holds the expected answers.
`untrusted_check` is called as EvalPlus calls it; the program it runs is ours, and answers every call with what the
sample's program answered inside the sandbox. Answers are plain data by now: nothing of the sample runs here.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

# The answers come at once; EvalPlus's time limits, which `guest` has kept, would only measure this machine's load.
_SECONDS_A_CALL = 60.0
_MAX_DEPTH = 80
_REASON = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]{0,50}")
MISSING = "missing"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_answers: Iterator[Any] = iter(())


class Opaque:
    """A value that has no plain form; it equals nothing, itself included."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__


def replay(*arguments: Any) -> Any:
    """The next recorded answer."""
    return next(_answers)


def main() -> None:
    """`judge.py fetch FILE` writes EvalPlus's problems to FILE; `judge.py serve` judges until its input ends."""
    if sys.argv[1] == "fetch":
        _fetch(sys.argv[2])
        return
    multiprocessing.set_start_method("fork")  # the child must see _answers
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # EvalPlus prints now and then
    import evalplus.eval  # noqa: F401 - before the first request: what fails now is no answer's fault

    def send(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    send({"ready": True})
    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        send(_reply(request, sys.stdin.buffer.read(request["n_bytes"])))


def _fetch(path: str) -> None:
    from evalplus.data import get_human_eval_plus  # type: ignore[import-untyped,unused-ignore]

    with open(path, "w", encoding="utf-8") as file:
        for problem in get_human_eval_plus().values():
            file.write(json.dumps(problem) + "\n")


def _reply(request: dict[str, Any], data: bytes) -> dict[str, str | None]:
    key = _key(request["key"])
    return {suite: _fault(key, suite, data) for suite in key["answers"]}


@lru_cache(maxsize=1)  # the samples of a problem follow one another
def _key(path: str) -> dict[str, Any]:
    with gzip.open(path, "rb") as file:
        key: dict[str, Any] = json.loads(file.read())
    key["answers"] = {suite: [decode(value) for value in values] for suite, values in key["answers"].items()}
    return key


def _fault(key: dict[str, Any], suite: str, data: bytes) -> str | None:
    """Why the answers in `data` do not pass the suite; None where they do."""
    expected = key["answers"][suite]
    try:
        answers, failed = _answers_of(data, suite)
    except (ValueError, TypeError, ArithmeticError, LookupError, MemoryError, RecursionError):
        return "forged answer"  # not what `guest` writes: the program wrote it
    if failed is not None:
        return failed
    if len(answers) < len(expected):
        return MISSING
    return None if _passes(key, suite, expected, answers) else "wrong output"


def _answers_of(data: bytes, suite: str) -> tuple[list[Any], str | None]:
    """The suite's answers in order, and what the guest says ended them."""
    answers: list[Any] = []
    start = f'{{"suite": "{suite}", '.encode()
    for line in data.split(b"\n")[:-1]:
        if line.startswith(start):
            answer = json.loads(line)
            if "value" not in answer:
                reason = str(answer["failed"])
                return answers, reason if _REASON.fullmatch(reason) else "forged answer"
            answers.append(decode(answer["value"]))
    return answers, None


def _passes(key: dict[str, Any], suite: str, expected: list[Any], answers: list[Any]) -> bool:
    global _answers  # noqa: PLW0603 - handed to the forked child, which has no other way in
    from evalplus.eval import PASS, untrusted_check  # type: ignore[import-untyped,unused-ignore]

    entry_point = key["entry_point"]
    if len(answers) != len(expected) or not _NAME.fullmatch(entry_point):
        return False
    if entry_point == "find_zero":
        return _are_zeros(key["inputs"][suite], answers, key["atol"])
    _answers = iter(answers)
    status, _ = untrusted_check(
        "humaneval",
        f"from __main__ import replay as {entry_point}",
        key["inputs"][suite],
        entry_point,
        expected=expected,
        atol=key["atol"],
        ref_time=[0.0] * len(expected),
        fast_check=True,
        min_time_limit=_SECONDS_A_CALL,
    )
    return bool(status == PASS)


def _are_zeros(inputs: list[Any], answers: list[Any], atol: float) -> bool:
    """HumanEval/32 by EvalPlus's oracle, without its check.

    0.3.1 does not count this task's tests, and so fails every solution: github.com/evalplus/evalplus/pull/201.
    """
    from evalplus.eval._special_oracle import _poly  # type: ignore[import-untyped,unused-ignore]

    try:
        return all(abs(_poly(*arguments, x)) <= atol for arguments, x in zip(inputs, answers, strict=True))
    except (TypeError, ValueError, ArithmeticError):
        return False


def decode(data: Any, depth: int = 0) -> Any:
    """The value that `guest.encode` wrote as `data`. Raises ValueError and its like for anything else."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if not isinstance(data, (list, dict)):
        return data
    tag, *rest = data
    if tag in ("list", "tuple", "set", "frozenset", "dict"):
        (parts,) = rest
        if any(map((list, dict).__contains__, set(map(type, parts)))):
            parts = [decode(part, depth + 1) for part in parts]
        return _container(tag, parts)
    return _scalar(tag, rest, depth)


def _container(tag: str, parts: list[Any]) -> Any:
    if tag == "dict":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[tag](parts)


def _scalar(tag: Any, rest: list[Any], depth: int) -> Any:
    if tag == "?":
        return Opaque()
    if tag == "int":
        return int(rest[0], 16)
    if tag == "text":
        return f"the text of {int(rest[1])} characters with SHA-256 {rest[0]}"
    if tag == "complex":
        return complex(*rest)
    if tag == "bytes":
        return bytes.fromhex(rest[0])
    if tag == "Fraction":
        return Fraction(rest[0])
    if tag == "Decimal":
        return Decimal(rest[0])
    if tag == "numpy":
        return _numpy(rest[0], decode(rest[1], depth + 1))
    raise ValueError("not an encoded value")


def _numpy(name: str, value: Any) -> Any:
    import numpy as np

    kind = np.dtype(name)
    if kind.kind not in "biuf" or not isinstance(value, (bool, int, float)):
        raise ValueError("not a numpy scalar")
    return kind.type(value)


if __name__ == "__main__":
    main()
