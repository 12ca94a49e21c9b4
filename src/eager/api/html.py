"""Texts under titles that fold, as a piece of HTML for notebooks.

All that a model or a user wrote is made visible and escaped; nothing is loaded, nothing runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from eager.words import visible

_MOST_CHARACTERS, _TAIL = 2000, 300
_TEXT_STYLE = "white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;margin:.2em 0 .6em 1.5em"
_TITLE_STYLE = "opacity:.7"


@dataclass(frozen=True, slots=True)
class Part:
    """A text under its title."""

    title: str
    text: str
    is_open: bool


def foldable(headline: str, parts: Iterable[Part], n_left_out: int) -> str:
    """All parts under the headline; a long text is cut in its middle, and it says so."""
    pieces = [f"<b>{_safe(headline)}</b>", *map(_details, parts)]
    if n_left_out:
        pieces.append(f"<div>and {n_left_out:,} more</div>")
    return f"<div>{''.join(pieces)}</div>"


def _details(part: Part) -> str:
    return (
        f"<details{' open' if part.is_open else ''}><summary style='{_TITLE_STYLE}'>{_safe(part.title)}</summary>"
        f"<div style='{_TEXT_STYLE}'>{_safe(_cut(part.text))}</div></details>"
    )


def _cut(text: str) -> str:
    """Beginning and end: the answer stands at the end."""
    n_left_out = len(text) - _MOST_CHARACTERS
    if n_left_out <= 0:
        return text
    return f"{text[: _MOST_CHARACTERS - _TAIL]}\n[… {n_left_out:,} characters …]\n{text[-_TAIL:]}"


def _safe(text: str) -> str:
    return escape(visible(text))
