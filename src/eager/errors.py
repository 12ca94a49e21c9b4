"""The root of all errors that end in one sentence, and how what others complain of is put into one."""

from __future__ import annotations

from eager.words import one_line


class EagerError(Exception):
    """Something a user can cause or cure; the message names the culprit and the remedy.

    Every package has its own below this one; the command line catches this one.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, cut to its first line; its type's name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def last_line(complaint: str | bytes) -> str:
    """What a program printed last before it failed, made safe to look at."""
    text = complaint if isinstance(complaint, str) else complaint.decode("utf-8", "replace")
    lines = text.strip().splitlines()
    return one_line(lines[-1], 300) if lines else "it said nothing"
