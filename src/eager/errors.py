"""The root of all errors that end in one sentence, and the one place that makes a sentence of a library's error."""

from __future__ import annotations


class EagerError(Exception):
    """Something a user can cause or cure; the message names the culprit and the remedy.

    Every package has its own below this one; the command line catches this one.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, cut to its first line; its type's name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
