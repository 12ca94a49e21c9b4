"""What one pass over an experiment keeps: a few numbers a prompt, no texts and no entropies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from eager.metrics import GradedPrompt
from eager.recap.confidence import vote_weights
from eager.recap.correlation import peak_entropies
from eager.results.experiment import Experiment, Facts
from eager.results.scores import graded_prompt, lenient_prompt
from eager.store.records import PromptRecord


class PromptKeys:
    """Numbers prompts by their text, so that the same prompt is paired across files and folders."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, int], int] = {}

    def key(self, prompt: str, occurrence: int) -> int:
        """The number of the `occurrence`-th prompt of this text in its experiment."""
        digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
        return self._numbers.setdefault((digest, occurrence), len(self._numbers))


@dataclass(frozen=True, slots=True)
class PromptMeasure:
    """One prompt's grades and cost. `lenient` are its grades in the lenient reading, where any differs.

    `lengths` are the tokens generated for each sequence, `error` is what was said of the first one that failed.
    `peaks` is (sequences, percentiles), see `correlation`.
    """

    graded: GradedPrompt
    lenient: GradedPrompt | None
    lengths: tuple[int, ...]
    n_naive: int
    n_recomputed: int
    n_discarded: int
    n_failed: int
    n_cut: int
    error: str | None
    peaks: NDArray[np.float64]

    @property
    def n_sequences(self) -> int:
        return len(self.graded.correct)

    @property
    def n_generated(self) -> int:
        return sum(self.lengths)


@dataclass(slots=True)
class Measures:
    """One experiment of one folder, by prompt key in the order it was read."""

    label: str
    folder: str
    experiment: Experiment
    facts: Facts
    prompts: dict[int, PromptMeasure] = field(default_factory=dict)
    _occurrences: dict[str, int] = field(default_factory=dict)
    _seconds: float = 0.0

    def add(self, record: PromptRecord, keys: PromptKeys) -> int:
        """Measure a prompt; returns its key."""
        occurrence = self._occurrences.get(record.prompt, 0)
        self._occurrences[record.prompt] = occurrence + 1
        key = keys.key(record.prompt, occurrence)
        self._seconds += record.seconds
        self.prompts[key] = PromptMeasure(
            graded=replace(graded_prompt(record), weights=vote_weights(record.sequences)),
            lenient=lenient_prompt(record),
            lengths=tuple(sequence.n_own_tokens for sequence in record.sequences),
            n_naive=record.n_tokens_naive,
            n_recomputed=record.n_recomputed,
            n_discarded=record.n_discarded,
            n_failed=sum(sequence.finish_reason == "error" for sequence in record.sequences),
            n_cut=sum(sequence.finish_reason == "cut" for sequence in record.sequences),
            error=next((sequence.error for sequence in record.sequences if sequence.error), None),
            peaks=np.array([peak_entropies(sequence.entropies) for sequence in record.sequences]),
        )
        return key

    @property
    def seconds(self) -> float | None:
        """Wall seconds of generating; None where nobody noted them."""
        return self.facts.seconds if self.facts.seconds is not None else self._seconds or None

    def total(self, name: str) -> int:
        """The sum of a number over the prompts."""
        return sum(getattr(prompt, name) for prompt in self.prompts.values())
