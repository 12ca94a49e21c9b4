"""The colours of plots and page: one palette, which the page's CSS knows under names and re-colours in the dark."""

from __future__ import annotations

import re
from collections.abc import Sequence as Seq
from typing import Any

from eager.recap.measure import Measures

INK = "#1c2530"
MUTED = "#5d6875"
GRID = "#e4e8ed"
KIND_COLOURS = {
    "parallel": "#707a86",
    "eager_init": "#2463d6",
    "eager_adapt": "#8b45c9",
    "eager": "#b8650a",
    "eager_vote": "#1b7f5c",
}
KIND_MARKERS = {"parallel": "s", "eager_init": "o", "eager_adapt": "^", "eager": "D", "eager_vote": "v"}
LINE_STYLES = ("-", "--", ":", "-.")

_VARIABLES = {"#ffffff": "paper", INK: "ink", MUTED: "muted", GRID: "grid"} | {
    colour: kind.replace("_", "-") for kind, colour in KIND_COLOURS.items()
}

# Any: matplotlib types every one of its settings by name.
RC: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "text.parse_math": False,  # tokens of a model are no formulae
}


def line_style(measures: Measures, experiments: Seq[Measures]) -> str:
    """A line style a folder: colour tells the kind."""
    folders = list(dict.fromkeys(other.folder for other in experiments))
    return LINE_STYLES[folders.index(measures.folder) % len(LINE_STYLES)]


def inline_svg(svg: str, name: str) -> str:
    """matplotlib's SVG for the page: no XML head, unique ids, our fonts, and colours that follow the page's theme."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: (?:[a-z]+ )*[\d.]+px )[^;\"]*", r"\1var(--font)", svg)
    svg = re.sub(r"<svg ([^>]*?)width=\"[^\"]*\"", r'<svg \1width="100%"', svg, count=1)
    svg = re.sub(r"(<svg [^>]*?) height=\"[^\"]*\"", r"\1", svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
