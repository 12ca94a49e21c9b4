"""How far a call is, for those who wait: a bar in a notebook, a line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from eager.generator import Progress
from eager.words import count

OnProgress: TypeAlias = Callable[[Progress], None]
"""Called after every step of the engine, in the thread that drives it."""

_EVERY_SECONDS = 0.25


class _Bar(Protocol):
    def show(self, n_done: int, n_trees: int, text: str) -> None: ...

    def end(self) -> None: ...


@contextmanager
def shown(progress: bool | OnProgress, n_trees: int) -> Iterator[OnProgress]:
    """Who is to be told of every step; True is a bar of our own, which stays silent where nobody would see it."""
    if callable(progress):
        yield progress
        return
    bar = _bar() if progress else None
    if bar is None:
        yield lambda _: None
        return
    try:
        yield _throttled(bar, n_trees)
    finally:
        bar.end()


def _throttled(bar: _Bar, n_trees: int) -> OnProgress:
    last = started = time.monotonic()

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_SECONDS or not progress.trees_open:
            last = now
            bar.show(progress.trees_done, n_trees, _in_words(progress, n_trees, now - started))

    return show


def _in_words(progress: Progress, n_trees: int, seconds: float) -> str:
    rate = progress.n_tokens / max(seconds, 1e-9)
    return (
        f"{progress.trees_done}/{count(n_trees, 'tree')}, {count(progress.sequences_open, 'sequence')} open,"
        f" {progress.branches} branches, {rate:,.0f} tokens/s"
    )


def _bar() -> _Bar | None:
    ipython = sys.modules.get("IPython")  # a notebook has it imported
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display

        return _NotebookBar(display)
    return _Line() if sys.stderr.isatty() else None


class _NotebookBar:
    """One output of the cell, replaced again and again."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._handle = display({"text/plain": "0 trees"}, raw=True, display_id=True)

    def show(self, n_done: int, n_trees: int, text: str) -> None:
        html = f"<progress value='{n_done}' max='{n_trees}'></progress> {text}"
        self._handle.update({"text/html": html, "text/plain": text}, raw=True)

    def end(self) -> None:
        """What it showed last stays."""


class _Line:
    """One line that is written over."""

    def show(self, n_done: int, n_trees: int, text: str) -> None:
        sys.stderr.write(f"\r{text:<78}")
        sys.stderr.flush()

    def end(self) -> None:
        sys.stderr.write("\r" + " " * 78 + "\r")
        sys.stderr.flush()
