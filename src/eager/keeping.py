"""What a run has finished, kept: in the journal at once, in the result file now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from eager.recording import Clock
from eager.results.experiment import Experiment
from eager.results.folder import write_experiment
from eager.results.scores import ExperimentResult, Regrader
from eager.store.journal import Journal, StoreError
from eager.store.records import PromptRecord, merged

_LEAST_SECONDS = 30.0
_SHARE = 50


class Pace:
    """When a file that grows is due to be written anew: so seldom that its writing takes a fiftieth of the time.

    What the next writing takes is judged by the last: as much longer as there is more. Of the first nothing is known.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: a clock, in seconds."""
        self._now = now
        self._began = self._ended = now()
        self._spent = 0.0
        self._seconds_each = 0.0

    def is_due(self, n: int) -> bool:
        """Whether `n` things may be written now."""
        now = self._now()
        is_cheap = _SHARE * (self._spent + n * self._seconds_each) <= now - self._began
        return is_cheap and now - self._ended >= _LEAST_SECONDS

    @contextmanager
    def writing(self, n: int) -> Iterator[None]:
        """The block writes `n` of them."""
        start = self._now()
        yield
        self._ended = self._now()
        self._spent += self._ended - start
        self._seconds_each = (self._ended - start) / max(n, 1)


class Keeper:
    """Puts records into the journal, and experiments into their result files. Raises StoreError."""

    def __init__(self, journal: Journal, regrader: Regrader) -> None:
        self._journal = journal
        self._regrader = regrader
        self._clock = Clock()
        self._unwritten: Experiment | None = None  # has prompts that its result file lacks

    def keep_all(self, experiment: Experiment, finished: Generator[PromptRecord, None, None]) -> ExperimentResult:
        """Journal each prompt as it is finished; write the result file at intervals and at the end."""
        pace = Pace()
        self._clock.lap()
        with closing(finished):  # an interrupt leaves nothing open in the engine
            for record in finished:
                self._keep(experiment, replace(record, seconds=record.seconds + self._clock.lap()))
                n_done = self._journal.count(experiment.name)
                if pace.is_due(n_done):
                    with pace.writing(n_done):
                        self._write(experiment, self._journal)
                    self._clock.lap()
        return self._write(experiment, self._journal)

    def keep_part(self, tree: PromptRecord, first_sequence: int) -> None:
        """Journal a tree of a prompt that is not finished; its sequences are numbered from `first_sequence`."""
        with self._with_journal():
            self._journal.append_part(replace(tree, seconds=self._clock.lap()), first_sequence)

    def write_finished(self) -> None:
        """Write the result file that lacks finished prompts.

        A signal may have come between a line on disk and its entry in memory: the journal is read anew.
        """
        if self._unwritten is not None:
            journal = Journal(self._journal.folder)
            if journal.count(self._unwritten.name):
                self._write(self._unwritten, journal)

    def _keep(self, experiment: Experiment, record: PromptRecord) -> None:
        self._unwritten = experiment
        with self._with_journal():
            self._journal.append(self._grouped(experiment, record))

    def _write(self, experiment: Experiment, journal: Journal) -> ExperimentResult:
        try:
            result = write_experiment(journal, experiment, self._regrader)
        except OSError as error:
            raise self._unreadable(error) from None
        self._unwritten = None
        return result

    @contextmanager
    def _with_journal(self) -> Iterator[None]:
        """While a line is put into it."""
        if not self._journal.path.exists():  # an open file takes lines after its name has gone
            raise StoreError(
                f"'{self._journal.folder}' has gone while the run was at work: if it was moved, run the same command"
                " with its new place as --output_dir; else the same command begins anew"
            )
        try:
            yield
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> StoreError:
        return StoreError(
            f"'{self._journal.path}' cannot be read ({error.strerror}): see that it is there and run the same command"
            " again; what is finished is kept"
        )

    def _grouped(self, experiment: Experiment, record: PromptRecord) -> PromptRecord:
        """The record with its classes of equivalent answers, numbered over all of the prompt's sequences."""
        base = experiment.base
        whole = record if base is None else merged(self._journal.read(base.name, record.prompt_index), record)
        n_first = len(whole.sequences) - len(record.sequences)
        return replace(record, sequences=self._regrader.grouped(whole).sequences[n_first:])
