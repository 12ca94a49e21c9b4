"""A code checker for tests: EvalPlus's real problems, its real check, the real sandbox; skips where one is missing."""

import functools
import os
from pathlib import Path

import needs
import pytest

from eager.code_eval import Checker, CodeEvalError, Limits, ProblemSet, Sandbox, describe, environment_python

PROBLEMS = Path(__file__).resolve().parents[2] / "shared" / "data" / "HumanEvalPlus.jsonl.gz"
CACHE = Path(os.environ.get("EAGER_CACHE_DIR") or Path.home() / ".cache" / "eager")


@functools.cache
def evalplus_python() -> Path:
    """Made once on a machine; where the user's own is."""
    return environment_python(CACHE, print)


def make_checker(limits: Limits, is_safe: bool = True) -> Checker:
    """To be closed after use."""
    if not PROBLEMS.is_file():
        pytest.skip(needs.SHARED_DATA)
    if is_safe:
        needs.program("bwrap", "bubblewrap")
    try:
        python = evalplus_python()
        sandbox = Sandbox(describe(python), limits, is_safe=is_safe)
    except CodeEvalError as error:
        pytest.skip(str(error))
    return Checker(sandbox, ProblemSet(PROBLEMS, CACHE), python)
