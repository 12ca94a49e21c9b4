"""One program, judged.

Who may be believed. The program is written by a model and may be hostile; it shares its process with the guest that
calls it, and whatever is in that process it can read, replace or forge: the guest's functions, `builtins`, the exit
code, standard output, the channel that the answers leave by, even the memory. A check that runs there, as EvalPlus's
own does, can be talked into "pass": by an answer whose `__eq__` says yes, by a patched `numpy.allclose`, by a look at
the expected outputs in the caller's frame. A secret (a nonce, say) that signs the verdict would only be one more
thing to find there. Therefore nothing worth forging is inside:

1. The sandbox holds the program and its inputs; neither the expected outputs, nor a verdict, nor a secret.
2. What comes out are answers, as plain data of a bounded size, decoded without running anything (`judge.decode`:
   no pickle, no class of the program's own) in a process that can be lost. Writing to the channel by hand is only
   another way of answering, and an answer counts if and only if it is right. Exit codes and whatever is printed count
   for nothing.
3. EvalPlus's own check compares them with the expected outputs outside, in the judge's process, which never sees the
   program. Missing answers (a program that left early, was killed, or ran out of time) are failures before that.
4. A failure of the sandbox itself is never an answer: the guest says that it is ready before the program is read in,
   and without that the evaluation stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from eager.child import Child, StartError
from eager.code_eval.errors import CodeEvalError
from eager.code_eval.extract import extract_program
from eager.code_eval.humaneval import SUITES, CodeProblem, Expected, ProblemSet, judge_environment
from eager.code_eval.sandbox import Job, Sandbox

_JUDGE = Path(__file__).with_name("judge.py")
_JUDGE_SECONDS = 120.0
# Python, the sanitizer and the program's own imports, before the first call.
_START_SECONDS = 30.0
# A right answer is about as long as the expected one; a failed one shall not fill our memory.
_ANSWER_FACTOR, _ANSWER_SLACK = 2, 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the program passes all base, and all plus tests; `reason` is that of its first failure."""

    base: bool
    plus: bool
    reason: str | None
    seconds: float

    @property
    def is_correct(self) -> bool:
        return self.base and self.plus


class Checker:
    """Grades programs; safe to use from several threads, and a context manager, so that its judge ends with it."""

    def __init__(self, sandbox: Sandbox, problems: ProblemSet, evalplus_python: Path) -> None:
        self.problems = problems
        self._sandbox = sandbox
        self._judge = _Judge(evalplus_python)
        self._known: dict[tuple[str, str], Verdict] = {}

    def __enter__(self) -> Checker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._judge.close()

    def check_text(self, problem: CodeProblem, text: str) -> Verdict:
        """Grade the program in what a model wrote."""
        program = extract_program(text, problem.entry_point, problem.prompt)
        if program is None:
            return Verdict(base=False, plus=False, reason="no code", seconds=0.0)
        return self.check(problem, program)

    def check(self, problem: CodeProblem, program: str) -> Verdict:
        """Grade `program`; one that was graded before has the verdict it had."""
        key = (problem.task_id, program)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._check(problem, program)
        return known

    def _check(self, problem: CodeProblem, program: str) -> Verdict:
        expected = self.problems.expected(problem, self._sandbox)
        ran = self._sandbox.run(*self._job(problem, program, expected))
        missing = {"timeout": "timeout", "output": "too much output", "ended": "ended early"}[ran.ending]
        faults = self._judge.faults(expected.key, ran.answers)
        reasons = [missing if fault == "missing" else fault for fault in (faults["base"], faults["plus"]) if fault]
        return Verdict(
            base=faults["base"] is None,
            plus=faults["plus"] is None,
            reason=reasons[0] if reasons else None,
            seconds=round(ran.seconds, 3),
        )

    def _job(self, problem: CodeProblem, program: str, expected: Expected) -> tuple[Job, float]:
        suites = tuple(
            {"name": suite, "inputs": problem.inputs[suite], "seconds": expected.limits(suite)} for suite in SUITES
        )
        job = Job(
            # What no encoding can carry is no Python either: a lone surrogate becomes a question mark.
            program.encode("utf-8", "replace").decode(),
            problem.entry_point,
            suites,
            sanitize=True,
            answer_bytes=_ANSWER_FACTOR * expected.n_bytes + _ANSWER_SLACK,
        )
        calls = sum(sum(expected.limits(suite)) for suite in SUITES)
        return job, min(self._sandbox.limits.seconds, _START_SECONDS + calls)


class _Judge:
    """`judge.py` in EvalPlus's environment, started when first needed; one request at a time."""

    def __init__(self, python: Path) -> None:
        self._python = python
        self._child = Child([str(python), "-I", str(_JUDGE), "serve"], judge_environment())

    def faults(self, key: Path, answers: bytes) -> dict[str, str | None]:
        """For each suite why the answers do not pass, None where they do. CodeEvalError where no judge runs."""
        try:
            faults = self._child.ask({"key": str(key), "n_bytes": len(answers)}, _JUDGE_SECONDS, answers)
        except StartError as error:
            why = f"EvalPlus's check does not run with '{self._python}' ({error})"
            raise CodeEvalError(f"{why}: give another --evalplus_python") from None
        return dict.fromkeys(SUITES, "unbearable answer") if isinstance(faults, str) else faults

    def close(self) -> None:
        """End the process."""
        self._child.kill()
