"""Generated code, graded by running it in a sandbox and comparing its answers as EvalPlus does: see `checker`."""

from eager.code_eval.checker import Checker, Verdict
from eager.code_eval.environment import describe, environment_python
from eager.code_eval.errors import CodeEvalError
from eager.code_eval.humaneval import CodeProblem, ProblemSet, fetch_problems
from eager.code_eval.sandbox import Interpreter, Limits, Sandbox

__all__ = [
    "Checker",
    "CodeEvalError",
    "CodeProblem",
    "Interpreter",
    "Limits",
    "ProblemSet",
    "Sandbox",
    "Verdict",
    "describe",
    "environment_python",
    "fetch_problems",
]
