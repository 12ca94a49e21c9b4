"""What the store keeps of one prompt in one experiment, and its form as a line of the journal."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, field
from typing import Any

from eager.types import Branch, FinishReason

_ENTROPY_PLACES = 4


@dataclass(frozen=True, slots=True)
class SequenceRecord:
    """A finished sequence with its text and grade.

    `token_ids` and `entropies` (nats, None for a token that was not monitored) are its own only: the first `fork`
    tokens are those of `parent`, an index into the prompt's sequences. `text` is the whole generated text. `correct`
    None means ungraded, `answer` None none found. `group` numbers the class of equivalent answers among all of the
    prompt's sequences. `lenient` is the grade of a more lenient reading, where that reads another answer. A result file
    says no ids and perhaps no finish_reason, a journal of old no group: None.
    """

    token_ids: tuple[int, ...] | None
    entropies: tuple[float | None, ...]
    text: str
    finish_reason: FinishReason | None
    parent: int | None = None
    fork: int = 0
    answer: str | None = None
    correct: bool | None = None
    error: str | None = None
    group: int | None = None
    lenient: bool | None = None

    @property
    def n_own_tokens(self) -> int:
        return len(self.entropies)

    @property
    def n_tokens(self) -> int:
        return self.fork + self.n_own_tokens


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """One finished prompt of one experiment.

    In `eager_adapt` and `eager` it holds the extra sequences only, numbered on from those of `eager_init`; see
    `merged`. `prompt` is the problem as the data set has it, `prompt_text` what the model was given, template
    included. `seconds` is the wall time since the experiment's previous record.
    """

    experiment: str
    prompt_index: int
    prompt: str
    prompt_text: str
    target: str | None
    sequences: tuple[SequenceRecord, ...]
    branches: tuple[Branch, ...] = ()
    n_recomputed: int = 0
    n_discarded: int = 0
    seconds: float = 0.0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Tokens generated, a shared prefix counted once."""
        return sum(sequence.n_own_tokens for sequence in self.sequences)

    @property
    def n_tokens_naive(self) -> int:
        """Tokens a sampler without sharing would have generated for the same sequences."""
        return sum(sequence.n_tokens for sequence in self.sequences)


def merged(first: PromptRecord, extra: PromptRecord) -> PromptRecord:
    """`first` with the sequences that `extra` added to it, under `extra`'s experiment."""
    return PromptRecord(
        experiment=extra.experiment,
        prompt_index=first.prompt_index,
        prompt=first.prompt,
        prompt_text=first.prompt_text,
        target=first.target,
        sequences=first.sequences + extra.sequences,
        branches=first.branches + extra.branches,
        n_recomputed=first.n_recomputed + extra.n_recomputed,
        n_discarded=first.n_discarded + extra.n_discarded,
        seconds=first.seconds + extra.seconds,
        meta=first.meta,
    )


def to_line(record: PromptRecord) -> dict[str, Any]:
    """The record as JSON data; entropies rounded to 4 places."""
    line = asdict(record)
    for sequence in line["sequences"]:
        sequence["entropies"] = [None if e is None else round(e, _ENTROPY_PLACES) for e in sequence["entropies"]]
    return line


def from_line(line: dict[str, Any]) -> PromptRecord:
    """The record of one journal line; the branches of old lines lack their ids.

    Raises KeyError, TypeError or ValueError where the line is no record.
    """
    fields = dict(line)
    sequences = tuple(_sequence(item) for item in fields.pop("sequences"))
    branches = tuple(Branch(**item) for item in fields.pop("branches"))
    return PromptRecord(sequences=sequences, branches=branches, **fields)


def _sequence(item: dict[str, Any]) -> SequenceRecord:
    fields = dict(item)
    token_ids: Seq[int] = fields.pop("token_ids")
    entropies: Seq[float | None] = fields.pop("entropies")
    return SequenceRecord(token_ids=tuple(token_ids), entropies=tuple(entropies), **fields)
