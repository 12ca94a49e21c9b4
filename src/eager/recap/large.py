"""`.large` beside a result file: the same list of prompts with its strings parsed, as published."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, TextIO

from eager.recap.parsing import UnreadableError, parse_answers, parse_branch, parse_entropies
from eager.recap.reading import Findings, RecapError, open_folder
from eager.store import replacing


def write_large(folders: Seq[Path], findings: Findings) -> list[Path]:
    """Write one for every result file, atomically and one prompt in memory at a time. Raises RecapError."""
    written = []
    for folder in folders:
        for file in open_folder(folder, findings):
            path = file.path.with_suffix(".large")
            try:
                _write_one(path, file.raw_prompts(), findings)
            except OSError as error:
                reason = f"({error.strerror}): make room, or make the folder writable"
                raise RecapError(f"cannot write '{path}' {reason}") from None
            written.append(path)
    return written


def _write_one(path: Path, prompts: Any, findings: Findings) -> None:
    with replacing(path) as file:
        file.write("[")
        separator = "\n"
        for number, prompt in enumerate(prompts):
            try:
                parsed = _entry(prompt)
            except UnreadableError as error:
                source = path.with_suffix(".json")
                findings.problem(f"'{source}', prompt {number}: {error}; left out of '{path.name}'")
                continue
            file.write(separator)
            _write_object(file, parsed)
            separator = ",\n"
        file.write("\n]\n")


def _entry(prompt: Any) -> dict[str, str]:
    """The entry's values as JSON texts. Entropies are JSON already: checked, and taken over as they are."""
    if not isinstance(prompt, dict):
        raise UnreadableError("not a JSON object")
    try:
        texts = {key: json.dumps(value) for key, value in prompt.items()}
    except RecursionError:
        raise UnreadableError("nested too deeply") from None
    if "extracted_answers" in prompt:
        answers = [answer or "" for answer in parse_answers(prompt["extracted_answers"])]
        texts["extracted_answers"] = json.dumps(answers)
    entropies = _list(prompt, "entropies")
    for value in entropies:
        parse_entropies(value)
    rows = (value if isinstance(value, str) else json.dumps(value) for value in entropies)
    texts["entropies"] = f"[{', '.join(rows)}]"
    if "recorded_branches" in prompt:
        texts["recorded_branches"] = json.dumps([parse_branch(value) for value in _list(prompt, "recorded_branches")])
    return texts


def _list(prompt: dict[str, Any], key: str) -> list[Any]:
    value = prompt.get(key, [])
    if not isinstance(value, list):
        raise UnreadableError(f"'{key}' is not a list")
    return value


def _write_object(file: TextIO, texts: dict[str, str]) -> None:
    lines = (f"    {json.dumps(key)}: {text}" for key, text in texts.items())
    file.write("  {\n" + ",\n".join(lines) + "\n  }")
