"""Prompts by the vLLM server that this code runs inside: its chat template and tokenizer, as for its own answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence as Seq
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from eager.engines._vllm_api import VLLMClientError
from eager.engines.base import PromptError
from eager.errors import first_line

CHAT_FIELDS = (
    *("chat_template", "chat_template_kwargs", "reasoning_effort", "documents"),
    *("add_generation_prompt", "continue_final_message", "add_special_tokens"),
)
"""vLLM's fields of a request that say how its messages become a prompt."""

TEXT_FIELDS = ("add_special_tokens",)
"""The same of a bare text."""


class ServerPrompts:
    """`renderer` is vLLM's `OnlineRenderer`. What vLLM would refuse raises PromptError, with vLLM's reason."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    async def chat(self, messages: Seq[Any], how: Mapping[str, Any]) -> list[int]:
        """The ids of a conversation; `how` has some of CHAT_FIELDS."""
        with _refusals():
            rendered = await self._renderer.render_chat(ChatCompletionRequest(messages=messages, **how))
            return _ids(rendered if isinstance(rendered, ErrorResponse) else rendered[1])

    async def text(self, text: str, how: Mapping[str, Any]) -> list[int]:
        """The ids of a bare text; `how` has some of TEXT_FIELDS."""
        with _refusals():
            return _ids(await self._renderer.render_completion(CompletionRequest(prompt=text, **how)))


def _ids(rendered: Any) -> list[int]:
    """Of the one prompt in it."""
    if isinstance(rendered, ErrorResponse):
        raise PromptError(rendered.error.message)
    (prompt,) = rendered
    ids: list[int] = prompt["prompt_token_ids"]
    return ids


@contextmanager
def _refusals() -> Iterator[None]:
    """As vLLM's own handlers of errors tell them: those are the client's."""
    try:
        yield
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        raise PromptError(f"{place}: {wrong['msg']}" if place else wrong["msg"]) from error
    except (VLLMClientError, TemplateError, ValueError, TypeError, OverflowError) as error:
        raise PromptError(f"vLLM makes no prompt of the request: {first_line(error)}") from error
