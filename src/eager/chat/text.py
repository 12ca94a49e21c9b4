"""Texts as they come: whole characters only, up to where a stop text begins."""

from __future__ import annotations

from collections.abc import Sequence as Seq


def cut(text: str, stops: Seq[str]) -> tuple[str, bool]:
    """The text before the stop text that begins first in it, and whether there was one."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def n_held_back(text: str, stops: Seq[str]) -> int:
    """How many characters at its end may yet turn out to be a part of a stop text, or of a character."""
    held = len(text) - len(text.rstrip("\ufffd"))
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), held, -1):
            if text.endswith(stop[:n]):
                held = n
                break
    return held


class TextStream:
    """The text of one sequence, of which more and more is known.

    Tokens cannot be made into text one by one: some are parts of a character, others lose their space at a beginning.
    So new ones are looked at behind a few old ones: `window` are the ids to make text of, twice (vLLM's way).
    """

    def __init__(self, stops: Seq[str]) -> None:
        self._stops = stops
        self._ids: list[int] = []
        self._first = self._next = 0  # of the window; of the new ones in it
        self._pending = ""
        self.is_over = False

    def add(self, ids: Seq[int]) -> None:
        """More tokens."""
        self._ids.extend(ids)

    @property
    def windows(self) -> tuple[list[int], list[int]]:
        """Some old ids, and the same with the new ones behind them."""
        return self._ids[self._first : self._next], self._ids[self._first :]

    def take(self, old_text: str, new_text: str) -> str:
        """What may be shown by now, of the texts of `windows`."""
        if not new_text.endswith("\ufffd"):
            self._pending += new_text[len(old_text) :]
            self._first, self._next = self._next, len(self._ids)
        return self._shown(n_held_back(self._pending, self._stops))

    def end(self, old_text: str, new_text: str) -> str:
        """All that is left, of the texts of `windows`."""
        self._pending += new_text[len(old_text) :]
        return self._shown(0)

    def _shown(self, n_held: int) -> str:
        if self.is_over:
            return ""
        text, self.is_over = cut(self._pending, self._stops)
        if not self.is_over:
            text = self._pending[: len(self._pending) - n_held]
        self._pending = self._pending[len(text) :]
        return text
