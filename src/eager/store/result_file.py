"""The documented result JSON (docs/results.md), written from the journal's records, one prompt in memory at a time.

The sentinels -1 (taken over from the parent) and -2.0 (not monitored) live in this format only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence as Seq
from pathlib import Path
from typing import Any, TextIO

from eager.atomic import replacing
from eager.store.journal import StoreError
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import Branch

_INHERITED = "-1"
_UNMONITORED = "-2.0"


def generations_key(experiment: str) -> str:
    """Under which key the file lists its prompts."""
    return "default-generations" if experiment == "parallel" else "entropy-aware-generations"


def write_result_file(path: Path, head: dict[str, Any], list_key: str, entries: Iterable[dict[str, Any]]) -> None:
    """Write `head` and then the list under `list_key`, atomically: readers see the old file or the new one."""
    try:
        with replacing(path) as file:
            _write_streaming(file, head, list_key, entries)
    except OSError as error:
        raise StoreError(
            f"cannot write '{path}' ({error.strerror}): make room and run the same command again;"
            " what is finished is kept"
        ) from None


def _write_streaming(file: TextIO, head: dict[str, Any], list_key: str, entries: Iterable[dict[str, Any]]) -> None:
    file.write(_dumps(head)[:-2] + f',\n    "{list_key}": [')
    separator = "\n"
    for entry in entries:
        file.write(separator + " " * 8 + _dumps(entry).replace("\n", "\n" + " " * 8))
        separator = ",\n"
    file.write("\n    ]\n}\n")


def _dumps(data: dict[str, Any]) -> str:
    """Readable JSON; escaped to ASCII only where a text holds what UTF-8 cannot (a lone surrogate)."""
    text = json.dumps(data, indent=4, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=4)
    return text


def prompt_entry(record: PromptRecord, answer_groups: Seq[int | None]) -> dict[str, Any]:
    """One prompt as the file has it: the published keys in their string forms, then ours."""
    sequences = record.sequences
    return {
        "prompt": record.prompt,
        "generated_sequences": len(sequences),
        "target": record.target,
        "extracted_answers": repr([sequence.answer or "" for sequence in sequences]),
        "generations": [record.prompt_text + sequence.text for sequence in sequences],
        "entropies": [_entropies(sequence) for sequence in sequences],
        "recorded_branches": [repr(_branch(branch)) for branch in record.branches],
        "prompt_index": record.prompt_index,
        "correct": [sequence.correct for sequence in sequences],
        "answer_groups": list(answer_groups),
        "finish_reasons": [sequence.finish_reason for sequence in sequences],
        "errors": [sequence.error for sequence in sequences],
        "parents": [sequence.parent for sequence in sequences],
        "forks": [sequence.fork for sequence in sequences],
        "tokens": {
            "generated": record.n_tokens,
            "naive": record.n_tokens_naive,
            "recomputed": record.n_recomputed,
            "discarded": record.n_discarded,
        },
        "prompt_characters": len(record.prompt_text),
        "meta": record.meta,
    }


def _entropies(sequence: SequenceRecord) -> str:
    own = [_UNMONITORED if entropy is None else repr(round(entropy, 4)) for entropy in sequence.entropies]
    return f"[{', '.join([_INHERITED] * sequence.fork + own)}]"


def _branch(branch: Branch) -> dict[str, Any]:
    return {
        "seq_idx": branch.seq,
        "gen_step": branch.position,
        "auto_selected_token": branch.sampled_token,
        "entropy": branch.entropy,
        "entropy_threshold": branch.threshold,
        "man_token_original": branch.kept_token,
        "man_token_branch": branch.new_token,
        "new_seq_idx": branch.new_seq,
        "last_generated_chars": branch.text_before,
    }
