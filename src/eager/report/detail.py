"""What the page shows of a prompt once it is opened: its tree, and the text around every fork."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from eager.prefix import common_prefix
from eager.recap.prompt import ReadBranch, ReadPrompt
from eager.words import visible

PROMPT_CHARACTERS = 4000
ANSWER_CHARACTERS = 200
TOKEN_CHARACTERS = 80
BEFORE_CHARACTERS = 220
AFTER_CHARACTERS = 140
ENDING_CHARACTERS = 360


def packed_detail(prompt: ReadPrompt) -> str:
    """The detail as base64 of deflated JSON: nothing of a model's text stands in the page as it is."""
    data = json.dumps(detail(prompt), separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def detail(prompt: ReadPrompt) -> dict[str, Any]:
    """JSON data for report.js; every text visible (see `words`) and cut."""
    return {
        "prompt": visible(prompt.prompt[:PROMPT_CHARACTERS]),
        "isCut": len(prompt.prompt) > PROMPT_CHARACTERS,
        "target": None if prompt.target is None else visible(prompt.target[:ANSWER_CHARACTERS]),
        "generated": prompt.n_generated,
        "naive": prompt.n_naive,
        "sequences": [_sequence(prompt, seq) for seq in range(prompt.n_sequences)],
        "forks": [_fork(prompt, branch) for branch in prompt.branches if branch.new_seq is not None],
    }


def _sequence(prompt: ReadPrompt, seq: int) -> dict[str, Any]:
    answer = prompt.answers[seq]
    own = prompt.texts[seq][prompt.prompt_characters :]
    return {
        "parent": prompt.parents[seq],
        "fork": prompt.forks[seq],
        "tokens": int(prompt.entropies[seq].size),
        "correct": prompt.correct[seq],
        "answer": None if answer is None else visible(answer[:ANSWER_CHARACTERS]),
        "finish": prompt.finish_reasons[seq],
        "ending": visible(own[-ENDING_CHARACTERS:]),
    }


def _fork(prompt: ReadPrompt, branch: ReadBranch) -> dict[str, Any]:
    before, after_kept, after_new = _texts_around(prompt, branch)
    return {
        "parent": branch.seq,
        "child": branch.new_seq,
        "position": branch.position,
        "entropy": round(branch.entropy, 4),
        "threshold": round(branch.threshold, 4),
        "kept": visible(branch.kept_token[:TOKEN_CHARACTERS]),
        "new": None if branch.new_token is None else visible(branch.new_token[:TOKEN_CHARACTERS]),
        "sampled": visible(branch.sampled_token[:TOKEN_CHARACTERS]),
        "before": visible(before),
        "afterKept": visible(after_kept),
        "afterNew": visible(after_new),
    }


def _texts_around(prompt: ReadPrompt, branch: ReadBranch) -> tuple[str, str, str]:
    """The text before the fork, and what followed either token."""
    if branch.seq is None or branch.new_seq is None:
        return branch.before[-BEFORE_CHARACTERS:], "", ""
    parent, child = prompt.texts[branch.seq], prompt.texts[branch.new_seq]
    start = fork_character(parent, child, branch.before, prompt.prompt_characters)
    before = parent[max(prompt.prompt_characters, start - BEFORE_CHARACTERS) : start]
    return before, _after(parent, start, branch.kept_token), _after(child, start, branch.new_token or "")


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
    return text[start : start + AFTER_CHARACTERS]
