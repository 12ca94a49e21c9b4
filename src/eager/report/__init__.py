"""One self-contained HTML page and its plots over result folders: one pass over the results, the plots, the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eager.atomic import replacing
from eager.recap import Comparison, recap
from eager.report.collected import Collected
from eager.report.page import write_page
from eager.report.plots import PLOTS, save_plot
from eager.results.findings import ResultsError


@dataclass(frozen=True, slots=True)
class Report:
    """What was written."""

    page: Path
    plots: tuple[Path, ...]
    comparison: Comparison


def write_report(folders: Seq[Path], page: Path) -> Report:
    """Write `page` and, in a folder beside it, every plot as PNG and SVG. Raises ResultsError."""
    collected = Collected()
    comparison = recap(folders, collected.see)
    plot_folder = page.parent / f"{page.stem}_plots"
    written, figures = list[Path](), dict[str, str]()
    with _as_results_error(plot_folder):
        plot_folder.mkdir(parents=True, exist_ok=True)
        for name, draw in PLOTS.items():
            paths, figures[name] = save_plot(draw(comparison, collected.branches), plot_folder / name)
            written += paths
    with _as_results_error(page), replacing(page) as file:
        write_page(file, comparison, collected, figures)
    return Report(page, tuple(written), comparison)


@contextmanager
def _as_results_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsError(f"cannot write '{place}' ({error.strerror}): give another --output") from None
