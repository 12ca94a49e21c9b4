"""Counts how many cases of the grading table (tests/grading_cases.py) a version of the package gets right, by kind.

    python benchmarks/grading_table.py                          # this version
    PYTHONPATH=/another/checkout/src python benchmarks/grading_table.py --wrong

"too equal" are the wrong ones that make a score too high, "too different" those that make it too low.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from grading_cases import PAIRS, TEXTS

import eager
from eager.grading import MathGrader, grade


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--wrong", action="store_true", help="list what is wrong, too")
    wrong = options.parse_args().wrong
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    with MathGrader() as grader:
        for kind, case, found, wanted in _verdicts(grader):
            total[kind] += 1
            right[kind] += found is wanted
            if found is not wanted:
                failures["too equal" if found else "too different"] += 1
                if wrong:
                    print(f"{kind}: {case} is {found}")
    print(f"{eager.__file__}\n")
    for kind in total:
        print(f"| {kind} | {total[kind]} | {right[kind]} |")
    print(f"| all | {total.total()} | {right.total()} |")
    print(f"\nof the wrong ones too equal: {failures['too equal']}, too different: {failures['too different']}")


def _verdicts(grader: MathGrader):
    """(kind, case, what was found, what is right) of every case."""
    for kind, gold, answer, equal in PAIRS:
        yield kind, f"{answer!r} for {gold!r}", grader.equivalent(gold, answer), equal
    for kind, (answers, fallback), text, target, correct in TEXTS:
        yield kind, f"{text!r} for {target!r}", grade(text, target, answers, grader, fallback).correct, correct


if __name__ == "__main__":
    main()
