"""Runs made small enough to be committed, and read again: by prompt what scores and costs are made of, no texts.

A file a line of evidence, benchmarks/results/LINE.jsonl.xz. Its first line says the run's settings; then comes the
calibration where there was one; then a line a prompt and experiment. Only complete experiments are kept: the prompts
that are finished first are the short ones.
"""

from __future__ import annotations

import json
import lzma
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eager.calibrate.calibration import CALIBRATION_NAME
from eager.grading import MathGrader
from eager.metrics import GradedPrompt
from eager.recap.confidence import vote_weights
from eager.recap.measure import Measures, PromptMeasure
from eager.results.experiment import Experiment, Facts
from eager.results.findings import Findings, ResultsError
from eager.results.folder import open_folder
from eager.results.scores import Regrader
from eager.store.journal import Journal
from eager.store.records import PromptRecord

RESULTS = Path(__file__).resolve().parent / "results"
SUFFIX = ".jsonl.xz"
FIGURE = "tradeoff.svg"
_WEIGHT_PLACES = 4
_MOST_ANSWER = 60  # characters
_NO_PEAKS = np.empty((0, 0))


@dataclass(frozen=True)
class Packed:
    """A line of evidence.

    `n_at_limit` counts the sequences that ran into max_tokens, by experiment. `figure` is the name of a file beside it.
    """

    name: str
    settings: dict[str, Any]
    versions: dict[str, str]
    experiments: dict[str, Measures]
    calibration: dict[str, Any] | None = None
    n_at_limit: dict[str, int] = field(default_factory=dict)
    figure: str | None = None


# -- writing -----------------------------------------------------------------------------------------------------------


def pack(name: str, folder: Path, calibration: Path | None = None, into: Path = RESULTS) -> list[Path]:
    """Write what is complete of a run's folder, and its figure. Returns the files.

    Exits where there is nothing, and where answers have no grade yet: they would count as wrong.
    """
    calibration = calibration or folder / CALIBRATION_NAME
    with MathGrader() as grader:
        try:
            results = open_folder(folder, Findings(), Regrader(grader))
        except ResultsError as error:
            raise SystemExit(str(error)) from None
        found = [experiment for experiment in results if experiment.facts.is_complete]
        if not found and not calibration.is_file():
            raise SystemExit(f"'{folder}' holds no complete experiment and no calibration: nothing is packed")
        records = [record for experiment in found for record in experiment.records()]
    if not all(map(is_graded, records)):
        raise SystemExit(f"'{folder}' has answers without a grade: nothing is packed before eager eval-code has run")
    into.mkdir(exist_ok=True)
    path = into / f"{name}{SUFFIX}"
    with lzma.open(path, "wt", encoding="utf-8") as file:
        for line in [*_head(folder, calibration), *map(packed_record, records)]:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
    return [path] if len(found) < len(results) else [path, _figure(folder, into / f"{name}.{FIGURE}")]


def is_graded(record: PromptRecord) -> bool:
    """Whether all answers have a grade: programs get theirs by being run, and EAGer goes by them."""
    return all(s.correct is not None for s in record.sequences if s.finish_reason not in ("error", "cut"))


def _head(folder: Path, calibration: Path) -> Iterator[dict[str, Any]]:
    journal = Journal(folder)
    yield {"settings": _without_place(journal.settings), "versions": journal.about.get("versions", {})}
    if calibration.is_file():
        said = json.loads(calibration.read_text(encoding="utf-8"))
        yield {"calibration": {**said, "settings": _without_place(said["settings"])}}


def _without_place(settings: dict[str, Any]) -> dict[str, Any]:
    """The model by its name, not by where it lay."""
    return {**settings, "model_name": Path(settings["model_name"]).name}


def packed_record(record: PromptRecord) -> dict[str, Any]:
    """A prompt in one experiment. `answers` are what the first sequence of each class said, shortened."""
    sequences = record.sequences
    weights = vote_weights(sequences)
    said = {s.group: s.answer for s in reversed(sequences) if s.group is not None and s.answer is not None}
    return {
        "experiment": record.experiment,
        "prompt": record.prompt_index,
        "correct": [None if s.correct is None else int(s.correct) for s in sequences],
        "groups": [s.group for s in sequences],
        "tokens": [s.n_own_tokens for s in sequences],
        "weights": [None if weight is None else round(weight, _WEIGHT_PLACES) for weight in weights],
        "answers": {str(group): said[group][:_MOST_ANSWER] for group in sorted(said)},
        "branches": len(record.branches),
        "naive": record.n_tokens_naive,
        "recomputed": record.n_recomputed,
        "discarded": record.n_discarded,
        "failed": sum(s.finish_reason == "error" for s in sequences),
        "cut": sum(s.finish_reason == "cut" for s in sequences),
        "at_limit": sum(s.finish_reason == "length" for s in sequences),
        "seconds": round(record.seconds, 2),
    }


def _figure(folder: Path, path: Path) -> Path:
    """Accuracy against tokens, as `eager report` draws it."""
    from eager.report import write_report  # only here: reading needs no matplotlib

    with tempfile.TemporaryDirectory() as temporary:
        plots = write_report([folder], Path(temporary) / "report.html").plots
        path.write_bytes(next(plot for plot in plots if plot.name == FIGURE).read_bytes())
    return path


# -- reading -----------------------------------------------------------------------------------------------------------


def packed_lines(folder: Path) -> dict[str, Packed]:
    """All lines of evidence in a folder, by name."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    return {name: read(name, path) for path in paths if (name := path.name.removesuffix(SUFFIX))}


def read(name: str, path: Path) -> Packed:
    """A line of evidence, its experiments in the order of a run."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        head, *rest = map(json.loads, file)
    calibration = rest.pop(0)["calibration"] if rest and "calibration" in rest[0] else None
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in rest:
        rows.setdefault(row["experiment"], []).append(row)
    experiments = sorted(map(Experiment.parse, rows))
    return Packed(
        name=name,
        settings=head["settings"],
        versions=head["versions"],
        experiments={e.name: _measures(name, e, head["settings"], rows[e.name]) for e in experiments},
        calibration=calibration,
        n_at_limit={e.name: sum(row["at_limit"] for row in rows[e.name]) for e in experiments},
        figure=figure.name if (figure := path.with_name(f"{name}.{FIGURE}")).exists() else None,
    )


def _measures(line: str, experiment: Experiment, settings: dict[str, Any], rows: list[dict[str, Any]]) -> Measures:
    facts = Facts.of(
        settings.get,
        n_prompts=len(rows),
        seconds=sum(row["seconds"] for row in rows),
        is_complete=True,
        is_published=False,
    )
    prompts = {row["prompt"]: _prompt(row) for row in rows}
    return Measures(experiment.title, line, experiment, facts, prompts)


def _prompt(row: dict[str, Any]) -> PromptMeasure:
    correct = tuple(None if grade is None else bool(grade) for grade in row["correct"])
    return PromptMeasure(
        graded=GradedPrompt(correct, tuple(row["groups"]), tuple(row["weights"])),
        lenient=None,
        lengths=tuple(row["tokens"]),
        n_naive=row["naive"],
        n_recomputed=row["recomputed"],
        n_discarded=row["discarded"],
        n_failed=row["failed"],
        n_cut=row["cut"],
        error=None,
        peaks=_NO_PEAKS,
    )
