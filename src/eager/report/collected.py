"""What the pass over the results keeps for the report beside the measures: branches, and every prompt's tree."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from eager.prefix import common_prefix
from eager.recap.measure import Measures
from eager.replay.bounds import PromptBounds, prompt_bounds
from eager.replay.folder import is_graded, longest
from eager.replay.tree import replay_parallel, replay_tree
from eager.store.records import PromptRecord, SequenceRecord
from eager.types import MAX_ENTROPY, Branch, BranchConfig
from eager.words import one_line, visible

_LISTED_CHARACTERS = 400
_PROMPT_CHARACTERS = 4000
_ANSWER_CHARACTERS = 200
_TOKEN_CHARACTERS = 80
_BEFORE_CHARACTERS = 220
_AFTER_CHARACTERS = 140
_ENDING_CHARACTERS = 360


@dataclass(slots=True)
class Branches:
    """Where one experiment branched; and its prompts with fewer sequences, by their number, where that can be told."""

    positions: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    thresholds: set[float] = field(default_factory=set)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    smaller: dict[int, list[PromptBounds]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """A prompt in the page's list."""

    index: int
    text: str
    target: str | None


@dataclass(slots=True)
class Collected:
    """Everything; `details` by (prompt key, experiment label)."""

    branches: dict[str, Branches] = field(default_factory=dict)
    listed: dict[int, Listed] = field(default_factory=dict)
    details: dict[tuple[int, str], str] = field(default_factory=dict)

    def see(self, measures: Measures, key: int, record: PromptRecord) -> None:
        """Called with every prompt of every experiment."""
        if key not in self.listed:
            target = None if record.target is None else visible(record.target[:_ANSWER_CHARACTERS])
            self.listed[key] = Listed(record.prompt_index, one_line(record.prompt, _LISTED_CHARACTERS), target)
        self.details[key, measures.label] = packed_detail(record)
        branches = self.branches.setdefault(measures.label, Branches())
        for branch in record.branches:
            branches.positions.append(branch.position)
            branches.entropies.append(branch.entropy)
            branches.thresholds.add(round(branch.threshold, 4))
            if branch.new_token is not None:
                branches.pairs[branch.kept_token or "", branch.new_token] += 1
        for max_sequences, bounds in with_fewer_sequences(measures, record):
            branches.smaller.setdefault(max_sequences, []).append(bounds)


def with_fewer_sequences(measures: Measures, record: PromptRecord) -> Iterator[tuple[int, PromptBounds]]:
    """The prompt replayed at a half of M, a quarter, …; not where sequences were cut, or lie in another order."""
    experiment, facts = measures.experiment, measures.facts
    is_known = (
        not facts.is_published
        and all(None not in (branch.seq, branch.new_seq) for branch in record.branches)
        and all(sequence.finish_reason != "cut" for sequence in record.sequences)
    )
    if experiment.kind not in ("parallel", "eager_init") or facts.max_sequences is None or not is_known:
        return
    # At the recorded threshold no other rule matters: the branches are those that came.
    rules = BranchConfig(facts.max_sequences, experiment.threshold or MAX_ENTROPY)
    most_tokens = longest(record, {})
    fewer = facts.max_sequences // 2
    while fewer:
        if experiment.kind == "parallel":
            replayed = replay_parallel(record, fewer)
        else:
            replayed = replay_tree(record, rules, replace(rules, max_sequences=fewer))
        yield fewer, prompt_bounds(replayed, most_tokens, is_graded=is_graded(record))
        fewer //= 2


# -- what is shown of a prompt once it is opened: its tree, and the text around every fork ----------------------------


def packed_detail(record: PromptRecord) -> str:
    """The detail as base64 of deflated JSON: nothing of a model's text stands in the page as it is."""
    data = json.dumps(detail(record), separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def detail(record: PromptRecord) -> dict[str, Any]:
    """JSON data for report.js; every text visible (see `words`) and cut."""
    return {
        "prompt": visible(record.prompt[:_PROMPT_CHARACTERS]),
        "isCut": len(record.prompt) > _PROMPT_CHARACTERS,
        "target": None if record.target is None else visible(record.target[:_ANSWER_CHARACTERS]),
        "generated": record.n_tokens,
        "naive": record.n_tokens_naive,
        "sequences": [_sequence(sequence) for sequence in record.sequences],
        "forks": [_fork(record, branch) for branch in record.branches if branch.new_seq is not None],
    }


def _sequence(sequence: SequenceRecord) -> dict[str, Any]:
    answer = sequence.answer
    return {
        "parent": sequence.parent,
        "fork": sequence.fork,
        "tokens": sequence.n_tokens,
        "correct": sequence.correct,
        "answer": None if answer is None else visible(answer[:_ANSWER_CHARACTERS]),
        "finish": sequence.finish_reason,
        "ending": visible(sequence.text[-_ENDING_CHARACTERS:]),
    }


def _fork(record: PromptRecord, branch: Branch) -> dict[str, Any]:
    before, after_kept, after_new = _texts_around(record, branch)
    return {
        "parent": branch.seq,
        "child": branch.new_seq,
        "position": branch.position,
        "entropy": round(branch.entropy, 4),
        "threshold": round(branch.threshold, 4),
        "kept": _token(branch.kept_token),
        "new": _token(branch.new_token),
        "sampled": _token(branch.sampled_token),
        "before": visible(before),
        "afterKept": visible(after_kept),
        "afterNew": visible(after_new),
    }


def _token(token: str | None) -> str | None:
    return None if token is None else visible(token[:_TOKEN_CHARACTERS])


def _texts_around(record: PromptRecord, branch: Branch) -> tuple[str, str, str]:
    """The text before the fork, and what followed either token."""
    if branch.seq is None or branch.new_seq is None:
        return branch.text_before[-_BEFORE_CHARACTERS:], "", ""
    parent, child = (record.prompt_text + record.sequences[seq].text for seq in (branch.seq, branch.new_seq))
    n_prompt = len(record.prompt_text)
    start = fork_character(parent, child, branch.text_before, n_prompt)
    before = parent[max(n_prompt, start - _BEFORE_CHARACTERS) : start]
    return before, _after(parent, start, branch.kept_token or ""), _after(child, start, branch.new_token or "")


def fork_character(parent: str, child: str, before: str, prompt_characters: int) -> int:
    """Where the two texts part: `before` decides, as a common start may go on into the tokens (" fav", " favour")."""
    shared = common_prefix(parent, child)
    if not before:
        return min(prompt_characters, shared)
    place = parent.rfind(before, 0, shared)
    return shared if place < 0 else place + len(before)


def _after(text: str, start: int, token: str) -> str:
    if text.startswith(token, start):
        start += len(token)
    return text[start : start + _AFTER_CHARACTERS]
