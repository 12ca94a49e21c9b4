"""A folder's experiments: from the journal where there is one, else from its result files; and those files written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, TypeAlias

from eager.metrics import Summary
from eager.results.experiment import Experiment, Facts
from eager.results.findings import Findings, ResultsError
from eager.results.json_stream import is_installed
from eager.results.published import is_candidate, list_key, prompt_entry
from eager.results.result_file import ResultFile, keep_copy, write_result_file
from eager.results.scores import ExperimentResult, Grades, Regrader, experiment_result, results_entry
from eager.store.journal import JOURNAL_NAME, Journal, StoreError
from eager.store.records import PromptRecord, merged

BEFORE_RUN = ".before-run"
_NEEDED_SETTINGS = ("model_name", "data_name", "engine", "temperature", "max_sequences", "seed", "n_prompts")


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
        self.path = _file_of(journal, experiment)
        self.settings = journal.settings
        n_prompts = journal.settings.get("n_prompts")
        self._indices = finished_prompts(journal, experiment)
        self.facts = Facts.of(
            {**journal.settings, "calibration": _calibration(journal, experiment)}.get,
            n_prompts=n_prompts,
            seconds=None,
            is_complete=len(self._indices) == n_prompts,
            is_published=False,
        )
        self._journal = journal
        self._findings = findings
        self._regrader = regrader

    def records(self) -> Iterator[PromptRecord]:
        """The finished prompts, ascending, one at a time in memory; what cannot be read is noted."""
        for index in self._indices:
            try:
                record = effective_record(self._journal, self.experiment, index)
            except StoreError as error:
                self._findings.problem(f"{error}; this prompt is left out")
                continue
            yield self._regrader.grouped(record) if self._regrader else record
        place = f"'{self._journal.folder}', {self.experiment.name},"
        self._findings.check_number(place, len(self._indices), self.facts.n_prompts)

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
    """The folder's experiments in their order. Raises ResultsError, which says all that is wrong, where there is none.

    `journal` is the folder's, where it is open already. `regrader` grades and groups what is not.
    """
    if not folder.is_dir():
        raise ResultsError(f"'{folder}' is not a folder: give one that eager run has written")
    n_known = len(findings.problems)
    journal = journal or _journal(folder, findings)
    found: list[Results] = [] if journal is None else _in_journal(journal, findings, regrader)
    in_journal = {results.path for results in found}
    found.extend(result_files(folder, findings, regrader, passed_over=in_journal))
    if not found:
        why = findings.problems[n_known:]
        reasons = f" ({'; '.join(why)})" if why else ""
        raise ResultsError(f"'{folder}' holds no results{reasons}: give a folder that eager run has written")
    return sorted(found, key=lambda results: results.experiment)


def result_files(
    folder: Path, findings: Findings, regrader: Regrader | None = None, passed_over: Set[Path] = frozenset()
) -> Iterator[ResultFile]:
    """The folder's result files by name; what is none is noted as a problem."""
    paths = [path for path in sorted(folder.iterdir()) if is_candidate(path.name) and path.is_file()]
    paths = [path for path in paths if path not in passed_over]
    if paths and not is_installed():
        names = ", ".join(path.name for path in paths)
        findings.problem(f"'{folder}': {names} cannot be read without ijson: pip install 'eager-gen[report]'")
        return
    for path in paths:
        try:
            yield ResultFile(path, findings, regrader)
        except ResultsError as error:  # noqa: PERF203 - one bad file must not cost the others
            findings.problem(str(error))


def _journal(folder: Path, findings: Findings) -> Journal | None:
    """The folder's journal; None without one, or where it is damaged, which is noted."""
    try:
        return Journal(folder) if (folder / JOURNAL_NAME).exists() else None
    except StoreError as error:
        findings.problem(f"{error}; the result files are read instead")
    except OSError as error:
        findings.problem(
            f"the journal in '{folder}' cannot be read ({error.strerror}): the result files are read instead"
        )
    return None


def _in_journal(journal: Journal, findings: Findings, regrader: Regrader | None) -> list[Results]:
    found: list[Results] = []
    for sentence in journal.problems:
        findings.problem(sentence)
    for sentence in journal.notices:
        findings.notice(sentence)
    for name in journal.experiments():
        try:
            experiment = Experiment.parse(name)
        except ValueError as error:  # noqa: PERF203 - one of another version must not cost the others
            findings.problem(f"'{journal.path}': {error}; it is left out")
        else:
            found.append(JournalResults(journal, experiment, findings, regrader))
    return found


def finished_prompts(journal: Journal, experiment: Experiment) -> list[int]:
    """Indices of the experiment's finished prompts, ascending; those that build on another's need its record, too."""
    return journal.prompts(experiment.name, None if experiment.base is None else experiment.base.name)


def effective_record(journal: Journal, experiment: Experiment, index: int) -> PromptRecord:
    """A finished prompt; in `eager_adapt` and `eager` with the `eager_init` sequences first. Raises StoreError."""
    record = journal.read(experiment.name, index)
    if experiment.base is not None:
        record = merged(journal.read(experiment.base.name, index), record)
    if not record.is_tree:
        raise StoreError(f"'{journal.path}', {experiment.name}, prompt {index}: names sequences that it does not hold")
    return record


def effective_records(journal: Journal, experiment: Experiment, regrader: Regrader) -> Iterator[PromptRecord]:
    """The experiment's finished prompts, ascending, each answer with its class. Raises StoreError."""
    for index in finished_prompts(journal, experiment):
        yield regrader.grouped(effective_record(journal, experiment, index))


def write_experiment(journal: Journal, experiment: Experiment, regrader: Regrader) -> ExperimentResult:
    """Write the experiment's result file into the journal's folder, atomically. Raises StoreError."""
    missing = [name for name in _NEEDED_SETTINGS if name not in journal.settings]
    if missing:
        raise StoreError(f"'{journal.path}', line 1: says no {', '.join(missing)}: put a copy of the file back")
    records = effective_records(journal, experiment, regrader)
    result = experiment_result(experiment, records, n_expected=journal.settings["n_prompts"])
    data_name = journal.settings["data_name"]
    entries = (prompt_entry(record, data_name) for record in effective_records(journal, experiment, regrader))
    write_result_file(_file_of(journal, experiment), _head(journal, result), list_key(experiment), entries)
    return result


def keep_older_file(journal: Journal, experiment: Experiment) -> list[str]:
    """Copy the result file that this experiment is going to replace, where the journal did not make it.

    Returns a sentence about it, if any. Raises StoreError.
    """
    path = _file_of(journal, experiment)
    if journal.count(experiment.name) or not path.is_file():
        return []
    copy = keep_copy(path, BEFORE_RUN)
    return [f"'{path}' was none of this folder's journal: kept as {copy.name}"]


def _file_of(journal: Journal, experiment: Experiment) -> Path:
    return journal.folder / f"{experiment.name}.json"


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
    settings, calibration = journal.settings, _calibration(journal, result.experiment)
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
        **({} if calibration is None else {"calibration": calibration}),
    }


def _calibration(journal: Journal, experiment: Experiment) -> dict[str, Any] | None:
    """How the experiment's threshold was found, where it was; see docs/calibration.md."""
    found = (entry for entry in journal.about.get("calibration", []) if entry["threshold"] == experiment.threshold)
    return next(found, None)
