"""Trees over the gate of the vLLM server that this code runs inside: the `Source` of one of its requests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence as Seq
from contextlib import aclosing
from typing import Any

from eager.chat import Asked, ChatError, Prompt, TreeAsked
from eager.chat.source import Event
from eager.chat.votes import SettledBy
from eager.engines.base import PromptError
from eager.engines.gated_tree import GatedTree, not_over_gate
from eager.engines.vllm_gated import GatedServer
from eager.engines.vllm_prompts import ServerPrompts
from eager.server.growing import Growing
from eager.types import Stops, TreeJob

_INSTEAD = 'leave it out, or ask without "eager"'


class GatedSource:
    """Grows what one request asks for, whose `messages` (None: it has none) vLLM reads as they came.

    `how` says the rest of how its prompts are made. `server` must miss nothing.
    """

    def __init__(
        self, server: GatedServer, stops: Stops, prompts: ServerPrompts, messages: Any, how: Mapping[str, Any]
    ) -> None:
        self.model_name = server.model
        self.max_model_len = server.max_model_len
        self.stops = stops
        self._server = server
        self._prompts = prompts
        self._messages = messages
        self._how = how

    def why_not(self, asked: Asked) -> str | None:
        """What needs texts or log-probabilities of what is still decoded: the gate hands out neither."""
        if asked.stop:
            return f"stop texts cannot be had of trees in this server, which decodes them without texts: {_INSTEAD}"
        if asked.n_top is not None:
            return f"log-probabilities cannot be had of trees in this server, whose gate keeps entropies: {_INSTEAD}"
        return None if asked.tree is None else why_no_tree(asked.tree)

    async def encode(self, prompt: Prompt) -> Seq[int]:
        """The prompt's ids."""
        try:
            if self._messages is not None:
                return await self._prompts.chat(self._messages, self._how)
            if isinstance(prompt, str):
                return await self._prompts.text(prompt, self._how)
        except PromptError as error:
            raise ChatError(str(error)) from None
        ids: tuple[int, ...] = prompt  # type: ignore[assignment] # only a chat has messages
        wrong = self._server.wrong_id(ids)
        if wrong is not None:
            raise ChatError(wrong, param="prompt")
        return ids

    async def texts(self, sequences: Seq[Seq[int]]) -> list[str]:
        """In a thread: those of a long tree take a second."""
        decode = self._server.tokenizer.decode
        return await asyncio.to_thread(
            lambda: [decode(list(ids), skip_special_tokens=False) if ids else "" for ids in sequences]
        )

    async def grow(
        self, job: TreeJob, settled_by: SettledBy | None = None, *, tell_tokens: bool = False
    ) -> AsyncGenerator[Event, None]:
        """The tree as it grows."""
        assert self._server.pause_id is not None
        assert settled_by is None
        assert not tell_tokens
        growing = Growing(
            GatedTree(job, self.stops, name=uuid.uuid4().hex, pause_id=self._server.pause_id), self._server
        )
        try:
            async with aclosing(growing.events()) as events:
                async for event in events:
                    yield event
        finally:
            growing.end()


def why_no_tree(want: TreeAsked) -> str | None:
    """Why such a tree cannot be had over the gate; None where it can."""
    if want.settle is not None:
        return "settle cannot be had of trees in this server, which decodes them without texts: leave it out"
    return not_over_gate(want.rules)
