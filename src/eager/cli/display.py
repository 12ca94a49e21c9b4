"""What a run prints while it works."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from eager.generate import Progress

_LINE_EVERY_SECONDS = 10.0
_REDRAW_EVERY_SECONDS = 0.25


class Display:
    """One line that is redrawn on a terminal, a plain line now and then elsewhere. A context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        # FORCE_COLOR does not make a log a place where a line can be redrawn, and a dumb terminal is none.
        self._can_redraw = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._experiment = ""
        self._started = self._shown = 0.0
        self._n_done_at_start = 0

    def __enter__(self) -> Display:
        if self._can_redraw:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(Text(text), soft_wrap=True)

    def show(self, experiment: str, n_done: int, n_prompts: int, progress: Progress) -> None:
        """Told after every engine step; prints rarely."""
        now = time.monotonic()
        if experiment != self._experiment:
            self._experiment, self._started, self._shown, self._n_done_at_start = experiment, now, now, n_done
        every = _REDRAW_EVERY_SECONDS if self._can_redraw else _LINE_EVERY_SECONDS
        if now - self._shown < every:
            return
        self._shown = now
        line = Text(self._line(now - self._started, n_done, n_prompts, progress))
        if self._can_redraw:
            self._live.update(line, refresh=True)
        else:
            self._console.print(line, soft_wrap=True)

    def _line(self, seconds: float, n_done: int, n_prompts: int, progress: Progress) -> str:
        if progress.waiting is not None:
            return f"{self._experiment}: {n_done}/{n_prompts} prompts, {progress.waiting}"
        done_now = n_done - self._n_done_at_start
        left = f"{_clock(seconds / done_now * (n_prompts - n_done))} left" if done_now else "time left unknown"
        return (
            f"{self._experiment}: {n_done}/{n_prompts} prompts, {progress.sequences_open} sequences open, "
            f"{progress.branches} branches, {progress.n_tokens / max(seconds, 1e-9):.0f} tokens/s, {left}"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
