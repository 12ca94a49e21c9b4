"""Trees that outlive a failure of the engine: begun again, fewer at once, until what breaks it stands alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from eager.branching import IsSettled
from eager.engines.base import Engine, EngineError, EngineLostError
from eager.errors import first_line
from eager.generator import Generator, Progress, Step
from eager.types import MAX_ENTROPY, BranchConfig, Generation, SequenceResult, TreeJob
from eager.words import count


class RequeuingGenerator(Generator):
    """A Generator that begins its open trees again, from their prompts, when a step of the engine fails.

    Then at most half as many are open as were: an engine that had no memory for all goes on with fewer, and a tree
    that breaks it is soon alone. One that breaks it twice while it is alone comes out failed: its roots are errors
    without a token. The other trees are what they would have been, as draws depend on nothing else; what was told of
    them before is told again. An engine that by then decodes nothing at all has `step` raise its error.
    """

    def __init__(
        self,
        engine: Engine,
        on_step: Callable[[Progress], None] | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        """`on_failure` is told in a sentence what broke and what becomes of it."""
        super().__init__(engine, on_step)
        self.given_up: set[int] = set()
        """The prompts of failed trees; what is added for them fails untried."""
        self._on_failure = on_failure
        self._n_alone: Counter[int] = Counter()  # failures while it was alone, by the id of a job
        self._broken_off: list[tuple[TreeJob, IsSettled | None]] = []  # open when a step failed, oldest first
        self._held_back: list[tuple[TreeJob, IsSettled | None]] = []  # waiting then
        self._untried: list[tuple[TreeJob, Generation]] = []
        self._sentence = ""
        self._n_finished = 0  # since `max_open` was changed

    @property
    def has_work(self) -> bool:
        return super().has_work or bool(self._untried)

    def add(self, job: TreeJob, is_settled: IsSettled | None = None) -> None:
        if job.prompt_index in self.given_up:
            self._untried.append((job, _failed(job, self._sentence)))
        else:
            super().add(job, is_settled)

    def close(self) -> None:
        super().close()
        self._untried.clear()

    def step(self) -> Step:
        """As Generator's; one that failed brings a failed tree, or nothing. Raises EngineError, as the class says."""
        untried, self._untried = self._untried, []
        try:
            step = super().step()
        except EngineLostError:
            raise
        except (EngineError, MemoryError) as error:
            step = self._after(error)
        for job, _ in step.finished:
            del self._n_alone[id(job)]
        self._ease(len(step.finished))
        step.finished.extend(untried)
        self.progress.trees_done += len(untried)
        return step

    def _break_off(self) -> None:
        self._broken_off = [(tree.job, tree.is_settled) for tree in self._open.values()]
        self._held_back = list(self._waiting)
        super()._break_off()

    def _after(self, error: Exception) -> Step:
        """Queue what was open before what waited, but for a tree that is the cause."""
        broken_off, held_back = self._broken_off, self._held_back
        if not broken_off:
            raise error
        step, first = Step(), broken_off[0][0]
        self._n_alone[id(first)] += len(broken_off) == 1
        if self._n_alone[id(first)] > 1:
            self._give_up(first, error, step)
            broken_off = []
        else:
            self.max_open, self._n_finished = max(1, len(broken_off) // 2), 0
            begun_again = count(len(broken_off), "open prompt")
            self._say(f"{_said(error)}; begun again: {begun_again}, at most {self.max_open} at once")
        self._waiting.extend([*broken_off, *held_back])
        return step

    def _give_up(self, job: TreeJob, error: Exception, step: Step) -> None:
        """The tree has failed, unless the engine works for nobody any more: then raises EngineError."""
        if not self._is_alive(job):
            raise EngineError(_said(error)) from error
        self._sentence = f"the engine broke each time that it decoded this prompt ({_said(error)})"
        self._say(f"{_said(error)}; prompt {job.prompt_index} was alone and is given up")
        self.given_up.add(job.prompt_index)
        self.progress.trees_done += 1
        self.max_open = None  # there was not too much open
        step.finished.append((job, _failed(job, self._sentence)))

    def _is_alive(self, job: TreeJob) -> bool:
        """Whether the engine still decodes: one token after the prompt's first."""
        generator = Generator(self._engine)
        rules = BranchConfig(max_sequences=1, entropy_threshold=MAX_ENTROPY)
        generator.add(TreeJob(job.prompt_index, job.prompt_ids[:1], rules, job.sampling, max_length=2, seed=job.seed))
        try:
            return len(list(generator.run())) == 1
        except (EngineError, MemoryError):
            return False

    def _ease(self, n_finished: int) -> None:
        """One more may be open whenever as many as may be have finished: slowly, since it broke with twice as many."""
        if self.max_open:
            self._n_finished += n_finished
            if self._n_finished >= self.max_open:
                self.max_open, self._n_finished = self.max_open + 1, 0

    def _say(self, sentence: str) -> None:
        if self._on_failure is not None:
            self._on_failure(sentence)


def _failed(job: TreeJob, sentence: str) -> Generation:
    return Generation((SequenceResult((), (), "error", error=sentence),) * job.n_roots)


def _said(error: Exception) -> str:
    return "the memory ran out in the engine: lower --capacity" if isinstance(error, MemoryError) else first_line(error)
