"""What can go wrong with a server, by what helps: another try, nothing for this sequence, or nothing at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import stamina

from eager.engines.base import EngineLostError
from eager.words import one_line

_LONGEST_REASON = 300
_LONGEST_PAUSE = 300.0  # seconds; a server may ask for more, and gets asked again
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 10.0, 0.5  # seconds between tries, where the server says nothing
_NOT_NOW = {408, 425, 429}
_KEY_REFUSED = {401, 403}
# Tries that failed are told of by what comes of them; stamina's own lines would stand in the middle of the display.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class FaultError(Exception):
    """Another try may cure it. `pause`: seconds that the server asked for; `is_down`: whether it is the server's."""

    def __init__(self, reason: str, *, pause: float | None = None, is_down: bool = False) -> None:
        super().__init__(reason)
        self.pause = pause
        self.is_down = is_down


class RefusalError(Exception):
    """No other try cures it, and it is of this request alone."""


def pause_after(error: Exception) -> bool | float:
    """Whether another try may help, and in how many seconds where the server said so: what stamina asks."""
    if not isinstance(error, FaultError):
        return False
    return True if error.pause is None else error.pause


def tries(max_retries: int) -> Any:
    """stamina's attempts at what a FaultError may stop: one, and so many more."""
    return stamina.retry_context(
        on=pause_after,
        attempts=max_retries + 1,
        timeout=None,
        wait_initial=_FIRST_WAIT,
        wait_max=_LONGEST_WAIT,
        wait_jitter=_JITTER,
    )


def given_up(error: FaultError | RefusalError, max_retries: int, scrub: Callable[[str], str]) -> str:
    """Why nothing came of it, and how often that was tried."""
    tried = f", and {max_retries} more tries did not help" if isinstance(error, FaultError) else ""
    return scrub(f"{error}") + tried


def answered(status: int, reason: str, url: str, retry_after: str | None = None) -> Exception:
    """What an answer with this status is: an EngineLostError where it would be everybody's."""
    said = f"{url} answers {status} ({reason})"
    if status in _KEY_REFUSED:
        return EngineLostError(f"{said}: give the server's key as EAGER_API_KEY")
    if status == 404:
        return EngineLostError(f"{said}: check --model_name and --base_url")
    if 300 <= status < 400:
        return EngineLostError(f"{said}, which sends elsewhere, and the key goes nowhere else: give that as --base_url")
    if status in _NOT_NOW:
        return FaultError(said, pause=seconds_of(retry_after))
    if status >= 500:
        return FaultError(said, pause=seconds_of(retry_after), is_down=status in (502, 503, 504))
    return RefusalError(said)


def seconds_of(retry_after: str | None) -> float | None:
    """How long a Retry-After asks to wait, in seconds or until a date; None where it says nothing."""
    if retry_after is None:
        return None
    with suppress(ValueError):
        return min(max(float(int(retry_after)), 0.0), _LONGEST_PAUSE)
    with suppress(ValueError, TypeError):
        wait = (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds()
        return min(max(wait, 0.0), _LONGEST_PAUSE)
    return None


def scrubber(key: str | None) -> Callable[[str], str]:
    """What makes a server's words fit to be shown: on one line, and without the key that was told to it."""

    def scrub(text: str) -> str:
        if key:
            text = text.replace(key, "[key]")
        return one_line(text, _LONGEST_REASON).rstrip(".")

    return scrub


def said(complaint: bytes | Mapping[str, Any] | str) -> str:
    """The sentence in what a server answers with an error: {"error": {"message": …}}, {"error": …} or plain text."""
    found: Any = complaint
    if isinstance(complaint, bytes):
        try:
            found = msgspec.json.decode(complaint)
        except (msgspec.DecodeError, RecursionError):
            return complaint.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()
