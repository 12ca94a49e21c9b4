"""A folder's recorded experiments under other rules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence as Seq
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from eager.errors import EagerError
from eager.replay.bounds import PromptBounds, ReplayResult, prompt_bounds, replay_result
from eager.replay.tree import KNOWN_RULES, Replayed, replay_parallel, replay_tree
from eager.results.experiment import Experiment, shortest
from eager.results.findings import Findings
from eager.results.folder import JournalResults, open_folder
from eager.results.scores import Regrader
from eager.store.journal import Journal
from eager.store.records import PromptRecord
from eager.types import MAX_ENTROPY, BranchConfig, rules_set


class ReplayError(EagerError):
    """The folder cannot be replayed as asked; the message names the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One recorded experiment under other rules; `threshold` None for `parallel`."""

    recorded: Experiment
    max_sequences: int
    threshold: float | None
    result: ReplayResult


def replay_journal(
    journal: Journal, max_sequences: Seq[int], thresholds: Seq[float], regrader: Regrader, findings: Findings
) -> list[ReplayRow]:
    """Every combination of the values, where none are given the recorded one. Raises ReplayError, ResultsError.

    What cannot be replayed, or read, is noted among the findings.
    """
    most = int(journal.settings["max_sequences"])
    if any(m > most for m in max_sequences):
        raise ReplayError(f"the run had at most {most} sequences a prompt: give --max_sequences from 1 to {most}")
    rows: list[ReplayRow] = []
    for results in open_folder(journal.folder, findings, regrader, journal):
        experiment = results.experiment
        if not isinstance(results, JournalResults):
            findings.notice(f"{results.path.name} is not in the journal: it cannot be replayed")
            continue
        asked: list[float | None]
        if experiment.kind == "parallel":
            asked = [None]
        elif experiment.kind == "eager_init" and experiment.threshold is not None:
            asked = [t for t in thresholds or (experiment.threshold,) if t >= experiment.threshold]
        else:
            findings.notice(f"{experiment.name} cannot be replayed: what was saved would go to trees that nobody grew")
            continue
        if experiment.kind == "eager_init" and (other := _other_rules(experiment, journal.settings)):
            findings.notice(f"{experiment.name} cannot be replayed: it was grown with {', '.join(sorted(other))}")
            continue
        rows += _rows(results, journal.settings, list(product(asked, max_sequences or (most,))))
    if thresholds and not any(row.threshold is not None for row in rows):
        raise ReplayError(
            f"'{journal.folder}' has no eager_init at a threshold of {shortest(min(thresholds))} or less:"
            " a tree can be replayed at its own threshold and at higher ones"
        )
    return rows


def _other_rules(experiment: Experiment, settings: Mapping[str, Any]) -> set[str]:
    """Those that have shaped the trees, and that a replay does not know."""
    settle = {"settle"} if settings.get("settle") is not None else set()
    return settle | (rules_set(recorded_rules(experiment, settings)) - KNOWN_RULES)


def _rows(
    results: JournalResults, settings: Mapping[str, Any], asked: Seq[tuple[float | None, int]]
) -> Iterator[ReplayRow]:
    """One for each (threshold, max_sequences), going through the records once."""
    bounds: list[list[PromptBounds]] = [[] for _ in asked]
    for record in results.records():
        most_tokens, has_grades = longest(record, settings), is_graded(record)
        for found, (threshold, max_sequences) in zip(bounds, asked, strict=True):
            replayed = _replayed(record, results.experiment, settings, threshold, max_sequences)
            found.append(prompt_bounds(replayed, most_tokens, is_graded=has_grades))
    for found, (threshold, max_sequences) in zip(bounds, asked, strict=True):
        if found:
            yield ReplayRow(results.experiment, max_sequences, threshold, replay_result(found))


def _replayed(
    record: PromptRecord, experiment: Experiment, settings: Mapping[str, Any], threshold: float | None, most: int
) -> Replayed:
    if threshold is None:
        return replay_parallel(record, most)
    rules = recorded_rules(experiment, settings)
    return replay_tree(record, rules, replace(rules, max_sequences=most, entropy_threshold=threshold))


def recorded_rules(experiment: Experiment, settings: Mapping[str, Any]) -> BranchConfig:
    """The rules under which a run has grown an experiment's trees."""
    said = {field.name: settings[field.name] for field in fields(BranchConfig) if field.name in settings}
    return BranchConfig(**{**said, "entropy_threshold": experiment.threshold or MAX_ENTROPY})


def longest(record: PromptRecord, settings: Mapping[str, Any]) -> float:
    """How many tokens a sequence of this prompt may have; infinite where nothing says it."""
    cut = [sequence.n_tokens for sequence in record.sequences if sequence.finish_reason == "length"]
    return max(cut, default=settings.get("max_tokens") or settings.get("max_model_len") or math.inf)


def is_graded(record: PromptRecord) -> bool:
    """Whether anything of the prompt has a grade."""
    return any(sequence.correct is not None for sequence in record.sequences)
