"""The documented result JSON, ours and the published code's: all that is peculiar to its form, and nowhere else.

Its file names, where it keeps its settings, its sentinels below 0 in place of an entropy, its string forms. `entries`
reads its prompts.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable
from typing import Any

from eager.results.experiment import KINDS, Experiment, Facts, as_float
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import Branch

LIST_KEYS = ("default-generations", "entropy-aware-generations")

# In place of an entropy: taken over from the parent, and not monitored. The published code has -9 as well, at the end.
INHERITED, UNMONITORED = -1, -2.0
# HumanEval+ has no target but a dummy; answers are '1' or '0' once the code was run, and no grade before.
_CODE, _CODE_TARGET, CODE_GRADES = "humaneval", "1", {"1": True, "0": False}

# The published `main_vllm.py` writes "more_easy" with run_and_evaluate_entropy_with_budget_easy: no labels, saturated
# prompts, at most 3 M extra, which the paper calls EAGer-adapt; "more" looks at the labels and is the paper's EAGer.
_PUBLISHED_KINDS = {
    "default": "parallel",
    "aware": "eager_init",
    "aware_easy_more_budget": "eager_adapt",
    "aware_more_budget": "eager",
}
_PUBLISHED = re.compile(
    r"(?:.*_)?(?P<kind>default|aware|aware_more_budget|aware_easy_more_budget)(?P<addon>_ADDON\d+_more_budget)?_results"
    r"(?:__?th(?P<threshold>\d+(?:\.\d+)?))?"
)
# Copies and working files that the code evaluations keep beside the results; and what calibrating leaves.
_NOT_RESULTS = re.compile(
    r"\.|backup_|_tmp_|calibration\.json$|.*[._-](?:backup|bak|original|samples|eval_results)(?:[._-]|$)"
)

# What no honest file reaches: an answer is a line, a branch a few dozen characters. Python's parser takes up to a
# kilobyte for each character outside strings, and the pattern below a tenth of that for each escape.
_MAX_CHARACTERS = 4_000_000
_MAX_DEPTH = 2
_MAX_SIGNS = 10_000
_MAX_ESCAPES = 400_000
_MAX_STRINGS = 50_000
_MAX_OUTSIDE = 100_000
_STRING = r"'[^'\\]*(?:\\.[^'\\]*)*(?:'|\Z)|\"[^\"\\]*(?:\\.[^\"\\]*)*(?:\"|\Z)"
_ANY_STRING = re.compile(_STRING, re.DOTALL)
# How repr says what is no finite number: names, which are no literals.
_STRING_OR_NAME = re.compile(rf"{_STRING}|\b(?:nan|inf)\b", re.DOTALL)
_LITERALS = {"nan": "None", "inf": "1e999"}


# -- the file: its name, and what stands above the prompts ------------------------------------------------------------


def is_candidate(name: str) -> bool:
    """Whether a file of this name may hold results: JSON, and no backup."""
    return name.endswith(".json") and not _NOT_RESULTS.match(name)


def list_key(experiment: Experiment) -> str:
    """Under which key a file lists its prompts."""
    return LIST_KEYS[experiment.kind != "parallel"]


def experiment_of(stem: str, head: dict[str, Any], key: str) -> Experiment:
    """The experiment by the file's name, else by what its head says, else by the key of its list."""
    named = _named(stem)
    if named is not None and (named.kind == "parallel" or named.threshold is not None):
        return named
    said = named.kind if named else _setting(head, "experiment")
    kind = said if said in [*KINDS] else "parallel" if key == LIST_KEYS[0] else "eager_init"
    return Experiment(kind, None if kind == "parallel" else as_float(_setting(head, "entropy_threshold")))


def _named(stem: str) -> Experiment | None:
    published = _PUBLISHED.fullmatch(stem)
    if published is None:
        try:
            return Experiment.parse(stem)
        except ValueError:
            return None
    kind = "eager" if published["addon"] else _PUBLISHED_KINDS[published["kind"]]
    threshold = None if kind == "parallel" or published["threshold"] is None else float(published["threshold"])
    return Experiment(kind, threshold)


def facts_of(head: dict[str, Any]) -> Facts:
    """What the file says of itself; `head` is all of it but the prompts."""
    status, extra = (value if isinstance(value, dict) else {} for value in (head.get("status"), head.get("extra")))
    return Facts.of(
        lambda key: _setting(head, key),
        n_prompts=status.get("total_sequences"),
        seconds=extra.get("generation_time_so_far (s)"),
        is_complete=status.get("state") == "COMPLETED",
        is_published=_setting(head, "versions") is None,
    )


def _setting(head: dict[str, Any], key: str) -> Any:
    """A setting at the head's top (documented), under `params` or `data` (as published) or under `extra` (ours)."""
    for place in (head, head.get("params"), head.get("data"), head.get("extra")):
        if isinstance(place, dict) and place.get(key) is not None:
            return place[key]
    return None


def is_code(data_name: str | None) -> bool:
    """Whether the answers to this benchmark are programs."""
    return data_name is not None and _CODE in data_name.lower()


# -- writing a prompt -------------------------------------------------------------------------------------------------


def prompt_entry(record: PromptRecord, data_name: str | None = None) -> dict[str, Any]:
    """One prompt as the file has it: the published keys in their string forms, then ours."""
    sequences = record.sequences
    grades = grades_entry(sequences)
    return {
        "prompt": record.prompt,
        "generated_sequences": len(sequences),
        "target": _CODE_TARGET if record.target is None and is_code(data_name) else record.target,
        "extracted_answers": grades.pop("extracted_answers"),
        "generations": [record.prompt_text + sequence.text for sequence in sequences],
        "entropies": [_entropies_text(sequence) for sequence in sequences],
        "recorded_branches": [repr(_branch_entry(branch)) for branch in record.branches],
        "prompt_index": record.prompt_index,
        **grades,
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
        "lenient_correct": [sequence.lenient for sequence in sequences],
        "meta": record.meta,
    }


def grades_entry(sequences: Iterable[SequenceRecord]) -> dict[str, Any]:
    """The part of an entry that says what the sequences answer, and whether that is right."""
    graded = [(sequence.answer, sequence.correct, sequence.group) for sequence in sequences]
    return {
        "extracted_answers": repr([answer or "" for answer, _, _ in graded]),
        "correct": [correct for _, correct, _ in graded],
        "answer_groups": [group for _, _, group in graded],
    }


def _entropies_text(sequence: SequenceRecord) -> str:
    own = [repr(UNMONITORED if entropy is None else round(entropy, 4)) for entropy in sequence.entropies]
    return f"[{', '.join([repr(INHERITED)] * sequence.fork + own)}]"


def _branch_entry(branch: Branch) -> dict[str, Any]:
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


# -- reading the strings that hold Python values, without ever running them -------------------------------------------


class UnreadableError(ValueError):
    """A value that is not what it should be; the message says what it is instead."""


def parse_literal(text: str) -> Any:
    """The value of a flat repr (a list or dict of strings, numbers and None), not-a-number as None.

    Raises UnreadableError for anything else. `ast.literal_eval` runs nothing, but nesting and size can exhaust it: both
    are looked at first.
    """
    if len(text) > _MAX_CHARACTERS or text.count("\\") > _MAX_ESCAPES:
        raise UnreadableError(f"{len(text):,} characters long")
    outside, n_strings = _ANY_STRING.subn("", text)
    if n_strings > _MAX_STRINGS or len(outside) > _MAX_OUTSIDE:
        raise UnreadableError(f"a literal of {len(outside):,} characters and {n_strings:,} strings: too many")
    if sum(map(outside.count, "([{")) > _MAX_DEPTH or outside.count("-") + outside.count("+") > _MAX_SIGNS:
        raise UnreadableError("nested")
    if "nan" in outside or "inf" in outside:
        text = _STRING_OR_NAME.sub(lambda match: _LITERALS.get(match[0], match[0]), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a wrong escape in a hand-edited string is no concern
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        raise UnreadableError("not a Python literal") from None


def parse_answers(value: Any) -> list[str | None]:
    """`extracted_answers`: the repr of a list of strings, or the list itself; '', None and nan are no answer."""
    answers = parse_literal(value) if isinstance(value, str) else value
    if not isinstance(answers, list):
        raise UnreadableError("not a list")
    if not all(answer is None or isinstance(answer, (str, int, float)) for answer in answers):
        raise UnreadableError("not a list of strings")
    return [as_text(answer) for answer in answers]


def as_text(value: str | float | None) -> str | None:
    """The text or number as a text; None where there is none, which some say with not-a-number."""
    return None if value is None or value != value else str(value)


def parse_entropies(value: Any) -> list[float]:
    """One of `entropies`: the repr of a list of floats, sentinels included, or the list itself.

    Read as JSON, which a list of floats is, but for nan and inf: twenty times faster than as Python. A number that is
    not finite stays so.
    """
    try:
        if not isinstance(value, str):
            numbers = value
        elif value.count("[") == 1 and "{" not in value and '"' not in value:
            numbers = json.loads(value.replace("nan", "NaN").replace("inf", "Infinity") if "n" in value else value)
        else:
            numbers = None
        if isinstance(numbers, list):
            sum(numbers, 0.0)  # of anything but numbers there is none
            return numbers
    except (ValueError, TypeError, RecursionError, OverflowError):
        pass
    raise UnreadableError("not a list of numbers")
