"""What the options of all engines have in common: each has its default, its range and its effect said once.

Nothing heavy is imported here or beside it, so that the command line can tell the options without an engine.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar

from eager.engines.base import EngineError
from eager.words import one_line

_Options = TypeVar("_Options", bound="EngineOptions")


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    wanted: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_LARGEST = 2**63  # of what anything is counted in
_LARGEST_COUNT = 2**31 - 1  # what the libraries count in


def is_number(value: Any) -> bool:
    """Whether it can be counted with: no boolean, no nan, no infinity."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _LARGEST
    return isinstance(value, float) and math.isfinite(value)


def whole(least: int, most: int) -> Kind:
    """A whole number in this range."""
    return Kind(f"a whole number from {least} to {most}", lambda value: _is_whole(value) and least <= value <= most)


COUNT = whole(1, _LARGEST_COUNT)
NATURAL = whole(0, _LARGEST_COUNT)
WHOLE = whole(-_LARGEST, _LARGEST - 1)
AT_ONCE = whole(1, 65536)
_LARGEST_GIB, _DAY = 1 << 20, 86400
SIZE = Kind(
    f"a number above 0 and at most {_LARGEST_GIB}", lambda value: is_number(value) and 0 < value <= _LARGEST_GIB
)
DURATION = Kind(f"a number from 0 to {_DAY}", lambda value: is_number(value) and 0 <= value <= _DAY)
SHARE = Kind("a number above 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1)
TEXT = Kind("a text", lambda value: isinstance(value, str) and bool(value))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


DATE = Kind("a date as 2026-01-31, or a moment as 2026-01-31T12:00:00", _is_date)


def one_of(*names: str) -> Kind:
    """One of these texts."""
    return Kind("one of " + ", ".join(names), lambda value: value in names)


# Arguments of the template or of transformers' function around it that the engines set themselves.
_TEMPLATE_NAMES = {"messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"}
_RENDER_NAMES = {"conversation", "chat_template", "continue_final_message", "return_assistant_tokens_mask"}
_TOKENIZE_NAMES = {"tokenize", "return_dict", "padding", "truncation", "max_length", "return_tensors"}
_CHAT_NAMES = _TEMPLATE_NAMES | _RENDER_NAMES | _TOKENIZE_NAMES | {"tokenizer_kwargs"}
CHAT_KWARGS = Kind(
    "an object with none of the names that the engine sets itself (messages, add_generation_prompt, bos_token …)",
    lambda value: isinstance(value, Mapping) and all(isinstance(n, str) and n not in _CHAT_NAMES for n in value),
)


def shown(value: Any) -> str:
    """A value that was given, as a sentence has it."""
    try:
        return one_line(repr(value), 80)
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a longer number"


def option(default: Any, kind: Kind, *, is_bound: bool = False) -> Any:
    """A field of an options class; None as default means that something else chooses.

    `is_bound`: it can change the results, so a folder is bound to it.
    """
    return field(default=default, metadata={"kind": kind, "is_bound": is_bound})


def secret(kind: Kind) -> Any:
    """A field of an options class that is neither shown nor written down; None where it is not given."""
    return field(default=None, repr=False, metadata={"kind": kind, "is_bound": False, "is_secret": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What every engine takes. A value outside its range is an EngineError.

    `max_model_len` bounds prompt and generated tokens together; the model's own bound may be lower. `capacity` is how
    many sequences are decoded at once. `library` goes to the engine's library as it is.
    """

    max_model_len: int = option(32768, COUNT, is_bound=True)
    capacity: int | None = option(None, AT_ONCE)
    library: Mapping[str, Any] = field(default_factory=dict)

    engine: ClassVar[str]
    library_title: ClassVar[str] = ""
    refused: ClassVar[Mapping[str, str]] = {}
    """Names of the library's that the engine's contract does not allow, and why."""
    harmless: ClassVar[frozenset[str]] = frozenset()
    """Names of the library's that do not change the results."""

    def __post_init__(self) -> None:
        for item in fields(self):
            kind, value = item.metadata.get("kind"), getattr(self, item.name)
            if kind is not None and not (value is None and item.default is None) and not kind.fits(value):
                got = "something else" if item.metadata.get("is_secret") else shown(value)
                raise EngineError(f"{item.name} must be {kind.wanted}, got {got}")

    @classmethod
    def of(cls: type[_Options], given: Mapping[str, Any]) -> _Options:
        """The options for what was given; names that are not the engine's own are looked for in its library.

        Raises EngineError where a name is unknown (with the nearest), refused, or has a value outside its range.
        """
        own = {name: value for name, value in given.items() if name in cls.names()}
        library = {name: value for name, value in given.items() if name not in own}
        for name, value in library.items():
            cls._check_library(name, value)
        return cls(**own, library=library)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The engine's own options."""
        return tuple(item.name for item in fields(cls) if item.name != "library")

    @classmethod
    def library_names(cls) -> frozenset[str]:
        """What the library takes beside them. Imports it."""
        return frozenset()

    @classmethod
    def _check_library(cls, name: str, value: Any) -> None:
        """Raises EngineError where the contract or the library does not allow it."""
        if name in cls.refused:
            raise EngineError(f"engine {cls.engine} does not take {name}: {cls.refused[name]}")
        allowed = cls.library_names()
        if name not in allowed:
            near = difflib.get_close_matches(name, {*cls.names(), *allowed} - cls.refused.keys())
            meant = f" (did you mean {' or '.join(near)}?)" if near else ""
            also = f", and {cls.library_title}" if cls.library_title else ""
            raise EngineError(f"engine {cls.engine} has no option {name}{meant}: it has {', '.join(cls.names())}{also}")
        if not _is_countable(value):
            raise EngineError(f"{name} must have finite numbers of at most 64 bits, got {shown(value)}")

    def settings(self) -> dict[str, Any]:
        """What was given and can change the results; a chat template by a digest of its text."""
        return {
            name: digest(value) if name == "chat_template" else value for name, value, bound in self._given() if bound
        }

    def about(self) -> dict[str, Any]:
        """What else was given, and the text of a chat template."""
        return {name: value for name, value, bound in self._given() if not bound or name == "chat_template"}

    def _given(self) -> Iterator[tuple[str, Any, bool]]:
        """(name, value, whether it is bound) of every option that is not at its default."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "library" or item.metadata.get("is_secret"):
                continue
            if value not in (item.default, {}):
                yield item.name, value, item.metadata["is_bound"]
        for name, value in self.library.items():
            yield name, value, name not in self.harmless


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions(EngineOptions):
    """`chat_template` is a Jinja template in place of the model's own; `chat_template_kwargs` is given to either.

    `chat_date` is what a template that asks for the date is told, by default the moment of the start.
    """

    chat_template: str | None = option(None, TEXT, is_bound=True)
    chat_template_kwargs: Mapping[str, Any] | None = option(None, CHAT_KWARGS, is_bound=True)
    chat_date: str | None = option(None, DATE, is_bound=True)


def _is_countable(value: Any) -> bool:
    """Whether all numbers in it, however deep, can be counted with."""
    if isinstance(value, Mapping):
        return all(map(_is_countable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_countable, value))
    return is_number(value) or not isinstance(value, int | float) or isinstance(value, bool)


def digest(text: str) -> str:
    """A short hash that stands for `text`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
