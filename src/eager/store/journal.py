"""The journal of one output folder: append-only, one writer, safe against a kill at any moment.

The first line holds the format's version and the run's settings; every other line one finished prompt of one
experiment, grades found for one later, or what is to be known about a run. A line is on disk before it counts; a last
line torn by a crash is cut when the journal is opened.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence as Seq
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eager.errors import EagerError
from eager.store.records import PromptRecord, from_line, to_line

FORMAT_VERSION = 1
JOURNAL_NAME = "journal.jsonl"
# How this version writes a record: its line is parsed only when it is asked for.
_RECORD = re.compile(rb'\{"record":\{"experiment":"(?P<experiment>[\w.+-]+)","prompt_index":(?P<index>\d+),')

_Key = tuple[str, int]  # experiment, prompt index


class StoreError(EagerError):
    """The output folder cannot be used or read; the message names the folder, the reason and the remedy."""


class Journal:
    """Records by (experiment, prompt index). Only their places are kept in memory; a record is read when asked for."""

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Open for appending with `settings`, which must be those the folder was begun with; None opens for reading."""
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self._places: dict[_Key, tuple[int, int]] = {}
        self._counts: Counter[str] = Counter()
        self._parts: dict[tuple[str, int, int], tuple[int, int]] = {}
        self._grades: dict[_Key, tuple[list[str | None], list[bool | None]]] = {}
        self.settings: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self._lock: FileLock | None = None
        self._file: FileIO | None = None
        if settings is not None:
            self._open_for_writing(settings)
        elif not self.path.is_file():
            raise StoreError(f"'{folder}' holds no {JOURNAL_NAME}: give a folder that eager run has written")
        else:
            self._scan()

    # -- reading ------------------------------------------------------------------------------------------------

    def experiments(self) -> list[str]:
        """Names of the experiments with a record, in the order of their first one."""
        return list(dict.fromkeys(experiment for experiment, _ in self._places))

    def prompts(self, experiment: str) -> list[int]:
        """Indices of the experiment's finished prompts, ascending."""
        return sorted(prompt for name, prompt in self._places if name == experiment)

    def count(self, experiment: str) -> int:
        """How many of the experiment's prompts are finished."""
        return self._counts[experiment]

    def read(self, experiment: str, prompt_index: int) -> PromptRecord:
        """The record of a finished prompt, with the grades found last. Raises StoreError where there is none."""
        try:
            record = from_line(self._line_at(*self._places[experiment, prompt_index])["record"])
            answers, correct = self._grades.get((experiment, prompt_index), (None, None))
            return record if answers is None or correct is None else _graded(record, answers, correct)
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"'{self.path}' holds no whole record of {experiment}, prompt {prompt_index}: restore the file,"
                " or start in another folder"
            ) from None

    def records(self, experiment: str) -> Iterator[PromptRecord]:
        """The experiment's records by prompt index, one at a time in memory."""
        for prompt_index in self.prompts(experiment):
            yield self.read(experiment, prompt_index)

    def part(self, experiment: str, prompt_index: int, first_sequence: int, base: str) -> PromptRecord | None:
        """The tree that begins with this sequence; None where there is none, or `base`'s record is newer."""
        place = self._parts.get((experiment, prompt_index, first_sequence))
        if place is None or place[0] < self._places[base, prompt_index][0]:
            return None
        return from_line(self._line_at(*place)["part"]["record"])

    def _line_at(self, offset: int, size: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(offset)
            line: dict[str, Any] = json.loads(file.read(size))
            return line

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, record: PromptRecord) -> None:
        """Put the record on disk. It counts once this returns; a failure leaves what was there."""
        self._place((record.experiment, record.prompt_index), self._write({"record": to_line(record)}))

    def append_part(self, record: PromptRecord, first_sequence: int) -> None:
        """Keep a tree of a prompt that is not finished; its sequences are numbered from `first_sequence`."""
        place = self._write({"part": {"first_sequence": first_sequence, "record": to_line(record)}})
        self._parts[record.experiment, record.prompt_index, first_sequence] = place

    def append_grades(
        self, experiment: str, prompt_index: int, answers: Seq[str | None], correct: Seq[bool | None]
    ) -> None:
        """Grade the record's own sequences anew; the last grades written count."""
        grades = {
            "experiment": experiment,
            "prompt_index": prompt_index,
            "answers": list(answers),
            "correct": list(correct),
        }
        self._write({"grades": grades})
        self._grades[experiment, prompt_index] = (list(answers), list(correct))

    def append_about(self, about: Mapping[str, Any]) -> None:
        """Note what may differ between the runs in this folder (notes, versions); the last counts."""
        self._write({"about": dict(about)})
        self.about = dict(about)

    def close(self) -> None:
        """Let another process use the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def _open_for_writing(self, settings: Mapping[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
            self._file = self.path.open("ab", buffering=0)
        except Timeout:
            raise StoreError(
                f"'{self.folder}' is in use by another run: wait for it or give another --output_dir"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot write to '{self.folder}' ({error.strerror}): give another --output_dir") from None
        try:
            self._cut_torn_line()
            self._scan()
            if not self._places:  # nothing is lost when a run that finished nothing is begun anew
                self._file.truncate(0)
                self._write({"format": FORMAT_VERSION, "settings": dict(settings)})
                self.settings = dict(settings)
            else:
                self._check_settings(json.loads(json.dumps(settings)))
        except StoreError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StoreError(f"'{self.path}' cannot be read ({error.strerror}): check the disk") from None

    def _write(self, line: dict[str, Any]) -> tuple[int, int]:
        """Where the line now lies: its offset and size."""
        if self._file is None:
            raise RuntimeError("the journal is open for reading only")
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        offset = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write to '{self.path}' ({error.strerror}): make room and run the same command again;"
                " what is finished is kept"
            ) from None
        return offset, len(data)

    def _cut_torn_line(self) -> None:
        with self.path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end > 0:
                file.seek(end - 1)
                if file.read(1) == b"\n":
                    break
                end -= 1
            if end < size:
                file.truncate(end)

    def _scan(self) -> None:
        """Note the settings, where each record lies, and the grades."""
        offset = 0
        with self.path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                if data.endswith(b"\n"):  # a reader may meet a line that is just being written
                    if number == 1:
                        self.settings = self._settings_of(self._parse(data, number))
                    elif (start := _RECORD.match(data)) and data.endswith(b"}}\n"):
                        self._place((start["experiment"].decode(), int(start["index"])), (offset, len(data)))
                    else:
                        self._note(self._parse(data, number), number, (offset, len(data)))
                offset += len(data)

    def _parse(self, data: bytes, number: int) -> dict[str, Any]:
        try:
            line = json.loads(data)
        except ValueError:
            line = None
        if not isinstance(line, dict):
            raise StoreError(
                f"'{self.path}', line {number}: not a journal line; restore the file, or start in another folder"
            )
        return line

    def _settings_of(self, line: dict[str, Any]) -> dict[str, Any]:
        if line.get("format") != FORMAT_VERSION or not isinstance(line.get("settings"), dict):
            raise StoreError(
                f"'{self.path}' is of another format than {FORMAT_VERSION}: read it with the version that wrote it"
            )
        settings: dict[str, Any] = line["settings"]
        return settings

    def _note(self, line: dict[str, Any], number: int, place: tuple[int, int]) -> None:
        try:
            if "record" in line:
                self._place(_key(line["record"]), place)
            elif "part" in line:
                self._parts[(*_key(line["part"]["record"]), line["part"]["first_sequence"])] = place
            elif "about" in line:
                self.about = dict(line["about"])
            else:
                grades = line["grades"]
                self._grades[_key(grades)] = (grades["answers"], grades["correct"])
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"'{self.path}', line {number}: neither a prompt's record nor grades;"
                " restore the file, or start in another folder"
            ) from None

    def _place(self, key: _Key, place: tuple[int, int]) -> None:
        self._counts[key[0]] += key not in self._places
        self._places[key] = place

    def _check_settings(self, asked: dict[str, Any]) -> None:
        begun_with = self.settings
        for name in {**begun_with, **asked}:
            if begun_with.get(name) != asked.get(name):
                raise StoreError(
                    f"'{self.folder}' was begun with {name}={begun_with.get(name)!r}, now it is {asked.get(name)!r}:"
                    " use the same settings or another --output_dir"
                )


def _key(item: dict[str, Any]) -> _Key:
    return str(item["experiment"]), int(item["prompt_index"])


def _graded(record: PromptRecord, answers: Seq[str | None], correct: Seq[bool | None]) -> PromptRecord:
    """The record with other grades; classes of the old answers no longer hold."""
    graded = zip(record.sequences, answers, correct, strict=True)
    return replace(record, sequences=tuple(replace(s, answer=a, correct=c, group=None) for s, a, c in graded))
