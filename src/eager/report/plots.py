"""The plots, each a function from the comparison to a figure; no pyplot, so nothing global."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from eager.metrics import Score, per_prompt, prompt_pass_rate
from eager.recap.compare import Comparison, Row
from eager.recap.correlation import PERCENTILES
from eager.replay.bounds import PromptBounds, replay_result
from eager.report.collected import Branches
from eager.report.style import GRID, INK, KIND_COLOURS, KIND_MARKERS, MUTED, RC, line_style
from eager.words import one_line

Draw = Callable[[Comparison, Mapping[str, Branches]], Figure]

_N_PAIRS = 12
_WIDTH = 9.6
_PEAK = PERCENTILES.index(99.0)


@contextmanager
def _settings(ours: Mapping[str, Any]) -> Iterator[None]:
    """Ours on matplotlib's own: no matplotlibrc, wherever it lies, changes what the same results look like."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(ours)
        yield


class Drawing(NamedTuple):
    """A plot as files have it."""

    svg: str
    png: bytes


def drawn(figure: Figure, name: str) -> Drawing:
    """The figure. The same results give the same files: no date, and ids from the plot's name."""
    svg, png = io.StringIO(), io.BytesIO()
    with _settings({**RC, "svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160)
    return Drawing(svg.getvalue(), png.getvalue())


def _figure(n_panels: int, height: float, **options: Any) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(_WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    axes = figure.subplots(1, n_panels, squeeze=False, **options)
    return figure, list(axes[0])


def name_of(row: Row) -> str:
    """The experiment as legends say it."""
    measures = row.measures
    name = measures.experiment.title
    return f"{name} ({measures.folder})" if measures.folder else name


def _look(row: Row, comparison: Comparison) -> dict[str, Any]:
    kind = row.measures.experiment.kind
    style = line_style(row.measures, [other.measures for other in comparison.rows])
    return {"color": KIND_COLOURS[kind], "linestyle": style}


def _legend(figure: Figure, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        n_columns = max(1, min(4, len(labels), int(110 / (8 + max(map(len, labels))))))
        figure.legend(handles, labels, loc="outside upper left", ncols=n_columns)


def tradeoff(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
    """Accuracy against tokens generated, an experiment a point; thresholds of one kind are joined.

    Lines and thin bars are replays with fewer sequences: exact ones, and those between bounds.
    """
    figure, axes = _figure(3, 3.5)
    for axis, (name, attribute) in zip(
        axes, (("Pass@k", "pass_at_k"), ("Cons@k", "cons_at_k"), ("Pass rate", "pass_rate")), strict=True
    ):
        axis.set_title(name)
        _join_thresholds(axis, comparison, attribute)
        for row in comparison.rows:
            _point(axis, row, comparison, getattr(row.scores, attribute))
            _replays(axis, row, comparison, attribute, branches[row.measures.label].smaller)
        axis.set_xlabel("million tokens generated" if _in_millions(comparison) else "thousand tokens generated")
        axis.set_xlim(0, 1.12 * max(_tokens(row, comparison) for row in comparison.rows) or 1)
        axis.margins(y=0.12)
        _in_percent(axis)
    _legend(figure, axes[0])
    return figure


def _in_percent(axis: Any) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def _in_millions(comparison: Comparison) -> bool:
    return max(row.n_generated for row in comparison.rows) >= 1_000_000


def _tokens(row: Row, comparison: Comparison) -> float:
    return row.n_generated / (1e6 if _in_millions(comparison) else 1e3)


def _point(axis: Any, row: Row, comparison: Comparison, score: Score) -> None:
    if score.value is None or score.low is None or score.high is None:
        return
    look = _look(row, comparison)
    below, above = max(0.0, score.value - score.low), max(0.0, score.high - score.value)
    axis.errorbar(
        [_tokens(row, comparison)],
        [score.value],
        yerr=[[below], [above]],
        fmt=KIND_MARKERS[row.measures.experiment.kind],
        color=look["color"],
        markersize=7,
        markerfacecolor=look["color"] if look["linestyle"] == "-" else "none",
        elinewidth=1.4,
        capsize=3,
        label=name_of(row),
    )


def _replays(
    axis: Any, row: Row, comparison: Comparison, attribute: str, smaller: Mapping[int, list[PromptBounds]]
) -> None:
    """With fewer sequences: a line through what is exact, a cross from bound to bound for the rest that has any."""
    look, unit = _look(row, comparison), 1e6 if _in_millions(comparison) else 1e3
    exact = [(_tokens(row, comparison), getattr(row.scores, attribute).value)]
    for prompts in smaller.values():
        result = replay_result(prompts)
        low, high = (score.value for score in getattr(result, attribute))
        if low is None or high is None:
            continue
        left, right = (tokens / unit for tokens in result.n_tokens)
        if result.n_exact == result.n_prompts:
            exact.append((left, low))
        elif math.isfinite(right):
            x, y = (left + right) / 2, (low + high) / 2
            bars = {"xerr": (right - left) / 2, "yerr": (high - low) / 2}
            axis.errorbar([x], [y], **bars, fmt="none", color=look["color"], elinewidth=0.8, alpha=0.5)
    if len(exact) > 1 and exact[0][1] is not None:
        axis.plot(*zip(*exact, strict=True), marker=".", linewidth=0.8, alpha=0.6, **look)


def _join_thresholds(axis: Any, comparison: Comparison, attribute: str) -> None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in comparison.rows:
        groups.setdefault((row.measures.folder, row.measures.experiment.kind), []).append(row)
    for rows in groups.values():
        points = [(_tokens(row, comparison), getattr(row.scores, attribute).value) for row in rows]
        points = sorted(point for point in points if point[1] is not None)
        if len(points) > 1:
            axis.plot(*zip(*points, strict=True), linewidth=1.2, alpha=0.6, **_look(rows[0], comparison))


def pass_at_j(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
    """Unbiased pass@j with its interval as a band."""
    del branches
    figure, (axis,) = _figure(1, 3.6)
    longest = 1
    for place, row in enumerate(comparison.rows):
        curve = [score for score in row.scores.pass_at_curve if score.value is not None]
        if not curve:
            continue
        longest = max(longest, len(curve))
        # Single points would lie on top of each other: moved apart by a hair.
        x = np.arange(1, len(curve) + 1) if len(curve) > 1 else np.array([1.02**place])
        look = _look(row, comparison)
        marker = KIND_MARKERS[row.measures.experiment.kind]
        values = [score.value for score in curve]
        axis.plot(x, values, label=name_of(row), linewidth=2, marker=marker, markersize=4.5, **look)
        low, high = [score.low for score in curve], [score.high for score in curve]
        if len(curve) > 1:
            axis.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        else:
            axis.vlines(x, low, high, color=look["color"], linewidth=1.4, alpha=0.6)
    axis.set_xscale("log", base=2)
    ticks = [2**i for i in range(int(math.log2(longest)) + 1)]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("j, sequences drawn")
    _in_percent(axis)
    _legend(figure, axis)
    return figure


def sequences_per_prompt(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
    """How many sequences each prompt got, prompts in descending order."""
    del branches
    figure, (axis,) = _figure(1, 3.2)
    for row, width in zip(comparison.rows, _widths(len(comparison.rows)), strict=True):
        numbers = sorted((prompt.n_sequences for prompt in row.measures.prompts.values()), reverse=True)
        edges = np.arange(len(numbers) + 1) + 0.5
        axis.stairs(numbers, edges, baseline=None, label=name_of(row), linewidth=width, **_look(row, comparison))
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("prompts, those with the most sequences first")
    axis.set_ylabel("sequences")
    _legend(figure, axis)
    return figure


def where_branches(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
    """Branches by position, by entropy, and the token pairs most often branched on."""
    figure, axes = _figure(3, 4.0, width_ratios=(1, 1, 1.15))
    rows = [
        row for row in comparison.rows if branches.get(row.measures.label) and branches[row.measures.label].positions
    ]
    _histogram(axes[0], rows, comparison, {row.measures.label: branches[row.measures.label].positions for row in rows})
    axes[0].set_title("Position")
    axes[0].set_xlabel("generated tokens before the branch")
    _histogram(axes[1], rows, comparison, {row.measures.label: branches[row.measures.label].entropies for row in rows})
    axes[1].set_title("Entropy")
    axes[1].set_xlabel("nats")
    for threshold in _thresholds(rows, branches)[:6]:
        axes[1].axvline(threshold, color=MUTED, linewidth=1, linestyle=":")
    _pairs(axes[2], _first_pairs(rows, branches))
    _legend(figure, axes[0])
    return figure


def _thresholds(rows: list[Row], branches: Mapping[str, Branches]) -> list[float]:
    """Those asked for, ascending: at a branch it may have been raised to a percentile, or lowered by a round.

    Where a file does not say what was asked for, the lowest at a branch.
    """
    asked = {
        row.measures.label: row.measures.experiment.threshold or min(branches[row.measures.label].thresholds)
        for row in rows
    }
    return sorted(set(asked.values()))


def _histogram(axis: Any, rows: list[Row], comparison: Comparison, values: Mapping[str, list[Any]]) -> None:
    everything = [value for row in rows for value in values[row.measures.label]]
    if not everything:
        axis.text(0.5, 0.5, "no branches", transform=axis.transAxes, ha="center", va="center", color=MUTED)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    edges = np.histogram_bin_edges(everything, bins=min(30, max(5, int(math.sqrt(len(everything))))))
    for row, width in zip(rows, _widths(len(rows)), strict=True):
        counts, _ = np.histogram(values[row.measures.label], edges)
        axis.stairs(counts, edges, label=name_of(row), linewidth=width, **_look(row, comparison))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(bottom=0)


def _widths(n: int) -> list[float]:
    """Line widths from thick to thin, so that a line under another one still shows."""
    return [max(1.2, 3.4 - 0.9 * place) for place in range(n)]


def _first_pairs(rows: list[Row], branches: Mapping[str, Branches]) -> Counter[tuple[str, str]]:
    """Those of eager_init: eager_adapt and eager hold the same branches again."""
    chosen = [row for row in rows if row.measures.experiment.kind == "eager_init"] or rows[:1]
    total: Counter[tuple[str, str]] = Counter()
    for row in chosen:
        total.update(branches[row.measures.label].pairs)
    return total


def _pairs(axis: Any, pairs: Counter[tuple[str, str]]) -> None:
    axis.set_title("Token pairs, kept \u2192 new")
    axis.grid(visible=False)
    axis.set_xticks([])
    aligned = axis.get_yaxis_transform()
    # By number, then by text: ties come in the same order every time.
    most = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_N_PAIRS]
    for place, ((kept, new), number) in enumerate(most):
        axis.barh(place, number, height=0.62, color=GRID)
        axis.text(
            0, place, f" {shown_token(kept)} \u2192 {shown_token(new)}", va="center", ha="left", fontsize=9, color=INK
        )
        axis.text(1, place, f"{number}", va="center", ha="right", fontsize=9, color=MUTED, transform=aligned)
    axis.set_yticks([])
    axis.set_ylim(max(_N_PAIRS, len(most)) - 0.5, -0.5)
    axis.set_xlim(0, 1.12 * max((number for _, number in most), default=1))
    axis.spines["bottom"].set_visible(False)


def shown_token(token: str) -> str:
    """A token with its spaces and line breaks to be seen."""
    return one_line(token.replace("\n", "\u23ce").replace("\t", "\u21e5").replace(" ", "\u2423"), 14)


def entropy_accuracy(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
    """Prompts by their peak entropy and pass rate; and the correlation by percentile."""
    del branches
    figure, axes = _figure(2, 3.8)
    axes[0].set_title("Prompts")
    axes[0].set_xlabel("mean entropy of the top 1 % tokens, nats")
    axes[0].set_ylabel("pass rate")
    _in_percent(axes[0])
    axes[1].set_title("Correlation: Pearson filled, Spearman hollow")
    axes[1].set_xlabel("percentile of the sequence's entropies")
    axes[1].axhline(0, color=MUTED, linewidth=1)
    axes[1].set_xticks(range(len(PERCENTILES)), [f"{p:g}" for p in PERCENTILES])
    axes[1].set_ylim(-1.05, 1.05)
    for row in comparison.rows:
        look, marker = _look(row, comparison), KIND_MARKERS[row.measures.experiment.kind]
        points = list(_peak_points(row))
        if points:
            x, y = zip(*points, strict=True)
            axes[0].scatter(
                x, y, s=26, marker=marker, color=look["color"], alpha=0.55, linewidths=0, label=name_of(row)
            )
        over = [found for found in row.correlations if found.over == "sequences"]
        for attribute, fill in (("pearson", look["color"]), ("spearman", "none")):
            values = [(i, getattr(found, attribute)) for i, found in enumerate(over)]
            values = [(i, value) for i, value in values if value is not None]
            if values:
                x, y = zip(*values, strict=True)
                axes[1].plot(x, y, marker=marker, markersize=5, markerfacecolor=fill, linewidth=1.2, **look)
    _legend(figure, axes[0])
    return figure


def _peak_points(row: Row) -> Iterator[tuple[float, float]]:
    """Peak entropy and pass rate of every prompt that has both."""
    prompts = row.measures.prompts
    for key, rate in per_prompt({key: prompt.graded for key, prompt in prompts.items()}, prompt_pass_rate).items():
        peaks = prompts[key].peaks[:, _PEAK]
        if not np.isnan(peaks).all():
            yield float(np.nanmean(peaks)), rate


def _themed(draw: Draw) -> Draw:
    def drawn(comparison: Comparison, branches: Mapping[str, Branches]) -> Figure:
        with _settings(RC):
            return draw(comparison, branches)

    return drawn


PLOTS: dict[str, Draw] = {
    "tradeoff": _themed(tradeoff),
    "pass_at_j": _themed(pass_at_j),
    "branches": _themed(where_branches),
    "sequences": _themed(sequences_per_prompt),
    "entropy": _themed(entropy_accuracy),
}
