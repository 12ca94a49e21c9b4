"""The journal of one output folder: append-only, one writer, safe against a kill at any moment.

The first line holds the format's version and the run's settings; every other line one finished prompt of one
experiment, a part of one that is not, grades found later, or what is to be known about a run. A line is on disk before
it counts, and carries a checksum. What a crash tore or a disk damaged is told, and only a writer takes it out: a last
line that was torn is cut, a damaged one is set aside. A file that is no journal of this version is never changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eager.atomic import sync_folder
from eager.store.contents import FORMAT_VERSION, Contents, Place, StoreError
from eager.store.lines import DamagedLineError, decode, encode
from eager.store.records import PromptRecord, from_line, to_line

__all__ = ["DAMAGED_NAME", "JOURNAL_NAME", "Journal", "StoreError"]

JOURNAL_NAME = "journal.jsonl"
DAMAGED_NAME = "journal.damaged"
"""Where damaged lines are kept as they were found."""

# What a setting is, where its name alone does not say which option or file to look at.
_MEANINGS = {"n_prompts": " (the number of problems: --limit)", "data_digest": " (a hash of problems and targets)"}
_MOST_NUMBERS = 10


class Journal:
    """Records by (experiment, prompt index). Only their places are kept in memory; a record is read when asked for.

    `problems` says in sentences what was lost to damage, `notices` what was torn and comes again.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Open for appending with `settings`, which must be those the folder was begun with; None opens for reading.

        Raises StoreError. Opened for reading, nothing on disk is changed.
        """
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self.problems: list[str] = []
        self.notices: list[str] = []
        self._lock: FileLock | None = None
        self._file: FileIO | None = None
        if settings is not None:
            self._open_for_writing(settings)
        elif not self.path.exists():
            raise StoreError(f"'{folder}' holds no {JOURNAL_NAME}: give a folder that eager run has written")
        else:
            self._contents = Contents(self.path)
            self._tell("left out")

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What the folder is bound to."""
        return self._contents.settings

    @property
    def about(self) -> dict[str, Any]:
        """What was noted last about a run."""
        return self._contents.about

    def experiments(self) -> list[str]:
        """Names of the experiments with a record, in the order of their first one."""
        return list(dict.fromkeys(experiment for experiment, _ in self._contents.places))

    def prompts(self, experiment: str, base: str | None = None) -> list[int]:
        """Indices of the experiment's finished prompts, ascending.

        With `base`, the experiment that it adds sequences to, only those whose record there is older: one generated
        anew, because its line was damaged, may have other sequences than those that were added to.
        """
        places = self._contents.places
        mine = [(prompt, place.offset) for (name, prompt), place in places.items() if name == experiment]
        if base is None:
            return sorted(prompt for prompt, _ in mine)
        return sorted(prompt for prompt, at in mine if (base, prompt) in places and places[base, prompt].offset < at)

    def count(self, experiment: str) -> int:
        """How many of the experiment's prompts are finished."""
        return self._contents.counts[experiment]

    def read(self, experiment: str, prompt_index: int) -> PromptRecord:
        """The record of a finished prompt, with the grades found last. Raises StoreError where there is none."""
        key = (experiment, prompt_index)
        try:
            record = from_line(self._line_at(self._contents.places[key])["record"])
            if (record.experiment, record.prompt_index) != key:
                raise DamagedLineError("another record")
            answers, correct = self._contents.grades.get(key, (None, None))
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
        """The tree that begins with this sequence; None without one, or where `base`, which it adds to, is newer."""
        place = self._contents.parts.get((experiment, prompt_index, first_sequence))
        if place is None or place.offset < self._contents.places[base, prompt_index].offset:
            return None
        return from_line(self._line_at(place)["part"]["record"])

    def _line_at(self, place: Place) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(place.offset)
            return decode(file.read(place.size))[0]

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, record: PromptRecord) -> None:
        """Put the record on disk. It counts once this returns; a failure leaves what was there."""
        place = self._write({"record": to_line(record)})
        self._contents.place((record.experiment, record.prompt_index), place)

    def append_part(self, record: PromptRecord, first_sequence: int) -> None:
        """Keep a tree of a prompt that is not finished; its sequences are numbered from `first_sequence`."""
        place = self._write({"part": {"first_sequence": first_sequence, "record": to_line(record)}})
        self._contents.parts[record.experiment, record.prompt_index, first_sequence] = place

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
        self._contents.grades[experiment, prompt_index] = (list(answers), list(correct))

    def append_about(self, about: Mapping[str, Any]) -> None:
        """Note what may differ between the runs in this folder (notes, versions); the last counts."""
        self._write({"about": dict(about)})
        self._contents.about = dict(about)

    def close(self) -> None:
        """Let another process use the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def _open_for_writing(self, settings: Mapping[str, Any]) -> None:
        self._lock_folder()
        try:
            self._contents = Contents(self.path)
            is_other = not self._contents.end or self.settings != _as_read(settings)
            if self._contents.is_unused and is_other:
                self._begin(settings)
            else:
                self._go_on(settings)
        except StoreError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise StoreError(
                f"cannot write to '{self.path}' ({error.strerror}): make room, check the disk, or give another"
                " --output_dir"
            ) from None

    def _lock_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise StoreError(
                f"'{self.folder}' is in use by another run: wait for it or give another --output_dir"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot write to '{self.folder}' ({error.strerror}): give another --output_dir") from None

    def _begin(self, settings: Mapping[str, Any]) -> None:
        """Nothing is lost when a run that finished nothing is begun anew."""
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(0)
        self._write({"format": FORMAT_VERSION, "settings": dict(settings)})
        sync_folder(self.folder)
        self._contents = Contents(self.path)

    def _go_on(self, settings: Mapping[str, Any]) -> None:
        """The file is ours, and holds something: now it may be changed."""
        self._check_settings(_as_read(settings))
        self._tell(f"moved to {DAMAGED_NAME}")
        self._set_aside()
        self._file = self.path.open("ab", buffering=0)
        if self._contents.n_torn:
            self._file.truncate(self._contents.end)

    def _set_aside(self) -> None:
        """Keep damaged lines elsewhere, and blank them here: places stay, and a crash on the way loses nothing."""
        places = self._contents.damaged.values()
        if not places:
            return
        with self.path.open("rb+") as file:
            with (self.folder / DAMAGED_NAME).open("ab") as kept:
                for place in places:
                    file.seek(place.offset)
                    kept.write(file.read(place.size))
                kept.flush()
                os.fsync(kept.fileno())
            for place in places:
                file.seek(place.offset)
                file.write(b" " * (place.size - 1) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _write(self, line: dict[str, Any]) -> Place:
        """Where the line now lies."""
        if self._file is None:
            raise RuntimeError("the journal is open for reading only")
        data = encode(line)
        offset = self._file.seek(0, os.SEEK_END)
        is_half = True
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            is_half = False
            os.fsync(self._file.fileno())
        except OSError as error:
            is_half = True  # for all that is known
            raise StoreError(
                f"cannot write to '{self.path}' ({error.strerror}): make room and run the same command again;"
                " what is finished is kept"
            ) from None
        finally:
            if is_half:  # also where Ctrl-C came between: the next line must not go on from half of this one
                with suppress(OSError):
                    self._file.truncate(offset)
        return Place(offset, len(data))

    def _tell(self, fate: str) -> None:
        """Put what is damaged, and what becomes of it, into sentences."""
        numbers = list(self._contents.damaged)
        if numbers:
            shown = ", ".join(map(str, numbers[:_MOST_NUMBERS]))
            more = f" and {len(numbers) - _MOST_NUMBERS:,} more" if len(numbers) > _MOST_NUMBERS else ""
            lines = f"line{'s' * (len(numbers) > 1)} {shown}{more}"
            self.problems.append(
                f"'{self.path}', {lines}: damaged, {fate}; eager run, as the folder was begun, generates what is"
                " missing anew, and eager eval-code grades it"
            )
        if self._contents.n_torn:
            self.notices.append(
                f"'{self.path}': its last line is not whole, as a run was stopped or is writing it;"
                " its prompt is generated anew"
            )

    def _check_settings(self, asked: dict[str, Any]) -> None:
        begun_with = self.settings
        # Another number of problems is another hash as well: what a person can read comes first.
        for name in sorted({**begun_with, **asked}, key=lambda name: name == "data_digest"):
            if begun_with.get(name) != asked.get(name):
                before, now = (_shown(settings.get(name), name) for settings in (begun_with, asked))
                raise StoreError(
                    f"'{self.folder}' was begun with {name}={before}, now it is {now}"
                    f"{_MEANINGS.get(name, '')}: use the same settings or another --output_dir"
                )


def _as_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they come back from a file: a tuple is a list there."""
    read: dict[str, Any] = json.loads(json.dumps(settings))
    return read


def _shown(value: Any, name: str) -> str:
    """A setting's value as a sentence has it; at its default it is None or not written."""
    # None is a value of this one alone: no percentile.
    return "its default" if value is None and name != "threshold_percentile" else repr(value)


def _graded(record: PromptRecord, answers: Seq[str | None], correct: Seq[bool | None]) -> PromptRecord:
    """The record with other grades; classes of the old answers no longer hold."""
    graded = zip(record.sequences, answers, correct, strict=True)
    return replace(record, sequences=tuple(replace(s, answer=a, correct=c, group=None) for s, a, c in graded))
