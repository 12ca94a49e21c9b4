"""EvalPlus by itself, to compare with: a script for its own Python.

Standard input is JSON, {"problem", "programs"}; so is the output: for each program whether what EvalPlus's sanitizer
leaves of it passes [base, plus]. What it runs, it runs unconfined.
"""

import json
import sys
from typing import Any

from evalplus.eval import PASS, untrusted_check
from evalplus.gen.util import trusted_exec
from evalplus.sanitize import sanitize


def main() -> None:
    """As `evalplus.evaluate` does it, but for a time limit that a busy machine keeps."""
    job = json.load(sys.stdin)
    problem = job["problem"]
    print(json.dumps([[_passes(problem, program, suite) for suite in ("base", "plus")] for program in job["programs"]]))


def _passes(problem: dict[str, Any], program: str, suite: str) -> bool:
    name, inputs = problem["entry_point"], problem[f"{suite}_input"]
    expected, seconds = trusted_exec(problem["prompt"] + problem["canonical_solution"], inputs, name, record_time=True)
    status, _ = untrusted_check(
        "humaneval",
        sanitize(program, name),
        inputs,
        name,
        expected=expected,
        atol=problem["atol"],
        ref_time=seconds,
        fast_check=True,
        min_time_limit=10.0,
    )
    return bool(status == PASS)


if __name__ == "__main__":
    main()
