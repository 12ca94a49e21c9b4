"""One prompt of one result file, read: the same data whoever wrote the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReadBranch:
    """A branch; `seq` and `new_seq` are None where the file does not let one tell."""

    seq: int | None
    position: int
    entropy: float
    threshold: float
    sampled_token: str
    kept_token: str
    new_token: str | None
    new_seq: int | None
    before: str


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """The sequences of one prompt, in parallel tuples.

    `entropies` keep the file's sentinels: below 0 is no entropy. `forks` is how many tokens a sequence took over from
    its parent. `correct` None is ungraded; `groups` number classes of equivalent answers, None is no answer.
    """

    index: int
    prompt: str
    target: str | None
    texts: tuple[str, ...]
    prompt_characters: int
    answers: tuple[str | None, ...]
    correct: tuple[bool | None, ...]
    groups: tuple[int | None, ...]
    entropies: tuple[NDArray[np.float32], ...]
    parents: tuple[int | None, ...]
    forks: tuple[int, ...]
    finish_reasons: tuple[str | None, ...]
    branches: tuple[ReadBranch, ...]
    n_generated: int
    n_naive: int
    n_recomputed: int
    n_discarded: int

    @property
    def n_sequences(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class ReadExperiment:
    """What a result file says of itself above its prompts. None: it does not say."""

    name: str
    kind: str
    threshold: float | None
    model_name: str | None
    data_name: str | None
    temperature: float | None
    max_sequences: int | None
    seed: int | None
    engine: str | None
    seconds: float | None
    n_prompts: int | None
    is_complete: bool
    is_published: bool
