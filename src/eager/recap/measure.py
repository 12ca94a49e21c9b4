"""What one pass over a result file keeps: a few numbers a prompt, no texts and no entropies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eager.metrics import GradedPrompt
from eager.recap.correlation import peak_entropies
from eager.recap.prompt import ReadExperiment, ReadPrompt


class PromptKeys:
    """Numbers prompts by their text, so that the same prompt is paired across files and folders."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, int], int] = {}

    def key(self, prompt: str, occurrence: int) -> int:
        """The number of the `occurrence`-th prompt of this text in its file."""
        digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
        return self._numbers.setdefault((digest, occurrence), len(self._numbers))


@dataclass(frozen=True, slots=True)
class PromptMeasure:
    """One prompt's grades and cost. `peaks` is (sequences, percentiles), see `correlation`."""

    graded: GradedPrompt
    n_generated: int
    n_naive: int
    n_recomputed: int
    n_discarded: int
    peaks: NDArray[np.float64]

    @property
    def n_sequences(self) -> int:
        return len(self.graded.correct)


@dataclass(slots=True)
class Measures:
    """One experiment of one folder, by prompt key in the file's order."""

    label: str
    folder: str
    experiment: ReadExperiment
    prompts: dict[int, PromptMeasure] = field(default_factory=dict)
    _occurrences: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: ReadPrompt, keys: PromptKeys) -> int:
        """Measure a prompt; returns its key."""
        occurrence = self._occurrences.get(prompt.prompt, 0)
        self._occurrences[prompt.prompt] = occurrence + 1
        key = keys.key(prompt.prompt, occurrence)
        self.prompts[key] = PromptMeasure(
            graded=GradedPrompt(prompt.correct, prompt.groups),
            n_generated=prompt.n_generated,
            n_naive=prompt.n_naive,
            n_recomputed=prompt.n_recomputed,
            n_discarded=prompt.n_discarded,
            peaks=np.array([peak_entropies(e) for e in prompt.entropies]),
        )
        return key

    def total(self, name: str) -> int:
        """The sum of a number over the prompts."""
        return sum(getattr(prompt, name) for prompt in self.prompts.values())
