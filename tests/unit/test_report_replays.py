"""What the report's plot of accuracy against tokens shows of fewer sequences."""

from dataclasses import replace
from pathlib import Path

import needs
from result_builder import demo_folder, record, sequence, write_experiment_file

from eager.recap import recap
from eager.report.collected import Collected, with_fewer_sequences

needs.package("matplotlib", "report")


def test_a_half_a_quarter_and_so_on_of_parallel_and_init(tmp_path: Path) -> None:
    """Each prompt once at each number of sequences; not of the policies, which nobody can replay."""
    collected = Collected()
    comparison = recap([demo_folder(tmp_path, n_prompts=5, max_sequences=8)], collected.see)
    smaller = {row.measures.experiment.kind: collected.branches[row.measures.label].smaller for row in comparison.rows}
    for kind in ("parallel", "eager_init"):
        assert {m: len(prompts) for m, prompts in smaller[kind].items()} == {4: 5, 2: 5, 1: 5}
    assert smaller["eager_adapt"] == smaller["eager"] == {}
    assert all(prompt.is_exact and prompt.n_sequences == (2, 2) for prompt in smaller["parallel"][2])


def test_the_published_code_is_not_replayed(tmp_path: Path) -> None:
    """Its sequences lie in the order in which they ended."""
    item = record("parallel", 0, [sequence("a", "42", True)] * 4)
    write_experiment_file(tmp_path, "parallel", [item])
    (row,) = recap([tmp_path]).rows
    assert [m for m, _ in with_fewer_sequences(row.measures, item)] == [2, 1]
    row.measures.facts = replace(row.measures.facts, is_published=True)
    assert list(with_fewer_sequences(row.measures, item)) == []


def test_the_plot_has_a_line_through_what_is_exact(tmp_path: Path) -> None:
    """Parallel at 1, 2, 4 and 8 sequences, the most tokens first; and the same of trees that threw nothing away."""
    from eager.report.plots import tradeoff

    collected = Collected()
    comparison = recap([demo_folder(tmp_path, n_prompts=5, max_sequences=8)], collected.see)
    axis = tradeoff(comparison, collected.branches).axes[0]
    line, of_init = [line for line in axis.get_lines() if line.get_marker() == "." and len(line.get_xdata()) == 4]
    assert of_init.get_xdata()[0] == comparison.rows[1].n_generated / 1e3
    assert sorted(line.get_xdata(), reverse=True) == list(line.get_xdata())
    assert line.get_xdata()[0] == comparison.rows[0].n_generated / 1e3
