"""Result files: written whole or not at all, read prompt by prompt, and given other grades in place."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from eager.atomic import copy_file, replacing
from eager.metrics import Summary
from eager.results.entries import EntryReader
from eager.results.findings import Findings, ResultsError
from eager.results.json_stream import NotJsonError, items, read_head, without
from eager.results.published import LIST_KEYS, UnreadableError, experiment_of, facts_of, grades_entry
from eager.results.scores import Grades, Regrader, experiment_result, regraded, results_entry
from eager.store.journal import StoreError
from eager.store.records import PromptRecord
from eager.words import count


def write_result_file(path: Path, head: dict[str, Any], key: str, entries: Iterable[Any]) -> None:
    """Write `head` and then the list under `key`, atomically: readers see the old file or the new one. StoreError."""
    try:
        with replacing(path) as file:
            _write_streaming(file, head, key, entries)
    except OSError as error:
        raise StoreError(
            f"cannot write '{path}' ({error.strerror}): make room and run the same command again;"
            " what is finished is kept"
        ) from None


def keep_copy(path: Path, suffix: str) -> Path:
    """Copy a file that is going to be replaced, under its name and `suffix`; numbered where another is kept so.

    Returns the copy, or one that was there and is the same. Raises StoreError.
    """
    number = 1
    copy = path.with_name(path.name + suffix)
    try:
        while copy.exists() and not filecmp.cmp(path, copy, shallow=False):
            number += 1
            copy = path.with_name(f"{path.name}{suffix}-{number}")
        if not copy.exists():
            copy_file(path, copy)
    except OSError as error:
        raise StoreError(f"cannot keep a copy of '{path}' ({error.strerror}): make room, or move it away") from None
    return copy


def _write_streaming(file: TextIO, head: dict[str, Any], key: str, entries: Iterable[Any]) -> None:
    file.write(_dumps(head)[:-2] + f',\n    "{key}": [')
    separator = "\n"
    for entry in entries:
        file.write(separator + " " * 8 + _dumps(entry).replace("\n", "\n" + " " * 8))
        separator = ",\n"
    file.write("\n    ]\n}\n")


def _dumps(data: Any) -> str:
    """Readable JSON; escaped to ASCII only where a text holds what UTF-8 cannot (a lone surrogate)."""
    text = json.dumps(data, indent=4, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=4)
    return text


class ResultFile:
    """One experiment's results. Opening reads its head; `records` streams the rest, as often as it is called.

    `is_whole` is False once that has met damage which hides the prompts after it. `builds_on` is the experiment that
    its first sequences are kept with: a file holds all of its own.
    """

    builds_on = None

    def __init__(self, path: Path, findings: Findings, regrader: Regrader | None = None) -> None:
        """Raises ResultsError where the file holds no list of prompts. `regrader` grades what carries no grades."""
        self.path = path
        self.is_whole = True
        self._findings = findings
        self._regrader = regrader
        try:
            head, key = read_head(path, LIST_KEYS)
        except NotJsonError as error:
            raise ResultsError(f"'{path}' {error} before its first prompt, or no JSON: left out") from None
        except OSError as error:
            raise ResultsError(f"'{path}' cannot be read ({error.strerror}): left out") from None
        if key is None:
            keys = f"'{LIST_KEYS[0]}' nor '{LIST_KEYS[1]}'"
            raise ResultsError(f"'{path}' holds neither {keys}: not a result file, left out")
        self._key = key
        self.experiment = experiment_of(path.stem, head, key)
        self.facts = facts_of(head)

    def entries(self) -> Iterator[Any]:
        """The prompts as the file has them. Where the file breaks they end, and a problem is noted."""
        n_read = 0
        try:
            for item in items(self.path, self._key):
                yield item
                n_read += 1
        except NotJsonError as error:
            self._break_off(n_read, str(error))
        except OSError as error:
            self._break_off(n_read, f"cannot be read ({error.strerror})")

    def _break_off(self, n_read: int, why: str) -> None:
        self.is_whole = False
        self._findings.problem(
            f"'{self.path}' {why} after {count(n_read, 'whole prompt')}: only what comes before is read"
        )

    def records(self) -> Iterator[PromptRecord]:
        """The readable prompts, one at a time."""
        return (record for _, record in self._pairs() if record is not None)

    def _pairs(self) -> Iterator[tuple[Any, PromptRecord | None]]:
        """Every prompt as the file has it, and as a record; None where it is none, which is noted."""
        reader = EntryReader(self.experiment, self.facts, self._regrader)
        for number, entry in enumerate(self.entries()):
            try:
                record = reader.read(entry)
            except UnreadableError as error:
                record = None
                self._findings.problem(f"'{self.path}', prompt {number}: {error}; this prompt is left out")
            yield entry, record
        for notice in reader.notices:
            self._findings.notice(f"'{self.path}': {notice}")
        if self.is_whole:
            self._findings.check_number(f"'{self.path}'", reader.n_read, self.facts.n_prompts)

    def regrade(self, grades: Mapping[int, Grades], regrader: Regrader) -> Summary:
        """Write the file anew with these grades, by prompt index, and their scores; all else stays. StoreError."""
        scores = experiment_result(
            self.experiment, (regraded(record, grades.get(record.prompt_index), regrader) for record in self.records())
        ).scores
        try:
            head = without(self.path, self._key)
        except NotJsonError as error:
            raise StoreError(f"'{self.path}' {error} after its prompts: it stays as it is") from None
        said = head.get("results")
        head["results"] = {**(said if isinstance(said, dict) else {}), **results_entry(scores)}
        write_result_file(self.path, head, self._key, self._regraded_entries(grades, regrader))
        return scores

    def _regraded_entries(self, grades: Mapping[int, Grades], regrader: Regrader) -> Iterator[Any]:
        for entry, record in self._pairs():
            if record is None or record.prompt_index not in grades:
                yield entry
            else:
                yield {**entry, **grades_entry(regraded(record, grades[record.prompt_index], regrader).sequences)}
        if not self.is_whole:
            raise StoreError(f"'{self.path}' was damaged while it was graded: it stays as it is")
