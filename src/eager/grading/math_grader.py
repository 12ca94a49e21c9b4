"""`MathGrader`: whether two answers are mathematically the same, whatever the answers are.

Cheap rules decide what they can (`equivalence`); the rest goes to Math-Verify (Hugging Face, Apache-2.0) in worker
processes, which are killed and replaced when a comparison takes too long or too much memory.
"""

import json
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from eager.errors import EagerError
from eager.grading.equivalence import MAX_ANSWER_CHARS, same_answer

Outcome: TypeAlias = Literal["equivalent", "different", "timed out", "crashed", "too long"]

_FAILED: tuple[Outcome, ...] = ("timed out", "crashed")

# Importing sympy on a cold, busy disk; a comparison's own clock starts after that.
START_SECONDS = 120.0
# The worker finds its modules exactly where its parent does, however the parent was started.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from eager.grading.math_worker import serve; serve(int(sys.argv[2]))"
)


class GradingUnavailable(EagerError):  # noqa: N818 - a state of this machine, not a failed grade
    """Math-Verify cannot be used here; the message says what to install."""


class MathGrader:
    """Compares answers; a context manager, so that no worker outlives it.

    The first comparison that the cheap rules cannot decide starts a worker (one to two seconds); `n_workers` is how
    many threads may compare at once. Only such a comparison needs Math-Verify: without it, it raises
    GradingUnavailable, and the cheap ones still work.
    """

    def __init__(self, n_workers: int = 1, timeout_seconds: float = 5.0) -> None:
        if n_workers < 1:
            raise ValueError(f"n_workers is {n_workers}: at least one is needed")
        if timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds is {timeout_seconds}: it must be positive")
        self._timeout = timeout_seconds
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        # Answers that were examined alone, after a comparison with them failed: the outcome.
        self._suspects: dict[str, Outcome] = {}
        # Places for workers: None where none runs (yet, or because it was killed). Last in, first out: the warm one.
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(n_workers):
            self._idle.put(None)
        self._n_workers = n_workers

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
        """Start a worker now. GradingUnavailable if Math-Verify is missing: better known before a long run."""
        worker = self._idle.get()
        try:
            worker = worker or _Worker(self._timeout)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers, waiting for comparisons under way. Later comparisons start new ones."""
        workers = [self._idle.get() for _ in range(self._n_workers)]
        for worker in workers:
            if worker is not None:
                worker.kill()
            self._idle.put(None)

    def _decide(self, gold: str, answer: str) -> Outcome:
        verdict = same_answer(gold, answer)
        if verdict is None:
            return self._compare(gold, answer)
        if not verdict and max(len(gold), len(answer)) > MAX_ANSWER_CHARS:
            return "too long"
        return "equivalent" if verdict else "different"

    def _compare(self, gold: str, answer: str) -> Outcome:
        """Ask a worker, unless one of the two is known to be the end of workers."""
        for side in (gold, answer):
            if self._suspects.get(side, "different") in _FAILED:
                return self._suspects[side]
        outcome = self._ask_worker(gold, answer)
        if outcome in _FAILED:
            for side in (gold, answer):
                self._suspects[side] = self._suspects.get(side) or self._ask_worker("1", side)
        return outcome

    def _ask_worker(self, gold: str, answer: str) -> Outcome:
        worker = self._idle.get()
        survivor = None
        try:
            worker = worker or _Worker(self._timeout)
            outcome = worker.compare(gold, answer)
            survivor = None if outcome in _FAILED else worker
        finally:
            if worker is not None and survivor is None:
                worker.kill()
            self._idle.put(survivor)
        return outcome


class _Worker:
    """One process of `math_worker`, ready to compare."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout = timeout_seconds
        # Not fork (the parent may hold an engine's threads), and not multiprocessing's spawn, which imports __main__.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, json.dumps(_module_path()), str(int(2 * timeout_seconds) + 1)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_replies, daemon=True)
        self._reader.start()
        hello = self._receive(START_SECONDS)
        if not isinstance(hello, dict) or "ready" not in hello:
            self.kill()
            raise GradingUnavailable(_why_unavailable(hello))

    def compare(self, gold: str, answer: str) -> Outcome:
        """Never raises for what the answers hold; after anything but a verdict this worker is not to be used again."""
        try:
            self._send({"gold": gold, "answer": answer})
        except OSError:
            return "crashed"
        reply = self._receive(self._timeout)
        if isinstance(reply, str):
            return reply
        return "equivalent" if reply["equivalent"] else "different"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()  # it has read the end by now; only then may its pipe be closed
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        with suppress(OSError):  # what was still to be written has nowhere to go
            self._process.stdin.close()

    def _send(self, request: dict[str, str]) -> None:
        assert self._process.stdin is not None
        # ASCII: json escapes whatever the text holds, lone surrogates too.
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> dict[str, Any] | Literal["timed out", "crashed"]:
        try:
            line = self._replies.get(timeout=seconds)
        except queue.Empty:
            return "timed out"
        return dict(json.loads(line)) if line.endswith("\n") else "crashed"

    def _read_replies(self) -> None:
        """In a thread of its own, because a pipe cannot be read with a deadline on every system. '' at its end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")


def answers_given(answers: Sequence[str | None]) -> list[str]:
    """The different answers, by first appearance."""
    return list(dict.fromkeys(answer for answer in answers if answer is not None))


def _module_path() -> list[str]:
    """Where this process imports from; this package's own place last, in case it was loaded some other way."""
    return [*map(str, sys.path), str(Path(__file__).resolve().parents[2])]


def _why_unavailable(hello: dict[str, Any] | str) -> str:
    reason = hello.get("unavailable") if isinstance(hello, dict) else f"its worker process {hello} at the start"
    return f"answers cannot be compared, Math-Verify does not run here ({reason}): pip install 'eager-gen[math]'"
