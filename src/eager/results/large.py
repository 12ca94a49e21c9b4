"""`.large` beside a result file: the same list of prompts with answers and entropies parsed, as published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence as Seq
from pathlib import Path
from typing import Any

from eager.atomic import replacing
from eager.results.findings import Findings, ResultsError
from eager.results.folder import result_files
from eager.results.published import UnreadableError, parse_answers, parse_entropies
from eager.results.result_file import ResultFile


def write_large(folders: Seq[Path], findings: Findings) -> list[Path]:
    """Write one for every result file, atomically and one prompt in memory at a time. Raises ResultsError."""
    files = [file for folder in folders for file in result_files(folder, findings)]
    return [_write_one(file, findings) for file in files]


def _write_one(file: ResultFile, findings: Findings) -> Path:
    path = file.path.with_suffix(".large")
    try:
        with replacing(path) as target:
            target.write("[")
            separator = "\n"
            for entry in _entries(file, findings):
                target.write(f"{separator}  {{\n{entry}\n  }}")
                separator = ",\n"
            target.write("\n]\n")
    except OSError as error:
        reason = f"({error.strerror}): make room, or make the folder writable"
        raise ResultsError(f"cannot write '{path}' {reason}") from None
    return path


def _entries(file: ResultFile, findings: Findings) -> Iterator[str]:
    """The members of each prompt as JSON."""
    for number, entry in enumerate(file.entries()):
        try:
            members = _members(entry)
        except UnreadableError as error:  # noqa: PERF203 - one bad prompt must not cost the others
            findings.problem(f"'{file.path}', prompt {number}: {error}; left out of the .large")
        else:
            yield ",\n".join(f"    {json.dumps(key)}: {text}" for key, text in members.items())


def _members(entry: Any) -> dict[str, str]:
    """The entry's values as JSON texts. Entropies mostly are JSON already: checked, and taken over as they are."""
    if not isinstance(entry, dict):
        raise UnreadableError("not a JSON object")
    try:
        texts = {key: json.dumps(value) for key, value in entry.items()}
    except RecursionError:
        raise UnreadableError("nested too deeply") from None
    if "extracted_answers" in entry:
        texts["extracted_answers"] = json.dumps(parse_answers(entry["extracted_answers"]))
    rows = entry.get("entropies", [])
    if not isinstance(rows, list):
        raise UnreadableError("'entropies' is not a list")
    texts["entropies"] = f"[{', '.join(map(_entropies, rows))}]"
    return texts


def _entropies(row: Any) -> str:
    numbers = parse_entropies(row)
    return row if isinstance(row, str) and "n" not in row else json.dumps(numbers)  # n: repr's nan and inf
