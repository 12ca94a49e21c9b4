"""What the lines of a journal say, looked at without changing a byte of the file."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from eager.errors import EagerError
from eager.store.lines import DamagedLineError, decode, is_intact
from eager.store.records import check_types, from_line

FORMAT_VERSION = 1
# How this version writes a record: its line is parsed only when it is asked for.
_RECORD = re.compile(rb'\{"record":\{"experiment":"(?P<experiment>[\w.+-]+)","prompt_index":(?P<index>\d+),')
# A first line that was torn while it was written is a part of one that begins so.
_HEAD_START = b'{"format":1,"settings":{'
_MOST_HEAD_BYTES = 1 << 24

Key = tuple[str, int]  # experiment, prompt index
Grades = tuple[list[str | None], list[bool | None]]  # answers, correct: one a sequence


class StoreError(EagerError):
    """The output folder cannot be used or read; the message names the folder, the reason and the remedy."""


class Place(NamedTuple):
    """Where a line lies in the file, in bytes."""

    offset: int
    size: int


class Contents:
    """Settings, notes, the places of records and the grades found later, line by line.

    `damaged` are the lines that are not as they were written, by number; `end` is where the last whole line ends, and
    `n_torn` how many bytes follow it.
    """

    def __init__(self, path: Path) -> None:
        """Raises StoreError where the file is no journal of this version; OSError. A missing file is empty."""
        self.path = path
        self.settings: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.places: dict[Key, Place] = {}
        self.parts: dict[tuple[str, int, int], Place] = {}  # the third: the number of its first sequence
        self.counts: Counter[str] = Counter()
        self.grades: dict[Key, Grades] = {}
        self.damaged: dict[int, Place] = {}
        self.end = 0
        self.n_torn = 0
        if path.is_file() or path.is_dir():
            self._read()
        elif path.exists():
            raise StoreError(f"'{path}' is no regular file: give another folder")

    @property
    def is_unused(self) -> bool:
        """Whether nothing is lost with the file: it holds settings and notes at most."""
        return not (self.places or self.grades or self.damaged)

    def place(self, key: Key, place: Place) -> None:
        """A record lies there. It counts from now on; grades of one before it do not."""
        self.counts[key[0]] += key not in self.places
        self.places[key] = place
        self.grades.pop(key, None)

    def _read(self) -> None:
        with self.path.open("rb") as file:
            head = file.readline(_MOST_HEAD_BYTES)
            if not head.endswith(b"\n"):
                self._check_torn_head(head)
                return
            self.settings = self._settings_of(head)
            self.end = len(head)
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n"):  # a crash tore it, or it is just being written
                    self.n_torn = len(line)
                else:
                    self._note(line, number, Place(self.end, len(line)))
                    self.end += len(line)

    def _check_torn_head(self, head: bytes) -> None:
        self.n_torn = len(head)
        if not (head.startswith(_HEAD_START) or _HEAD_START.startswith(head)):
            raise self._not_ours()

    def _settings_of(self, head: bytes) -> dict[str, Any]:
        try:
            content, _ = decode(head)
        except DamagedLineError:
            raise self._not_ours() from None
        settings = content.get("settings")
        if content.get("format") != FORMAT_VERSION or not isinstance(settings, dict):
            raise StoreError(
                f"'{self.path}' is of another format than {FORMAT_VERSION}: read it with the version that wrote it;"
                " it stays as it is"
            )
        return settings

    def _not_ours(self) -> StoreError:
        return StoreError(
            f"'{self.path}', line 1: not how a journal of eager begins (another program's, or damaged); it stays as"
            " it is: put a copy of it back, or give another folder"
        )

    def _note(self, line: bytes, number: int, place: Place) -> None:
        start = _RECORD.match(line)
        if start is not None and is_intact(line):
            self.place((start["experiment"].decode(), int(start["index"])), place)
        elif line.strip(b" ") != b"\n":  # blank: what stood there was set aside
            self._note_parsed(line, number, place)

    def _note_parsed(self, line: bytes, number: int, place: Place) -> None:
        is_vouched_for = False
        try:
            content, is_vouched_for = decode(line)
            self._take(content, place, is_vouched_for)
        except (KeyError, TypeError, ValueError):
            if is_vouched_for:
                raise StoreError(
                    f"'{self.path}', line {number}: written by a newer version of eager: use that one;"
                    " the file stays as it is"
                ) from None
            self.damaged[number] = place

    def _take(self, content: dict[str, Any], place: Place, is_vouched_for: bool) -> None:
        """Raises KeyError, TypeError or ValueError where it is nothing that this version writes."""
        ((kind, value),) = content.items()
        if kind == "record":
            if not is_vouched_for:
                check_types(from_line(value))
            self.place(_key(value), place)
        elif kind == "grades":
            self.grades[_key(value)] = _grades(value)
        elif kind == "part" and is_vouched_for:
            self.parts[(*_key(value["record"]), int(value["first_sequence"]))] = place
        elif kind == "about":
            self.about = dict(value)
        else:
            raise ValueError(f"no line of a journal is called {kind}")


def _key(item: dict[str, Any]) -> Key:
    experiment, index = item["experiment"], item["prompt_index"]
    if not isinstance(experiment, str) or type(index) is not int or index < 0:
        raise TypeError("names no prompt of an experiment")
    return experiment, index


def _grades(item: dict[str, Any]) -> Grades:
    answers, correct = item["answers"], item["correct"]
    if len(answers) != len(correct) or not all(answer is None or isinstance(answer, str) for answer in answers):
        raise TypeError("answers and grades do not go together")
    if not all(grade is None or isinstance(grade, bool) for grade in correct):
        raise TypeError("not grades")
    return answers, correct
