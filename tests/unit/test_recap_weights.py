"""Votes weighed by the entropies that were recorded."""

from __future__ import annotations

import pytest
from result_builder import sequence

from eager.recap.confidence import vote_weights
from eager.types import MAX_ENTROPY


def test_a_vote_weighs_what_its_mean_entropy_leaves_of_ln_k() -> None:
    """Over its own tokens and those that it took over, as far as they were monitored."""
    sequences = [
        sequence("a", "1", True, entropies=[0.5, 1.5, 1.0, None]),
        sequence("b", "2", False, parent=0, fork=2, entropies=[2.5, None, None]),
        sequence("c", "2", False, parent=1, fork=3, entropies=[]),
    ]
    means = [(0.5 + 1.5 + 1.0) / 3, (0.5 + 1.5 + 2.5) / 3, (0.5 + 1.5 + 2.5) / 3]
    assert vote_weights(sequences) == pytest.approx([MAX_ENTROPY - mean for mean in means])


def test_a_sequence_that_was_never_monitored_has_no_weight() -> None:
    """Nor has one whose parent nobody knows, where its own tokens were not monitored."""
    unknown = sequence("b", "2", False, parent=None, fork=5, entropies=[None])
    assert vote_weights([sequence("a", "1", True, entropies=[None, None]), unknown]) == (None, None)
