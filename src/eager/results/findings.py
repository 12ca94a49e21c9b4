"""What a reader of results should know beside the results."""

from __future__ import annotations

from eager.errors import EagerError
from eager.words import count


class ResultsError(EagerError):
    """There is nothing to read or it cannot be written; the message names the place, the reason and the remedy."""


class Findings:
    """`problems` are losses, `notices` are not. Each sentence counts once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []

    def problem(self, sentence: str) -> None:
        """Something could not be read and is missing from the numbers."""
        if sentence not in self.problems:
            self.problems.append(sentence)

    def notice(self, sentence: str) -> None:
        """Everything is there, but means something else than one would think."""
        if sentence not in self.notices:
            self.notices.append(sentence)

    def check_number(self, place: str, n_prompts: int, expected: int | None) -> None:
        """Notice that a run is not finished."""
        if expected is not None and n_prompts < expected:
            self.notice(f"{place} holds {n_prompts:,} of {count(expected, 'prompt')}: the run is not finished")
