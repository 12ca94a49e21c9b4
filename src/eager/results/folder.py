"""A folder's experiments: from the journal where there is one, else from its result files; and those files written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeAlias

from eager.metrics import Summary
from eager.results.experiment import Experiment, Facts
from eager.results.findings import Findings, ResultsError
from eager.results.published import is_candidate, list_key, prompt_entry
from eager.results.result_file import ResultFile, write_result_file
from eager.results.scores import ExperimentResult, Grades, Regrader, experiment_result, results_entry
from eager.store.journal import JOURNAL_NAME, Journal, StoreError
from eager.store.records import PromptRecord, merged


class JournalResults:
    """An experiment in the journal, to be used like a ResultFile.

    The first sequences of `eager_adapt` and `eager` are kept with the `eager_init` that they build on.
    """

    is_whole = True

    def __init__(
        self, journal: Journal, experiment: Experiment, findings: Findings, regrader: Regrader | None = None
    ) -> None:
        self.experiment = experiment
        self.builds_on = experiment.base
        self.path = journal.folder / f"{experiment.name}.json"
        n_prompts = journal.settings.get("n_prompts")
        self.facts = Facts.of(
            journal.settings.get,
            n_prompts=n_prompts,
            seconds=None,
            is_complete=journal.count(experiment.name) == n_prompts,
            is_published=False,
        )
        self._journal = journal
        self._findings = findings
        self._regrader = regrader

    def records(self) -> Iterator[PromptRecord]:
        """The finished prompts, ascending, one at a time in memory; what cannot be read is noted."""
        indices = self._journal.prompts(self.experiment.name)
        for index in indices:
            try:
                record = effective_record(self._journal, self.experiment, index)
            except StoreError as error:
                self._findings.problem(f"{error}; this prompt is left out")
                continue
            yield self._regrader.grouped(record) if self._regrader else record
        place = f"'{self._journal.folder}', {self.experiment.name},"
        self._findings.check_number(place, len(indices), self.facts.n_prompts)

    def regrade(self, grades: Mapping[int, Grades], regrader: Regrader) -> Summary:
        """Give prompts other grades, by index, and write the result file with their scores. Raises StoreError."""
        name = self.experiment.name
        for index, (answers, correct) in grades.items():
            # The sequences of `eager_init` come first and are graded there.
            n_own = len(self._journal.read(name, index).sequences)
            first = len(answers) - n_own
            self._journal.append_grades(name, index, answers[first:], correct[first:])
        return write_experiment(self._journal, self.experiment, regrader).scores


Results: TypeAlias = JournalResults | ResultFile
"""One experiment of a folder, wherever it is kept."""


def open_folder(
    folder: Path, findings: Findings, regrader: Regrader | None = None, journal: Journal | None = None
) -> list[Results]:
    """The folder's experiments in their order. Raises ResultsError where there is none.

    `journal` is the folder's, where it is open already. `regrader` grades and groups what is not.
    """
    if not folder.is_dir():
        raise ResultsError(f"'{folder}' is not a folder: give one that eager run has written")
    journal = journal or _journal(folder, findings)
    found: list[Results] = [] if journal is None else _in_journal(journal, findings, regrader)
    in_journal = {results.path for results in found}
    found.extend(result_files(folder, findings, regrader, passed_over=in_journal))
    if not found:
        why = f" ({findings.problems[-1]})" if findings.problems else ""
        raise ResultsError(f"'{folder}' holds no results{why}: give a folder that eager run has written")
    return sorted(found, key=lambda results: results.experiment)


def result_files(
    folder: Path, findings: Findings, regrader: Regrader | None = None, passed_over: Set[Path] = frozenset()
) -> Iterator[ResultFile]:
    """The folder's result files by name; what is none is noted as a problem."""
    for path in sorted(folder.iterdir()):
        if is_candidate(path.name) and path.is_file() and path not in passed_over:
            try:
                yield ResultFile(path, findings, regrader)
            except ResultsError as error:
                findings.problem(str(error))


def _journal(folder: Path, findings: Findings) -> Journal | None:
    """The folder's journal; None without one, or where it is damaged, which is noted."""
    if not (folder / JOURNAL_NAME).is_file():
        return None
    try:
        return Journal(folder)
    except StoreError as error:
        findings.problem(f"{error}; the result files are read instead")
    except OSError as error:
        findings.problem(
            f"the journal in '{folder}' cannot be read ({error.strerror}): the result files are read instead"
        )
    return None


def _in_journal(journal: Journal, findings: Findings, regrader: Regrader | None) -> list[Results]:
    found: list[Results] = []
    for name in journal.experiments():
        try:
            experiment = Experiment.parse(name)
        except ValueError as error:  # noqa: PERF203 - one of another version must not cost the others
            findings.problem(f"'{journal.path}': {error}; it is left out")
        else:
            found.append(JournalResults(journal, experiment, findings, regrader))
    return found


def effective_record(journal: Journal, experiment: Experiment, index: int) -> PromptRecord:
    """A finished prompt; in `eager_adapt` and `eager` with the `eager_init` sequences first. Raises StoreError."""
    record = journal.read(experiment.name, index)
    return record if experiment.base is None else merged(journal.read(experiment.base.name, index), record)


def effective_records(journal: Journal, experiment: Experiment, regrader: Regrader) -> Iterator[PromptRecord]:
    """The experiment's finished prompts, ascending, each answer with its class. Raises StoreError."""
    for index in journal.prompts(experiment.name):
        yield regrader.grouped(effective_record(journal, experiment, index))


def write_experiment(journal: Journal, experiment: Experiment, regrader: Regrader) -> ExperimentResult:
    """Write the experiment's result file into the journal's folder, atomically. Raises StoreError."""
    records = effective_records(journal, experiment, regrader)
    result = experiment_result(experiment, records, n_expected=journal.settings["n_prompts"])
    data_name = journal.settings["data_name"]
    entries = (prompt_entry(record, data_name) for record in effective_records(journal, experiment, regrader))
    path = journal.folder / f"{experiment.name}.json"
    write_result_file(path, _head(journal, result), list_key(experiment), entries)
    return result


def _head(journal: Journal, result: ExperimentResult) -> dict[str, Any]:
    """Everything of the result file above the list of prompts."""
    settings = journal.settings
    n_done, n_total = result.n_prompts, settings["n_prompts"]
    return {
        "model_name": settings["model_name"],
        "temperature": settings["temperature"],
        "entropy_threshold": result.experiment.threshold,
        "max_sequences": settings["max_sequences"],
        "seed": settings["seed"],
        "status": {
            "state": "COMPLETED" if n_done == n_total else "IN_PROGRESS",
            "completed_sequences": n_done,
            "total_sequences": n_total,
            "progress": f"{n_done}/{n_total}",
        },
        "extra": _extra(journal, result),
        "results": results_entry(result.scores),
    }


def _extra(journal: Journal, result: ExperimentResult) -> dict[str, Any]:
    settings = journal.settings
    return {
        "notes": journal.about.get("notes", ""),
        "generation_time_so_far (s)": result.seconds,
        "experiment": result.experiment.kind,
        "data_name": settings["data_name"],
        "engine": settings["engine"],
        "versions": journal.about.get("versions", {}),
        "settings": settings,
        "tokens": {
            "generated": result.n_tokens,
            "naive": result.n_tokens_naive,
            "recomputed": result.n_recomputed,
            "discarded": result.n_discarded,
        },
        "sequences": result.n_sequences,
        "failed_sequences": result.n_errors,
    }
