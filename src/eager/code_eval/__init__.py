"""Generated code, graded by running it in a sandbox and comparing its answers as EvalPlus does: see `checker`."""

from eager.code_eval.checker import Checker
from eager.code_eval.environment import describe, environment_python
from eager.code_eval.humaneval import ProblemSet, fetch_problems
from eager.code_eval.sandbox import CodeEvalError, Limits, Sandbox

__all__ = [
    "Checker",
    "CodeEvalError",
    "Limits",
    "ProblemSet",
    "Sandbox",
    "describe",
    "environment_python",
    "fetch_problems",
]
