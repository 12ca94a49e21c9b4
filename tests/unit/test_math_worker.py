r"""Math-Verify in its worker process: every test here runs a real one, unless its promise is that none is needed."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import needs
import pytest

from eager import child
from eager.grading import Graded, GradingUnavailable, MathGrader, grade
from eager.tasks import load

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BENCHMARKS = {
    "Maxwell-Jia/AIME_2024": "aime2024.jsonl",
    "opencompass/AIME2025": "aime2025.jsonl",
    "MathArena/hmmt_feb_2025": "hmmt_feb_2025.jsonl",
    "openai/gsm8k": "gsm8k_train200.jsonl",
    "HuggingFaceH4/MATH-500": "math500_first100.jsonl",
}
HMMT_10 = r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}"


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader() as grader:
        yield grader


def worker_pid(grader: MathGrader) -> int | None:
    """The process that waits for comparisons."""
    process = grader._worker._process
    return process and process.pid


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (HMMT_10, r"\frac{-1-\sqrt{17}}{2}, \frac{-1+\sqrt{17}}{2}"),
        (HMMT_10, r"\left\{\frac{-1-\sqrt{17}}{2}, \frac{-1+\sqrt{17}}{2}\right\}"),
        (HMMT_10, r"\frac{-1\pm\sqrt{17}}{2}"),
        (HMMT_10, r"\frac{-1+\sqrt{17}}{2} \text{ and } \frac{-1-\sqrt{17}}{2}"),
        ("1,-2", r"-2 \text{ or } 1"),
        (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{\frac{3}{4}}"),
        (r"\sqrt{\frac{95}{24}}", r"\frac{\sqrt{570}}{12}"),
        (r"\frac{9 \sqrt{23}}{23}", r"\frac{9}{\sqrt{23}}"),
        (r"2^{25} \cdot 26!", r"26! \cdot 2^{25}"),
        (r"1-\frac{2}{\pi}", r"\frac{\pi-2}{\pi}"),
        ("x=5", "5"),
        ("5", "x=5"),
        ("25", "n = 025"),
        (r"\cot x", r"\frac{1}{\tan x}"),
        (r"\frac{1}{3}", "0.33333333"),
        ("p - q", "-q + p"),
        ("6 - 5i", "-5i + 6"),
    ],
)
def test_mathematically_equal_answers_are_equivalent(grader: MathGrader, gold: str, answer: str) -> None:
    """Order of values, sets, signs, roots and factors do not matter."""
    assert grader.equivalent(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (HMMT_10, r"\frac{-1+\sqrt{17}}{2}"),
        (HMMT_10, r"\frac{1+\sqrt{17}}{2}, \frac{1-\sqrt{17}}{2}"),
        ("3, 5, 7", "3, 5"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{2}}{2}"),
        (r"\frac{\sqrt{3}}{2}", "0.87"),
        (r"8\sqrt{10}", "25.3"),
        (r"(3,\frac{\pi}{2})", r"(\frac{\pi}{2},3)"),
        ("p - q", "q - p"),
        (r"2^{25} \cdot 26!", r"2^{26} \cdot 25!"),
        ("1", "no idea"),
        (r"\sqrt{6}", r"\sqrt{6"),
    ],
)
def test_different_answers_are_not_equivalent(grader: MathGrader, gold: str, answer: str) -> None:
    """A missing value, another order of coordinates, a rounded root or no mathematics at all is another answer."""
    assert not grader.equivalent(gold, answer)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_target_is_right_and_its_neighbours_target_is_wrong(grader: MathGrader, name: str) -> None:
    """Each target, boxed, is extracted and correct for its own problem and wrong for one with another target."""
    path = DATA / BENCHMARKS[name]
    if not path.exists():
        pytest.skip(needs.SHARED_DATA)
    problems = load(name, data_path=path).problems
    targets = [problem.target for problem in problems if problem.target is not None]
    assert len(targets) == len(problems)
    for target in targets:
        boxed = rf"Hence the result is $\boxed{{{target}}}$."
        assert grade(boxed, target, "math", grader) == Graded(target, True)
        other = next(other for other in targets if other != target)
        assert grade(boxed, other, "math", grader) == Graded(target, False), (target, other)


HOSTILE = {
    "tower": "9^{9^{9^{9}}}",
    "huge factorial": "100000000!!!",
    "huge expansion": "(x+1)^{100000}",
    "nested integrals": r"\int" * 300,
    "hard integral": r"\int_0^1 \int_0^1 e^{x^{y^2}} \sin(x^y) dx dy",
    "deep braces": "{" * 900 + "1" + "}" * 900,
    "deep fractions": r"\frac{1}{" * 200 + "2" + "}" * 200,
    "deep roots": r"\sqrt{" * 250 + "2" + "}" * 250,
    "open brackets": "(" * 1900,
    "100k characters": "1+" * 50_000,
    "null bytes": "1\x00+\x001",
    "lone surrogates": "\ud800+\udfff",
    "ANSI codes": "\x1b[2J\x1b[31m1+1\x1b[0m",
    "newlines": "1\n\n{}\n2\r\n",
    "a reply": json.dumps({"equivalent": True}),
    "python": "__import__('os')._exit(0)",
    "emptiness": " ",
    "emoji": "\U0001f600" * 900,
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[MathGrader]:
    with MathGrader(timeout_seconds=1) as grader:
        grader.check()
        yield grader


@pytest.mark.parametrize(("number", "answer"), list(enumerate(HOSTILE.values(), 2)), ids=HOSTILE.keys())
def test_no_answer_hangs_or_crashes_a_run(impatient: MathGrader, number: int, answer: str) -> None:
    """A hostile answer is not equivalent, within its time and a worker's start; the next comparison works as ever."""
    start = time.perf_counter()
    assert not impatient.equivalent(r"\sqrt{7}", answer)
    assert time.perf_counter() - start < 30
    assert impatient.equivalent(rf"\sqrt{{{2 * number**2}}}", rf"{number}\sqrt{{2}}")


def test_a_comparison_that_takes_too_long_is_recorded_as_such() -> None:
    """The tower times out, its worker is dead, and a new one takes the next comparison."""
    with MathGrader(timeout_seconds=1) as grader:
        grader.check()
        first = worker_pid(grader)
        assert grader.outcome("9", "9^{9^{9^{9}}}") == "timed out"
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        assert grader.outcome(r"\sqrt{12}", r"2\sqrt{3}") == "equivalent"
        assert grader.outcomes == {"timed out": 1, "equivalent": 1}


def test_a_hostile_answer_costs_its_time_once() -> None:
    """Known to be the end of workers, it is not sent again, against whatever target; the target stays in use."""
    with MathGrader(timeout_seconds=1) as grader:
        grader.equivalent(r"\sqrt{2}", "9^{9^{9^{9}}}")
        start = time.perf_counter()
        assert [grader.outcome(rf"\sqrt{{{n}}}", "9^{9^{9^{9}}}") for n in range(3, 30)] == ["timed out"] * 27
        assert time.perf_counter() - start < 1
        assert grader.outcome(r"\sqrt{2}", r"\frac{2}{\sqrt{2}}") == "equivalent"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on address space holds on Linux only")
def test_an_answer_cannot_eat_the_machine() -> None:
    """The worker's address space, libraries included, is limited below 2 GiB."""
    with MathGrader() as grader:
        grader.check()
        pid = worker_pid(grader)
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
        assert int(line.split()[3]) < 2 << 30


def test_a_worker_that_dies_is_replaced() -> None:
    """Killed from outside between two comparisons: the next one is lost at most, never the run."""
    with MathGrader() as grader:
        grader.check()
        os.kill(worker_pid(grader), 9)
        assert grader.outcome(r"\sqrt{8}", r"2\sqrt{2}") in ("crashed", "equivalent")
        assert grader.outcome(r"\sqrt{12}", r"2\sqrt{3}") == "equivalent"


def test_integers_never_start_a_worker() -> None:
    """What the cheap rules decide needs no process, and so no Math-Verify."""
    with MathGrader() as grader:
        assert grader.equivalent("25", "025")
        assert not grader.equivalent("25", "26")
        assert grader.group(["1", "2", "01", None]) == [0, 1, 0, None]
        assert worker_pid(grader) is None


def test_a_pair_is_compared_once(grader: MathGrader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, no worker is asked."""
    assert grader.equivalent(r"\sqrt{18}", r"3\sqrt{2}")
    monkeypatch.setattr(grader, "_ask_worker", None)
    assert grader.equivalent(r"\sqrt{18}", r"3\sqrt{2}")


def test_groups_are_classes_of_equivalent_answers(grader: MathGrader) -> None:
    """Numbered by first appearance; None stays None; different spellings share a number."""
    answers = ["0.5", None, r"\frac{1}{2}", r"\sqrt{12}", "1/2", r"2\sqrt{3}", "7", r"\sqrt{12}"]
    assert grader.group(answers) == [0, None, 0, 1, 0, 1, 2, 1]
    assert grader.group([]) == []


def test_threads_can_compare_at_once() -> None:
    """Four threads take turns with the worker; every comparison gets its own verdict, one that fails, too."""
    outcomes: dict[int, str] = {}
    with MathGrader(timeout_seconds=1) as grader:

        def compare(n: int) -> None:
            answer = "9^{9^{9^{9}}}" if n == 4 else rf"{n - n % 2}\sqrt{{2}}"
            outcomes[n] = grader.outcome(rf"\sqrt{{{n * n * 2}}}", answer)

        threads = [threading.Thread(target=compare, args=(n,)) for n in range(2, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == {2: "equivalent", 3: "different", 4: "timed out", 5: "different"}


def test_no_worker_outlives_its_grader() -> None:
    """Leaving the context ends the processes."""
    with MathGrader() as grader:
        grader.check()
        pid = worker_pid(grader)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_without_math_verify_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the worker cannot import it, comparing raises with the pip command; integers still work."""
    monkeypatch.setattr(child, "_BOOTSTRAP", f"{child._BOOTSTRAP} sys.modules['math_verify'] = None; ")
    with MathGrader() as grader:
        assert grader.equivalent("25", "025")
        for _ in range(2):
            with pytest.raises(GradingUnavailable, match=r"pip install 'eager-gen\[math\]'"):
                grader.equivalent(r"\sqrt{12}", r"2\sqrt{3}")
        with pytest.raises(GradingUnavailable):
            grader.check()


def test_an_impossible_time_limit_is_refused() -> None:
    """No time at all is an error at once, and not a failure of every comparison later."""
    with pytest.raises(ValueError, match="timeout_seconds is 0"):
        MathGrader(timeout_seconds=0)


@pytest.mark.parametrize(
    ("text", "target", "kind", "graded"),
    [
        (r"\boxed{025}", "25", "math", Graded("025", True)),
        (r"\boxed{26}", "25", "math", Graded("26", False)),
        ("no answer", "25", "math", Graded(None, False)),
        (r"\boxed{26}", None, "math", Graded("26", None)),
        ("no answer", None, "math", Graded(None, None)),
        (r"\boxed{C}", "C", "choice", Graded("C", True)),
        (r"\boxed{C}", "(C)", "choice", Graded("C", True)),
        (r"\boxed{C}", "D", "choice", Graded("C", False)),
        ("Answer: C", "C", "choice", Graded(None, False, Graded("C", True))),
        ("Answer: C", None, "choice", Graded(None, None, Graded("C", None))),
        ("no answer", "C", "choice", Graded(None, False)),
        ("def f(): ...", None, "code", Graded(None, None)),
        ("def f(): ...", "f", "code", Graded(None, None)),
    ],
)
def test_grading_one_text(grader: MathGrader, text: str, target: str | None, kind: str, graded: Graded) -> None:
    """No answer is wrong; no target, and code, is ungraded; a choice outside a box is another reading."""
    assert grade(text, target, kind, grader) == graded  # type: ignore[arg-type]
