"""One self-contained HTML page and its plots over result folders: one pass over the results, the plots, the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eager.atomic import is_replaced, replacing, replacing_bytes
from eager.recap import Comparison, recap
from eager.report.collected import Collected
from eager.report.page import write_page
from eager.report.plots import PLOTS, Drawing, drawn
from eager.report.style import inline_svg
from eager.results.findings import ResultsError


@dataclass(frozen=True, slots=True)
class Report:
    """What was written; no plots where the page went into a pipe or a device."""

    page: Path
    plots: tuple[Path, ...]
    comparison: Comparison


def write_report(folders: Seq[Path], page: Path) -> Report:
    """Write `page` and, in a folder beside it, every plot as PNG and SVG. Raises ResultsError.

    A page that goes into a pipe or a device has nothing beside it.
    """
    collected = Collected()
    comparison = recap(folders, collected.see)
    drawings = {name: drawn(draw(comparison, collected.branches), name) for name, draw in PLOTS.items()}
    figures = {name: inline_svg(drawing.svg, name) for name, drawing in drawings.items()}
    plot_folder = page.parent / f"{page.stem}_plots"
    with _as_results_error(plot_folder):
        written = _write_plots(plot_folder, drawings) if is_replaced(page) else ()
    with _as_results_error(page), replacing(page) as file:
        write_page(file, comparison, collected, figures)
    return Report(page, written, comparison)


def _write_plots(folder: Path, drawings: Mapping[str, Drawing]) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, drawing in drawings.items():
        for suffix, data in ((".png", drawing.png), (".svg", drawing.svg.encode())):
            written.append(folder / f"{name}{suffix}")
            with replacing_bytes(written[-1]) as file:
                file.write(data)
    return tuple(written)


@contextmanager
def _as_results_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResultsError(f"cannot write '{place}' ({error.strerror}): give another --output") from None
