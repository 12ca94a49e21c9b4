"""The fields of every message of the format, with what each must be and its default; and the schemas made of them."""

from __future__ import annotations

from typing import Any, get_args

from eager.types import MAX_ENTROPY, MAX_VARENTROPY, TEMPERATURES, BranchRule, FinishReason
from eager.wire.kinds import (
    IDS,
    LARGEST_COUNT,
    SWITCH,
    TEXT,
    TOKEN,
    VERSION,
    Field,
    above_0,
    an_object,
    list_of,
    number,
    one_of,
    or_null,
    whole,
)

MAX_SEQUENCES = 100_000
MAX_PROMPT = 1 << 22

# What the gate takes in 32 bits may lie a rounding step above.
_ENTROPY = number(0, 3)

SAMPLING = {
    "temperature": Field(number(*TEMPERATURES), 0.6),
    "top_p": Field(above_0(1), 1.0),
    "top_k": Field(whole(0), 0),
    "min_p": Field(number(0, 1), 0.0),
}
RULES = {
    "max_sequences": Field(whole(1, MAX_SEQUENCES)),
    "entropy_threshold": Field(above_0(MAX_ENTROPY)),
    "branch_rule": Field(one_of(*get_args(BranchRule)), "top2"),
    "threshold_percentile": Field(or_null(number(0, 100)), None),
    "max_tokens_without_branch": Field(whole(1), 1000),
    "varentropy_threshold": Field(or_null(number(0, MAX_VARENTROPY)), None),
    "varentropy_max_entropy": Field(above_0(MAX_ENTROPY), 2.5),
    "stop_after": Field(or_null(whole(1)), None),
}
REQUEST = {
    "version": Field(one_of(VERSION)),
    "prompt": Field(list_of(1, MAX_PROMPT, TOKEN)),
    "max_length": Field(whole(2)),
    "sampling": Field(an_object(SAMPLING), {}),
    "rules": Field(an_object(RULES)),
    "seed": Field(whole(-(1 << 63), (1 << 64) - 1)),
    "prompt_index": Field(whole(0), 0),
    "first_sequence": Field(whole(0), 0),
    "n_roots": Field(whole(1, MAX_SEQUENCES), 1),
    "record_entropies": Field(SWITCH, False),
    "stop_ids": Field(list_of(0, 1024, TOKEN)),
    "thinking_end": Field(list_of(0, 64, TOKEN), []),
    "stream": Field(SWITCH, False),
}
BRANCH = {
    "seq": Field(whole(0, MAX_SEQUENCES)),
    "position": Field(whole(0)),
    "entropy": Field(_ENTROPY),
    "threshold": Field(_ENTROPY),
    "new_seq": Field(whole(1, MAX_SEQUENCES)),
    "sampled_id": Field(or_null(TOKEN), None),
    "kept_id": Field(or_null(TOKEN), None),
    "new_id": Field(or_null(TOKEN), None),
}
SEQUENCE = {
    "token_ids": Field(IDS),
    "entropies": Field(list_of(0, LARGEST_COUNT, or_null(_ENTROPY)), []),
    "finish_reason": Field(one_of(*get_args(FinishReason))),
    "parent": Field(or_null(whole(0, MAX_SEQUENCES)), None),
    "fork": Field(whole(0), 0),
    "error": Field(or_null(TEXT), None),
}
ENDED = tuple(name for name in SEQUENCE if name != "entropies")
TREE = {
    "sequences": Field(list_of(1, MAX_SEQUENCES, an_object(SEQUENCE, is_open=True))),
    "branches": Field(list_of(0, MAX_SEQUENCES, an_object(BRANCH, is_open=True)), []),
    "recomputed": Field(whole(0), 0),
    "discarded": Field(whole(0), 0),
}
ANSWER = {"version": Field(one_of(VERSION)), "tree": Field(an_object(TREE, is_open=True))}
EVENTS = {
    "branch": {name: BRANCH[name] for name in ("seq", "position", "new_seq")},
    "ended": {"seq": Field(whole(0, MAX_SEQUENCES)), **{name: SEQUENCE[name] for name in ENDED}},
    "alive": {"n_tokens": Field(whole(0, 1 << 53))},
    "finished": ANSWER,
    "error": {"message": Field(TEXT)},
}
ABOUT = {
    "version": Field(one_of(VERSION)),
    "missing": Field(list_of(0, 64, TEXT)),
    "model": Field(TEXT, ""),
    "max_model_len": Field(whole(0), 0),
    "branch_rules": Field(list_of(0, 64, TEXT), []),
    "pause_id": Field(or_null(TOKEN), None),
    "runner": Field(or_null(whole(1)), None),
}


def schemas() -> dict[str, Any]:
    """The JSON Schemas (draft 2020-12) of the format, by what they are of."""
    events = [an_object({"event": Field(one_of(name)), **table}, is_open=True).schema for name, table in EVENTS.items()]
    return {
        "request": an_object(REQUEST).schema,
        "answer": an_object(ANSWER, is_open=True).schema,
        "event": {"oneOf": events},
        "about": an_object(ABOUT, is_open=True).schema,
    }
