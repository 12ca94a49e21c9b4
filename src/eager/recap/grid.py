"""Tables that never cut a number or a name: where they are too wide, a row becomes a block of lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence as Seq
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = 2
_NARROWEST_TEXT = 16

Parts = Callable[[str], Seq[str]]


def _whole(text: str) -> list[str]:
    return [text]


# What must stay on one line of a header and of a number's cell, from the most beautiful to the narrowest.
_LAYOUTS: tuple[tuple[Parts, Parts], ...] = (
    (_whole, _whole),
    (str.split, _whole),
    (str.split, str.splitlines),
    (str.split, str.split),
)


@dataclass(slots=True)
class Grid:
    """A table whose first column names the rows; `texts` are the columns, by number, that may be folded."""

    title: str
    headers: Seq[str]
    texts: frozenset[int] = frozenset({0})
    rows: list[Seq[str]] = field(default_factory=list)

    def print_on(self, console: Console) -> None:
        """Print it as a table if it fits, else row by row."""
        print_wrapped(console, self.title, style="bold")
        for of_header, of_cell in _LAYOUTS:
            rows = self.rows if of_cell is _whole else [self._in_two_lines(row) for row in self.rows]
            widths = self._widths(console.width, rows, of_header, of_cell)
            if widths is not None:
                console.print(self._table(rows, widths))
                return
        self._print_stacked(console)

    def _in_two_lines(self, row: Seq[str]) -> list[str]:
        """A number's interval below it."""
        return [cell if column in self.texts else cell.replace(" [", "\n[") for column, cell in enumerate(row)]

    def _widths(self, room: int, rows: Seq[Seq[str]], of_header: Parts, of_cell: Parts) -> list[int] | None:
        """Those of the columns; None where they do not fit. Texts give way, the widest first."""
        widths, narrowest = [], []
        for column, header in enumerate(self.headers):
            cells = [row[column] for row in rows]
            is_text = column in self.texts
            whole = cells if is_text else [part for cell in cells for part in of_cell(cell)]
            widths.append(_widest([*of_header(header), *whole]))
            folded = [piece for cell in cells for piece in _pieces(cell)] if is_text else whole
            narrowest.append(max(_widest([*of_header(header), *folded]), min(_NARROWEST_TEXT, _widest(whole))))
        spare = room - sum(widths) - _GAP * (len(widths) - 1)
        for column in sorted(self.texts, key=lambda column: -widths[column]):
            given = min(max(-spare, 0), widths[column] - narrowest[column])
            widths[column] -= given
            spare += given
        return widths if spare >= 0 else None

    def _table(self, rows: Seq[Seq[str]], widths: Seq[int]) -> Table:
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        for column, (header, width) in enumerate(zip(self.headers, widths, strict=True)):
            is_text = column in self.texts
            # Text: a folder's name is no markup.
            table.add_column(Text(header), width=width, justify="left" if is_text else "right")
        for row in rows:
            cells = [
                _folded(cell, width) if column in self.texts else cell
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            table.add_row(*map(Text, cells))
        return table

    def _print_stacked(self, console: Console) -> None:
        for row in self.rows:
            print_wrapped(console, row[0])
            for header, cell in zip(self.headers[1:], row[1:], strict=True):
                if cell:
                    print_wrapped(console, f"{header}: {cell}", indent="  ")


def print_wrapped(console: Console, text: str, *, indent: str = "", style: str = "") -> None:
    """Print a text broken at its spaces only: what is longer than a line is left to the terminal."""
    lines = textwrap.wrap(
        text, max(console.width, 1), initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    console.print(Text("\n".join(lines), style=style), soft_wrap=True)


def _widest(texts: Seq[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _pieces(name: str) -> list[str]:
    """What is not broken: `eager_init_th1.2` keeps its threshold whole."""
    return re.findall(r"[^/_ ]*[/_ ]|[^/_ ]+", name)


def _folded(name: str, width: int) -> str:
    """`name` in lines of at most `width`, broken between its pieces."""
    lines = [""]
    for piece in _pieces(name):
        if cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
