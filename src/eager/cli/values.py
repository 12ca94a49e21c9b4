"""Kinds of values on the command line: finite numbers, lists, JSON, paths, a file of text."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import click


class FiniteFloat(click.types.FloatParamType):
    """A number; nan and inf are in nobody's range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """A number in a range; click's own lets nan into any, and inf into an open one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return FiniteFloat().convert(super().convert(value, param, ctx), param, ctx)


class FiniteOrNone(click.ParamType[float]):
    """A number, or the word none."""

    name = "none|number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value in (None, "none") else FiniteFloat().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "none|NUMBER"


class Threshold(FiniteFloat):
    """A number, or `auto` with what it is to be found for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        word, _, target = str(value).partition(":")
        if word.strip() != "auto":
            return super().convert(value, param, ctx)
        from eager.calibrate.target import Target

        try:
            return Target.parse(target.strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "NUMBER|auto[:TARGET]"


class CommaSeparated(click.ParamType[tuple[Any, ...]]):
    """Several values in one option, separated by commas."""

    def __init__(self, item: click.ParamType[Any]) -> None:
        self.item = item
        self.name = item.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        if text[:1] + text[-1:] in ("[]", "()"):  # as a list of the published code
            text = text[1:-1]
        return tuple(self.item.convert(part.strip(), param, ctx) for part in text.split(","))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        item = self.item.get_metavar(param, ctx) or self.item.name.upper()
        return f"{item}[,...]"


class ShardOf(click.ParamType[Any]):
    """I/N: the part of a task."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from eager.results.shards import Shard

        try:
            return value if isinstance(value, Shard) else Shard.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class JSONObject(click.ParamType[dict[str, Any]]):
    """A JSON object."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = value if isinstance(value, dict) else from_json(value)
        except ValueError as error:
            self.fail(f"{value!r} is not JSON ({error}): write it as '{{\"enable_thinking\": false}}'", param, ctx)
        if not isinstance(found, dict):
            self.fail(f"{value!r} is no JSON object: write it as '{{\"enable_thinking\": false}}'", param, ctx)
        return found


class NameValue(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE, the value in JSON; a bare word is a text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name.strip() and equals):
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        try:
            found = from_json(text)
        except ValueError as error:
            if text.lstrip()[:1] in ("{", "[", '"'):
                self.fail(f"the value in {value!r} is not JSON ({error}): put quotes around it", param, ctx)
            found = text
        return name.strip().replace("-", "_"), found


class UserPath(click.Path):
    """A path, which may begin with ~: shells leave that as it is in --name=~/file."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(user_path(os.fspath(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ModelName(click.ParamType[str]):
    """A model's name or path, kept as it was given."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            user_path(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class PromptText(click.ParamType[str]):
    """A text that models are to read."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            self.fail(f"{text!r} is not UTF-8, as the rest of a prompt is: write it so", param, ctx)
        return text


class TextFile(click.ParamType[str]):
    """A file, read as text."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            text = user_path(value).read_text(encoding="utf-8")
        except OSError as error:
            self.fail(f"'{value}' cannot be read ({error.strerror}): give the path of a text file", param, ctx)
        except UnicodeDecodeError:
            self.fail(f"'{value}' is not UTF-8: give the path of a text file", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not text.strip():
            self.fail(f"'{value}' is empty: give the path of a file with something in it", param, ctx)
        return text


def user_path(text: str) -> Path:
    """The path that `text` names, a leading ~ replaced. ValueError with a sentence where it can name none."""
    if not text:
        raise ValueError("it is empty, as an unset variable is: give one, or leave the option out")
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character, which no path can: correct it")
    path = Path(os.path.expanduser(text))
    if path.parts[:1] == Path(text).parts[:1] and text.startswith("~"):
        raise ValueError(f"no home folder is known for '{path.parts[0]}': write the path out, or ./{text}")
    return path


def from_json(text: str) -> Any:
    """What `text` says; ValueError where it is no JSON, which nan and inf are not either."""
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse(text)
