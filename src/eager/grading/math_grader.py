"""`MathGrader`: whether two answers are mathematically the same, whatever the answers are.

Cheap rules decide what they can (`equivalence`); the rest goes to Math-Verify (Hugging Face, Apache-2.0) in a worker
process, which is killed and replaced when a comparison takes too long or too much memory.
"""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, TypeAlias

from eager.child import Child, StartError, isolated
from eager.errors import EagerError
from eager.grading.equivalence import MAX_ANSWER_CHARS, same_answer

Outcome: TypeAlias = Literal["equivalent", "different", "timed out", "crashed", "too long"]

_FAILED: tuple[Outcome, ...] = ("timed out", "crashed")


class GradingUnavailable(EagerError):  # noqa: N818 - a state of this machine, not a failed grade
    """Math-Verify cannot be used here; the message says what to install."""


class MathGrader:
    """Compares answers; a context manager, so that its worker does not outlive it. Threads take turns.

    The first comparison that the cheap rules cannot decide starts the worker (one to two seconds). Only such a
    comparison needs Math-Verify: without it, it raises GradingUnavailable, and the cheap ones still work.
    """

    def __init__(self, timeout_seconds: float = 5.0) -> None:
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}: it must be positive")
        self._timeout = timeout_seconds
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        # Answers that were examined alone, after a comparison with them failed: the outcome.
        self._suspects: dict[str, Outcome] = {}
        # A process whose parent was killed dies by itself, after more computing than a comparison may take.
        cpu_seconds = int(2 * timeout_seconds) + 1
        self._worker = Child(isolated(f"from eager.grading.math_worker import serve; serve({cpu_seconds})"))

    def __enter__(self) -> "MathGrader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many different comparisons ended how."""
        return Counter(self._outcomes.values())

    def equivalent(self, gold: str, answer: str) -> bool:
        """Whether `answer` says what `gold` says. What cannot be compared (see `outcome`) is not equivalent."""
        return self.outcome(gold, answer) == "equivalent"

    def outcome(self, gold: str, answer: str) -> Outcome:
        """How comparing the two ended; each pair is compared once."""
        known = self._outcomes.get((gold, answer))
        if known is None:
            known = self._outcomes[gold, answer] = self._decide(gold, answer)
        return known

    def group(self, answers: Sequence[str | None]) -> list[int | None]:
        """Number the classes of equivalent answers by first appearance, from 0; None for no answer."""
        first: list[str] = []  # the first answer of each class
        classes: dict[str, int] = {}
        for answer in answers_given(answers):
            found = (number for number, gold in enumerate(first) if self.equivalent(gold, answer))
            classes[answer] = next(found, len(first))
            if classes[answer] == len(first):
                first.append(answer)
        return [None if answer is None else classes[answer] for answer in answers]

    def check(self) -> None:
        """Start the worker now. GradingUnavailable if Math-Verify is missing: better known before a long run."""
        try:
            self._worker.start()
        except StartError as error:
            raise _unavailable(error) from None

    def forget(self) -> None:
        """Compare anew what has been compared: for those who would else remember for ever."""
        self._outcomes.clear()
        self._suspects.clear()

    def close(self) -> None:
        """End the worker, after the comparison under way. Later comparisons start a new one."""
        self._worker.kill()

    def _decide(self, gold: str, answer: str) -> Outcome:
        verdict = same_answer(gold, answer)
        if verdict is None:
            return self._compare(gold, answer)
        if not verdict and max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
            return "too long"
        return "equivalent" if verdict else "different"

    def _compare(self, gold: str, answer: str) -> Outcome:
        """Ask the worker, unless one of the two is known to be the end of workers."""
        for side in (gold, answer):
            if self._suspects.get(side, "different") in _FAILED:
                return self._suspects[side]
        outcome = self._ask_worker(gold, answer)
        if outcome in _FAILED:
            for side in (gold, answer):
                self._suspects[side] = self._suspects.get(side) or self._ask_worker("1", side)
        return outcome

    def _ask_worker(self, gold: str, answer: str) -> Outcome:
        try:
            reply = self._worker.ask({"gold": gold, "answer": answer}, self._timeout)
        except StartError as error:
            raise _unavailable(error) from None
        if isinstance(reply, str):
            return reply
        return "equivalent" if reply["equivalent"] else "different"


def answers_given(answers: Sequence[str | None]) -> list[str]:
    """The different answers, by first appearance."""
    return list(dict.fromkeys(answer for answer in answers if answer is not None))


def _unavailable(error: StartError) -> GradingUnavailable:
    return GradingUnavailable(
        f"answers cannot be compared, Math-Verify does not run here ({error}): pip install 'eager-gen[math]'"
    )
