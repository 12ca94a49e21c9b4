"""What a sequence's vote weighs, from the entropies that were recorded anyway: after DeepConf (arXiv 2508.15260)."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from numpy.typing import NDArray

from eager.store.records import SequenceRecord
from eager.types import MAX_ENTROPY


def vote_weights(sequences: Seq[SequenceRecord]) -> tuple[float | None, ...]:
    """ln K less the mean entropy of each of a prompt's sequences: 0 (uniform) to ln K (certain).

    The mean is over the whole way from the prompt, tokens taken over from the parent included, as far as it was
    monitored: a tree's sequences stop being monitored together, so that their means cover about the same positions. A
    sequence that never was (a tree of one place) weighs as much as the others on average; None where no other does.
    """
    ways: list[NDArray[np.float64]] = []
    for sequence in sequences:
        ways.append(np.concatenate((_inherited(sequence, ways), np.array(sequence.entropies, dtype=np.float64))))
    weights = [_weight(way[~np.isnan(way)]) for way in ways]
    known = [weight for weight in weights if weight is not None]
    average = sum(known) / len(known) if known else None
    return tuple(average if weight is None else weight for weight in weights)


def _inherited(sequence: SequenceRecord, ways: Seq[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The entropies that lie before its own; nan where not recorded, or where nobody says whose they are."""
    if sequence.parent is None or sequence.parent >= len(ways):
        return np.full(sequence.fork, np.nan)
    return ways[sequence.parent][: sequence.fork]


def _weight(recorded: NDArray[np.float64]) -> float | None:
    return MAX_ENTROPY - float(recorded.mean()) if len(recorded) else None
