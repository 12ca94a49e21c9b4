"""Prompts as users give them, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from numbers import Integral
from typing import TypeAlias

from eager.api.errors import ApiError
from eager.engines import Engine

Message: TypeAlias = Mapping[str, str]
Prompt: TypeAlias = str | Seq[Message] | Seq[int]
"""A user's message, a whole chat (`role`, `content`), or exactly these token ids."""


def encoded_prompts(engine: Engine, prompts: Seq[Prompt]) -> list[tuple[int, ...]]:
    """Each prompt's ids, ready for the answer. Raises ApiError or EngineError."""
    if isinstance(prompts, str) or not isinstance(prompts, Seq) or not prompts:
        raise ApiError("prompts must be a list of at least one prompt: put a single one into a list")
    return [_encoded(engine, prompt, index) for index, prompt in enumerate(prompts)]


def _encoded(engine: Engine, prompt: Prompt, index: int) -> tuple[int, ...]:
    ids = _ids(engine, prompt, index)
    if len(ids) + 1 > engine.max_model_len:
        raise ApiError(
            f"prompt {index} has {len(ids)} tokens, but the context holds {engine.max_model_len}:"
            " shorten it, or load the engine with a larger max_model_len"
        )
    return ids


def _ids(engine: Engine, prompt: Prompt, index: int) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return tuple(engine.encode_chat([{"role": "user", "content": prompt}]))
    items = list(prompt) if isinstance(prompt, Seq) else []
    if items and all(isinstance(item, Integral) for item in items):
        ids = tuple(int(item) for item in items)  # type: ignore[call-overload] # mypy does not see the test
        engine.decode(ids)  # refuses what is outside the vocabulary
        return ids
    if items and all(_is_message(item) for item in items):
        return tuple(engine.encode_chat([dict(item) for item in items]))  # type: ignore[call-overload] # nor this one
    raise ApiError(
        f"prompt {index} must be a text, a list of messages with 'role' and 'content', or a list of token ids,"
        f" not {type(prompt).__name__}"
    )


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and all(isinstance(item.get(name), str) for name in ("role", "content"))
