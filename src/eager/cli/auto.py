"""Thresholds that are to be found: `--entropy_threshold auto[:target]`, from the calibration in the output folder."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

from eager.calibrate.calibration import (
    THRESHOLDS,
    Calibration,
    Choice,
    calibrated,
    chosen,
    read_calibration,
    settings_of_streams,
    write_calibration,
)
from eager.calibrate.target import Target
from eager.cli.display import Display
from eager.engines import Engine
from eager.experiments import RunPlan
from eager.store.journal import Journal
from eager.tasks import LoadedTask

N_PROMPTS = 16
"""How many problems are calibrated on, unless told."""


def with_found_thresholds(
    plan: RunPlan, task: LoadedTask, engine: Engine, journal: Journal, asked: Seq[float | Target], display: Display
) -> tuple[RunPlan, list[dict[str, Any]]]:
    """The plan with every threshold asked for, and what is to be known of all that the folder's runs have found.

    Raises CalibrationError, StoreError or EngineError.
    """
    known = {entry["threshold"]: entry for entry in journal.about.get("calibration", [])}
    targets = [threshold for threshold in asked if isinstance(threshold, Target)]
    if targets:
        calibration = _calibration(plan, task, engine, journal, targets[0], display)
        choices = {target: chosen(calibration, plan.rules[0], target) for target in targets}
        for choice in choices.values():
            display.say(in_words(choice))
            known[choice.threshold] = entry_of(calibration, choice)
        thresholds = dict.fromkeys(choices[t].threshold if isinstance(t, Target) else t for t in asked)
        plan = replace(plan, rules=tuple(replace(plan.rules[0], entropy_threshold=t) for t in thresholds))
    return plan, list(known.values())


def _calibration(
    plan: RunPlan, task: LoadedTask, engine: Engine, journal: Journal, target: Target, display: Display
) -> Calibration:
    """The folder's own; made now where it has none."""
    settings = settings_of_streams(journal.settings, engine)
    found = read_calibration(journal.folder, settings)
    if found is None:
        few = replace(task, problems=task.problems[:N_PROMPTS])
        found = drawn(plan, few, engine, settings, display)
        exposure = found.exposure(plan.rules[0])
        choice = chosen(found, plan.rules[0], target)
        write_calibration(journal.folder, found, choice, [exposure.at(threshold) for threshold in THRESHOLDS])
    return found


def drawn(plan: RunPlan, task: LoadedTask, engine: Engine, settings: dict[str, Any], display: Display) -> Calibration:
    """A calibration on the task's problems, its progress shown."""
    n = len(task.problems)
    with display:
        return calibrated(
            engine, task, plan, settings, lambda progress: display.show("calibrate", progress.trees_done, n, progress)
        )


def in_words(choice: Choice) -> str:
    """The threshold and what it is expected to take."""
    estimate = choice.estimate
    sequences, tokens, saved = (
        score.value or 0.0 for score in (estimate.n_sequences, estimate.n_tokens, estimate.saved)
    )
    return (
        f"entropy_threshold {choice.threshold:g} for {choice.target}: {sequences:.1f} of {choice.rules.max_sequences}"
        f" sequences and {tokens:,.0f} tokens a prompt expected, {100 * saved:.0f} % saved"
    )


def entry_of(calibration: Calibration, choice: Choice) -> dict[str, Any]:
    """What a result file says of a threshold that was found."""
    return {
        "threshold": choice.threshold,
        "target": str(choice.target),
        "n_prompts": len(calibration.streams),
        "n_tokens": calibration.n_tokens,
    }
