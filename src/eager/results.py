"""From the journal to results: an experiment's effective records, its scores, and its result file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from eager.grading import MathGrader
from eager.metrics import GradedPrompt, Summary, summarise
from eager.store import Journal, PromptRecord, generations_key, merged, prompt_entry, write_result_file

EXTRA_KINDS = ("eager_adapt", "eager")


def experiment_name(kind: str, threshold: float | None) -> str:
    """`parallel`, or the kind with its threshold: `eager_init_th2.2`."""
    return kind if kind == "parallel" or threshold is None else f"{kind}_th{threshold:g}"


def split_name(experiment: str) -> tuple[str, float | None]:
    """The kind and the threshold (None for parallel) of an experiment's name."""
    kind, _, threshold = experiment.rpartition("_th")
    return (kind, float(threshold)) if kind else (experiment, None)


def effective_records(journal: Journal, experiment: str) -> Iterator[PromptRecord]:
    """The experiment's finished prompts, ascending; `eager_adapt` and `eager` with the `eager_init` they build on."""
    kind, threshold = split_name(experiment)
    for record in journal.records(experiment):
        if kind in EXTRA_KINDS and threshold is not None:
            first = journal.read(experiment_name("eager_init", threshold), record.prompt_index)
            yield merged(first, record)
        else:
            yield record


def graded_prompt(record: PromptRecord, grader: MathGrader) -> GradedPrompt:
    """The record as the metrics see it: grades, and classes of equivalent answers."""
    groups = grader.group([sequence.answer for sequence in record.sequences])
    return GradedPrompt(tuple(sequence.correct for sequence in record.sequences), tuple(groups))


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What an experiment cost and how well it did, over the prompts finished so far."""

    experiment: str
    n_prompts: int
    n_sequences: int
    n_tokens: int
    n_tokens_naive: int
    n_recomputed: int
    n_discarded: int
    n_errors: int
    seconds: float
    scores: Summary
    groups: dict[int, tuple[int | None, ...]]
    """Answer classes by prompt index."""


def experiment_result(journal: Journal, experiment: str, grader: MathGrader) -> ExperimentResult:
    """Read the experiment's records once, holding one in memory at a time."""
    graded: dict[int, GradedPrompt] = {}
    totals = dict.fromkeys(("n_sequences", "n_tokens", "n_tokens_naive", "n_recomputed", "n_discarded", "n_errors"), 0)
    seconds = 0.0
    for record in effective_records(journal, experiment):
        graded[record.prompt_index] = graded_prompt(record, grader)
        totals["n_sequences"] += len(record.sequences)
        totals["n_errors"] += sum(sequence.finish_reason == "error" for sequence in record.sequences)
        for name in ("n_tokens", "n_tokens_naive", "n_recomputed", "n_discarded"):
            totals[name] += getattr(record, name)
        seconds += record.seconds
    return ExperimentResult(
        experiment=experiment,
        n_prompts=len(graded),
        seconds=seconds,
        # Intervals are for the end: of many prompts they take longer than everything else in a write.
        scores=summarise(list(graded.values()), with_intervals=len(graded) == journal.settings["n_prompts"]),
        groups={index: prompt.groups for index, prompt in graded.items()},
        **totals,
    )


def write_experiment(journal: Journal, experiment: str, grader: MathGrader) -> ExperimentResult:
    """Write the experiment's result file into the journal's folder, atomically. Raises StoreError."""
    result = experiment_result(journal, experiment, grader)
    entries = (
        prompt_entry(record, result.groups[record.prompt_index]) for record in effective_records(journal, experiment)
    )
    path = journal.folder / f"{experiment}.json"
    write_result_file(path, _head(journal, result), generations_key(experiment), entries)
    return result


def _head(journal: Journal, result: ExperimentResult) -> dict[str, Any]:
    """Everything of the result file above the list of prompts."""
    settings = journal.settings
    kind, threshold = split_name(result.experiment)
    n_done, n_total = result.n_prompts, settings["n_prompts"]
    return {
        "model_name": settings["model_name"],
        "temperature": settings["temperature"],
        "entropy_threshold": threshold,
        "max_sequences": settings["max_sequences"],
        "seed": settings["seed"],
        "status": {
            "state": "COMPLETED" if n_done == n_total else "RUNNING",
            "completed_sequences": n_done,
            "total_sequences": n_total,
            "progress": f"{n_done}/{n_total}",
        },
        "extra": _extra(journal, kind, result),
        "results": _scores(result.scores),
    }


def _extra(journal: Journal, kind: str, result: ExperimentResult) -> dict[str, Any]:
    settings = journal.settings
    return {
        "notes": journal.about.get("notes", ""),
        "generation_time_so_far (s)": result.seconds,
        "experiment": kind,
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


def _scores(scores: Summary) -> dict[str, Any]:
    return {
        "avg_acc": scores.pass_rate.value,
        "pass_at_1": scores.pass_at_k.value,
        "cons_at_max": scores.cons_at_k.value,
        "details": asdict(scores),
    }
