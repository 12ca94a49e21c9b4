#!/usr/bin/env python3
"""What hostile programs try, and how they are graded: a markdown table for docs/code-evaluation.md.

`python benchmarks/sandbox_table.py [--canonical]`; that also grades canonical and emptied solutions.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from code_checker import make_checker  # noqa: E402
from hostile_code import HOSTILE, TASK, bait, filled  # noqa: E402

from eager.code_eval import Checker, Limits  # noqa: E402

TIMEOUT = 10.0


def hostile_table(checker: Checker) -> None:
    """A row a program."""
    print("| sample | what it tries | verdict | seen as | seconds |\n|---|---|---|---|---|")
    with bait() as places:
        for hostile in HOSTILE:
            verdict = checker.check(checker.problems.problems[TASK], filled(hostile, **places))
            passed = "PASSED" if verdict.base or verdict.plus else "failed"
            print(
                f"| {hostile.name} | {hostile.tries} | {passed} | {verdict.reason} | {verdict.seconds:.2f} |",
                flush=True,
            )


def canonical_table(checker: Checker) -> None:
    """How many of the canonical solutions, and of the emptied ones, pass."""
    problems = list(checker.problems.problems.values())
    for name, body in (("canonical", None), ("emptied", "\n    pass\n")):
        texts = [f"```python\n{p.prompt}{p.canonical_solution if body is None else body}\n```" for p in problems]
        with ThreadPoolExecutor(2) as pool:
            verdicts = list(pool.map(checker.check_text, problems, texts))
        base, plus = (sum(getattr(v, suite) for v in verdicts) for suite in ("base", "plus"))
        seconds = sum(v.seconds for v in verdicts)
        print(f"{name}: base {base}/{len(problems)}, plus {plus}/{len(problems)}, {seconds:.0f} s in the sandbox")


if __name__ == "__main__":
    with make_checker(Limits(seconds=TIMEOUT, memory_mb=1024)) as checker:
        hostile_table(checker)
    if "--canonical" in sys.argv:
        with make_checker(Limits()) as checker:
            canonical_table(checker)
