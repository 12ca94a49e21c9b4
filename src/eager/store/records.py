"""What the store keeps of one prompt in one experiment, and its form as a line of the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence as Seq
from dataclasses import asdict, dataclass, field
from typing import Any

from eager.types import Branch, FinishReason

_ENTROPY_PLACES = 4
_MOST_NUMBER = 2**53
# What may stand in a line, by field; lists and records are gone into.
_NUMBER, _TEXT, _INDEX, _GRADE = (float, int), (str,), (int,), (bool,)
_OR_NONE = (type(None),)
_RECORD_TYPES = {
    "experiment": _TEXT,
    "prompt_index": _INDEX,
    "prompt": _TEXT,
    "prompt_text": _TEXT,
    "target": _TEXT + _OR_NONE,
    "n_recomputed": _INDEX,
    "n_discarded": _INDEX,
    "seconds": _NUMBER,
    "meta": (dict,),
}
_SEQUENCE_TYPES = {
    "text": _TEXT,
    "finish_reason": _TEXT + _OR_NONE,
    "parent": _INDEX + _OR_NONE,
    "fork": _INDEX,
    "answer": _TEXT + _OR_NONE,
    "correct": _GRADE + _OR_NONE,
    "error": _TEXT + _OR_NONE,
    "group": _INDEX + _OR_NONE,
    "lenient": _GRADE + _OR_NONE,
}
_BRANCH_TYPES = {
    "seq": _INDEX + _OR_NONE,
    "position": _INDEX,
    "entropy": _NUMBER,
    "threshold": _NUMBER,
    "new_seq": _INDEX + _OR_NONE,
    "sampled_id": _INDEX + _OR_NONE,
    "kept_id": _INDEX + _OR_NONE,
    "new_id": _INDEX + _OR_NONE,
    "sampled_token": _TEXT + _OR_NONE,
    "kept_token": _TEXT + _OR_NONE,
    "new_token": _TEXT + _OR_NONE,
    "text_before": _TEXT,
}


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

    @property
    def is_tree(self) -> bool:
        """Whether parents and branches name sequences that are here: so they do in every whole prompt."""
        n = len(self.sequences)
        named = [sequence.parent for sequence in self.sequences]
        named += [seq for branch in self.branches for seq in (branch.seq, branch.new_seq)]
        return all(seq is None or 0 <= seq < n for seq in named)


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


def check_types(record: PromptRecord) -> None:
    """Raise TypeError where a value is of a kind that its field cannot have: for lines that no checksum vouches for."""
    _check_fields(record, _RECORD_TYPES)
    for branch in record.branches:
        _check_fields(branch, _BRANCH_TYPES)
    for sequence in record.sequences:
        _check_fields(sequence, _SEQUENCE_TYPES)
        _check_all("token_ids", sequence.token_ids or (), _INDEX)
        _check_all("entropies", sequence.entropies, _NUMBER + _OR_NONE)


def _check_fields(item: object, types: dict[str, tuple[type, ...]]) -> None:
    for name, kinds in types.items():
        _check_all(name, (getattr(item, name),), kinds)


def _check_all(name: str, values: Iterable[Any], kinds: tuple[type, ...]) -> None:
    """Of numbers the sizes, too: no count is negative, none beyond what a float counts."""
    for value in values:
        is_number = type(value) in _NUMBER
        if type(value) not in kinds or (is_number and not 0 <= value < _MOST_NUMBER):
            raise TypeError(f"{name} cannot be {value!r}")


def _sequence(item: dict[str, Any]) -> SequenceRecord:
    fields = dict(item)
    token_ids: Seq[int] = fields.pop("token_ids")
    entropies: Seq[float | None] = fields.pop("entropies")
    return SequenceRecord(token_ids=tuple(token_ids), entropies=tuple(entropies), **fields)
