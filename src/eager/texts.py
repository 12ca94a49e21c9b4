"""Texts of what was generated, made once, at the end."""

from __future__ import annotations

from dataclasses import replace

from eager.engines import Engine
from eager.types import Branch, SequenceResult

# Text kept with a branch, as published: so many characters, and more tokens than they can be.
_CHARACTERS_BEFORE, _TOKENS_BEFORE = 50, 200


def text_of(engine: Engine, sequence: SequenceResult) -> str:
    """All that was generated, without the stop token."""
    tokens = sequence.token_ids
    if tokens and tokens[-1] in engine.stops.stop_ids:
        tokens = tokens[:-1]
    return engine.decode(tokens)


def with_tokens(engine: Engine, branch: Branch, offset: int) -> Branch:
    """The branch with its tokens as text, and numbered among the prompt's sequences: its tree's begin at `offset`."""

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else engine.decode([token_id])

    return replace(
        branch,
        seq=shifted(branch.seq, offset),
        new_seq=shifted(branch.new_seq, offset),
        sampled_token=text(branch.sampled_id),
        kept_token=text(branch.kept_id),
        new_token=text(branch.new_id),
    )


def with_text(engine: Engine, branch: Branch, child: SequenceResult, offset: int, prompt_text: str) -> Branch:
    """The same with what stood before the branch, the prompt included."""
    before = engine.decode(child.token_ids[max(0, branch.position - _TOKENS_BEFORE) : branch.position])
    return replace(with_tokens(engine, branch, offset), text_before=(prompt_text + before)[-_CHARACTERS_BEFORE:])


def shifted(seq: int | None, offset: int) -> int | None:
    """The number of a tree's sequence among those of its prompt."""
    return None if seq is None else seq + offset
