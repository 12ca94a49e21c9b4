"""The options of engine openai."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from eager.engines.base import EngineError
from eager.engines.options import (
    AT_ONCE,
    DURATION,
    SWITCH,
    TEXT,
    ChatOptions,
    EngineOptions,
    Kind,
    is_number,
    one_of,
    option,
    secret,
    shown,
    whole,
)

_MOST_IDS = 4096
_LARGEST_ID = 2**31 - 1
DRAWS = ("auto", "gate", "server", "opening")


def _are_ids(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MOST_IDS:
        return False
    return all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i <= _LARGEST_ID for i in value)


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and 0 < len(value.strip()) < 8192


_IDS = Kind("a list of token ids", _are_ids)
_KEY = Kind("a text of printable ASCII characters", _is_key)
_RETRIES = whole(0, 1000)
_WAIT = Kind("a number above 0 and at most 86400", lambda value: is_number(value) and 0 < value <= 86400)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIOptions(ChatOptions):
    """The options of `OpenAIEngine`.

    `base_url` is where the servers are, several separated by commas; `api_key` is told to them alone. At most
    `max_in_flight` sequences are streamed at once (`capacity` says the same). A stream that says nothing for
    `chunk_timeout` seconds, or `first_chunk_timeout` before its first token, is taken for dead; a sequence is tried
    again `max_retries` times in a row without a token before it fails. When no server answers for `give_up_after`
    seconds the engine breaks. `tokenizer` is a folder with the model's tokenizer, used in place of the server's;
    `stop_token_ids` are the ids that end a sequence, where neither says them. `insecure` leaves certificates unchecked.
    `draws` says how tokens are drawn, where the server offers several ways (docs/engines.md).
    With `whole_trees` one request is one tree where all servers have EAGer's plugin (docs/tree-requests.md).
    """

    engine: ClassVar[str] = "openai"

    base_url: str | None = option(None, TEXT)
    api_key: str | None = secret(_KEY)
    max_in_flight: int = option(256, AT_ONCE)
    give_up_after: float = option(600.0, DURATION)
    chunk_timeout: float = option(120.0, _WAIT)
    first_chunk_timeout: float = option(600.0, _WAIT)
    max_retries: int = option(10, _RETRIES)
    tokenizer: str | None = option(None, TEXT, is_bound=True)
    stop_token_ids: Seq[int] | None = option(None, _IDS, is_bound=True)
    draws: str = option("auto", one_of(*DRAWS), is_bound=True)
    insecure: bool = option(False, SWITCH)
    whole_trees: bool = option(True, SWITCH)

    def __post_init__(self) -> None:
        EngineOptions.__post_init__(self)
        if self.base_url is None:
            raise EngineError("engine openai needs base_url: give the server's address as http://HOST:PORT")
        for url in self.urls:
            _check_url(url)
        if len(set(self.urls)) < len(self.urls):
            raise EngineError("base_url names one address twice: name each server once")
        if self.chat_date is not None and self.tokenizer is None:
            raise EngineError(
                "chat_date is the server's own where it makes the prompts: give tokenizer, too, or neither"
            )

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses, without a slash or /v1 at the end."""
        parts = [part.strip().rstrip("/") for part in (self.base_url or "").split(",")]
        return tuple(part.removesuffix("/v1").rstrip("/") for part in parts if part)

    @property
    def n_at_once(self) -> int:
        """How many sequences are streamed at once, at most."""
        return self.capacity or self.max_in_flight


def _check_url(url: str) -> None:
    """Raises EngineError where it is no address of a server, or holds what would be written down with it."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise EngineError(f"base_url must be an address as http://HOST:PORT, got {shown(url)}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise EngineError("base_url must hold no key, user or query, which would be written down: give a key by itself")
