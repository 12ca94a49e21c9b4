"""Votes weighed by the entropies that were recorded."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from result_builder import record, sequence, write_experiment_file
from rich.console import Console

from eager.recap import as_csv, as_json, print_comparison, recap
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


def test_a_sequence_that_was_never_monitored_weighs_as_the_others_do() -> None:
    """The mean of those that were, and nobody has a weight where none was; a parent that nobody knows says nothing."""
    unknown = sequence("b", "2", False, parent=None, fork=5, entropies=[None])
    known = [sequence("a", "1", True, entropies=[1.0]), sequence("c", "1", True, entropies=[0.4])]
    assert vote_weights([known[0], unknown, known[1]])[1] == pytest.approx(MAX_ENTROPY - 0.7)
    assert vote_weights([unknown, unknown]) == (None, None)


def weighted_folder(folder: Path) -> Path:
    """Two prompts: two unsure votes for a wrong answer against one sure one; and one that was never monitored."""
    unsure, sure = [2.5, 2.5], [0.1, 0.1]
    torn = [
        sequence("a", "41", False, entropies=unsure),
        sequence("b", "41", False, entropies=unsure),
        sequence("c", "42", True, entropies=sure),
        replace(sequence("d", None, None, entropies=[None]), finish_reason="cut"),
    ]
    blind = [sequence("a", "42", True, entropies=[None])]
    write_experiment_file(folder, "eager_init", [record("eager_init", 0, torn), record("eager_init", 1, blind)])
    return folder


def test_recap_weighs_votes_where_entropies_were_recorded(tmp_path: Path) -> None:
    """A column of the table, and lines for machines; over the prompts whose votes all have a weight, as is said."""
    comparison = recap([weighted_folder(tmp_path)])
    (row,) = comparison.rows
    assert (row.scores.cons_at_k.value, row.scores.cons_at_k.n_prompts) == (0.5, 2)
    assert (row.weighted_cons_at_k.value, row.weighted_cons_at_k.n_prompts) == (1.0, 1)
    assert json.loads(as_json(comparison))["experiments"][0]["weighted_cons_at_k"]["value"] == 1.0
    lines = {line["measure"]: line for line in csv.DictReader(io.StringIO(as_csv(comparison)))}
    assert (lines["weighted_cons_at_k"]["value"], lines["weighted_cons_at_k"]["n"]) == ("1.0", "1")
    shown = {}
    for is_brief in (False, True):
        console = Console(file=io.StringIO(), width=200)
        print_comparison(comparison, console, is_brief=is_brief)
        shown[is_brief] = console.file.getvalue()
    assert "weighted Cons@k" in shown[False]
    assert "100.0 % [100.0, 100.0] over 1" in shown[False]
    assert "weighted" not in shown[True]


def test_cut_sequences_are_told_apart_from_ungraded_ones(tmp_path: Path) -> None:
    """They cost and do not vote, as is said; nobody is asked to grade them."""
    notices = recap([weighted_folder(tmp_path)]).findings.notices
    assert [notice for notice in notices if "cut" in notice] == [
        "eager_init_th2.2: 1 sequence cut with a tree that ended before: in the costs, and in no score"
    ]
    assert not any("ungraded" in notice for notice in notices)
