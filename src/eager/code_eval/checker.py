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

What is run. A program is graded for what it does: all of it is run, then its function is called. EvalPlus runs what
its sanitizer leaves, which is too little now and then, and is the figure that compares with others: each verdict has
both. They are two runs, so that neither sees what the other left, or one where both programs are the same; whether they
are, the guest says before the program is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from eager.child import Child, StartError
from eager.code_eval.extract import answer_in
from eager.code_eval.humaneval import SUITES, CodeProblem, Expected, ProblemSet, judge_environment
from eager.code_eval.sandbox import CodeEvalError, Job, Sandbox

_JUDGE = Path(__file__).with_name("judge.py")
_JUDGE_SECONDS = 120.0
# Python, the search for the program, the sanitizer, and twice all that the program does beside defining functions.
_START_SECONDS = 60.0
# A right answer is about as long as the expected one; a failed one shall not fill our memory.
_ANSWER_FACTOR, _ANSWER_SLACK = 2, 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the program passes all base, and all plus tests; `reason` is that of its first failure.

    Run as a whole, for `seconds`; the fields `evalplus_…` say the same of what EvalPlus's sanitizer leaves of it.
    """

    base: bool
    plus: bool
    reason: str | None
    seconds: float
    evalplus_base: bool
    evalplus_plus: bool
    evalplus_reason: str | None

    @property
    def is_correct(self) -> bool:
        return self.base and self.plus

    @property
    def is_correct_for_evalplus(self) -> bool:
        return self.evalplus_base and self.evalplus_plus


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of one of the two programs."""

    base: bool
    plus: bool
    reason: str | None
    seconds: float
    is_same: bool = False


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

    def stop(self) -> None:
        """End the programs under way, and run no others."""
        self._sandbox.stop()

    def check_text(self, problem: CodeProblem, text: str) -> Verdict:
        """Grade the program in what a model wrote."""
        answer = answer_in(text)
        if answer is None:
            return _without_run("unfinished thought")
        return self.check(problem, answer) if answer.strip() else _without_run("no code")

    def check(self, problem: CodeProblem, answer: str) -> Verdict:
        """Grade the program in `answer`, or which `answer` is; one that was graded before has the verdict it had."""
        key = (problem.task_id, answer)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._check(problem, answer)
        return known

    def _check(self, problem: CodeProblem, answer: str) -> Verdict:
        sanitized = self._run(problem, answer, sanitize=True)
        whole = sanitized if sanitized.is_same else self._run(problem, answer, sanitize=False)
        return Verdict(
            base=whole.base,
            plus=whole.plus,
            reason=whole.reason,
            seconds=whole.seconds,
            evalplus_base=sanitized.base,
            evalplus_plus=sanitized.plus,
            evalplus_reason=sanitized.reason,
        )

    def _run(self, problem: CodeProblem, answer: str, *, sanitize: bool) -> _Run:
        expected = self.problems.expected(problem, self._sandbox)
        ran = self._sandbox.run(*self._job(problem, answer, expected, sanitize))
        missing = {"timeout": "timeout", "output": "too much output", "ended": "ended early"}[ran.ending]
        faults = self._judge.faults(expected.key, ran.answers)
        reasons = [missing if fault == "missing" else fault for fault in (faults["base"], faults["plus"]) if fault]
        return _Run(
            base=faults["base"] is None,
            plus=faults["plus"] is None,
            reason=reasons[0] if reasons else None,
            seconds=round(ran.seconds, 3),
            is_same=ran.is_same,
        )

    def _job(self, problem: CodeProblem, answer: str, expected: Expected, sanitize: bool) -> tuple[Job, float]:
        suites = tuple(
            {"name": suite, "inputs": problem.inputs[suite], "seconds": expected.limits(suite)} for suite in SUITES
        )
        job = Job(
            # What no encoding can carry is no Python either: a lone surrogate becomes a question mark.
            answer.encode("utf-8", "replace").decode(),
            problem.prompt,
            problem.entry_point,
            suites,
            sanitize=sanitize,
            answer_bytes=_ANSWER_FACTOR * expected.n_bytes + _ANSWER_SLACK,
        )
        calls = sum(sum(expected.limits(suite)) for suite in SUITES)
        return job, min(self._sandbox.limits.seconds, _START_SECONDS + calls)


def _without_run(reason: str) -> Verdict:
    return Verdict(False, False, reason, 0.0, evalplus_base=False, evalplus_plus=False, evalplus_reason=reason)


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
