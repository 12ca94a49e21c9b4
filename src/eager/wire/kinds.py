"""What a field of a message must be: in words, as a test, and as JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, NamedTuple

from eager.errors import EagerError
from eager.words import one_line

VERSION = 1
LARGEST_COUNT = (1 << 31) - 1


class WireError(EagerError):
    """What came is not of this format, or does not answer what was asked; the message names the field."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Kind(NamedTuple):
    """What a value must be."""

    wanted: str
    fits: Callable[[Any], bool]
    schema: Mapping[str, Any]


class Field(NamedTuple):
    """A field of an object; without a default it must be given."""

    kind: Kind
    default: Any = MISSING


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_whole(value)  # of any size: comparing asks for no float


def whole(least: int, most: int = LARGEST_COUNT) -> Kind:
    return Kind(
        f"a whole number from {least} to {most}",
        lambda value: _is_whole(value) and least <= value <= most,
        {"type": "integer", "minimum": least, "maximum": most},
    )


def number(least: float, most: float) -> Kind:
    return Kind(
        f"a number from {least:g} to {most:g}",
        lambda value: _is_number(value) and least <= value <= most,
        {"type": "number", "minimum": least, "maximum": most},
    )


def above_0(most: float) -> Kind:
    return Kind(
        f"a number above 0, at most {most:g}",
        lambda value: _is_number(value) and 0 < value <= most,
        {"type": "number", "exclusiveMinimum": 0, "maximum": most},
    )


def list_of(least: int, most: int, item: Kind) -> Kind:
    return Kind(
        f"a list of {least} to {most}, each {item.wanted}",
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(item.fits, value)),
        {"type": "array", "minItems": least, "maxItems": most, "items": item.schema},
    )


def or_null(kind: Kind) -> Kind:
    return Kind(
        f"{kind.wanted}, or null",
        lambda value: value is None or kind.fits(value),
        {"anyOf": [kind.schema, {"type": "null"}]},
    )


def one_of(*values: Any) -> Kind:
    known = {(type(value), value) for value in values}  # 1 is not true
    return Kind(
        " or ".join(map(repr, values)),
        lambda value: isinstance(value, str | int) and (type(value), value) in known,
        {"enum": list(values)},
    )


def an_object(table: Mapping[str, Field], *, is_open: bool = False) -> Kind:
    """`is_open`: of answers, which may gain fields within a version."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: field.kind.schema for name, field in table.items()},
        "required": [name for name, field in table.items() if field.default is MISSING],
    }
    return Kind("an object", lambda value: isinstance(value, dict), schema if is_open else {**schema, **_CLOSED})


_CLOSED = {"additionalProperties": False}
TEXT = Kind("a text", lambda value: isinstance(value, str), {"type": "string"})
SWITCH = Kind("true or false", lambda value: isinstance(value, bool), {"type": "boolean"})
TOKEN = whole(0)
IDS = list_of(0, LARGEST_COUNT, TOKEN)


def read(data: Any, table: Mapping[str, Field], what: str, *, is_open: bool = True) -> dict[str, Any]:
    """The fields of `data`, defaults filled in. Raises WireError that names `what` and the field."""
    if not isinstance(data, dict):
        raise WireError(f"{what} must be an object, got {shown(data)}")
    if "version" in table and data.get("version") != VERSION:
        raise WireError(f"{what} has version {shown(data.get('version'))}, and this is version {VERSION}")
    unknown = [] if is_open else sorted(map(str, data.keys() - table.keys()))
    if unknown:
        raise WireError(f"{what} has no field '{one_line(unknown[0], 40)}': it has {', '.join(table)}", unknown[0])
    for name, field in table.items():
        if name not in data and field.default is MISSING:
            raise WireError(f"{what} lacks its field '{name}'", name)
        if name in data and not field.kind.fits(data[name]):
            raise WireError(f"{name} of {what} must be {field.kind.wanted}, got {shown(data[name])}", name)
    return {name: data.get(name, field.default) for name, field in table.items()}


def shown(value: Any) -> str:
    """A value that came, as a sentence has it."""
    try:
        return one_line(repr(value), 80)
    except ValueError:  # Python writes out no number of more than 4300 digits
        return "a longer number"
