"""A chat as a model has it: its template, and where its thinking ends.

A template is a program by whoever made the model, so whatever it raises becomes a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eager.engines.base import EngineError
from eager.errors import first_line

_RAISED_BY_TEMPLATES = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

# The second is gpt-oss, which answers in harmony's channels: thinking is over where the channel "final" starts.
_THINKING_ENDS = (("</think>",), ("<|channel|>", "final", "<|message|>"))


class _GenerationTag(Extension):  # type: ignore[misc] # jinja2 is not followed by the type checker
    """transformers' {% generation %}, which marks the model's turns and changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(text: str | None) -> None:
    """Raises EngineError where a template of the user's does not parse, before a model is loaded for it."""
    environment = ImmutableSandboxedEnvironment(extensions=[_GenerationTag, "jinja2.ext.loopcontrols"])
    try:
        environment.parse(text or "")
    except TemplateSyntaxError as error:
        raise EngineError(
            f"the chat template does not parse (line {error.lineno}: {first_line(error)}): mend the file of "
            "--chat_template, or leave it out for the model's own"
        ) from None


def encode_with(template: Callable[[], Seq[int]]) -> list[int]:
    """The ids that `template` makes of a chat. Raises EngineError where it refuses the chat or makes nothing of it."""
    try:
        ids = list(template())
    except _RAISED_BY_TEMPLATES as error:
        raise EngineError(
            f"the chat template refuses the messages ({first_line(error)}): leave out --system_prompt or "
            "--chat_template_kwargs if it cannot take them, or give another --chat_template"
        ) from error
    if not ids:
        raise EngineError("the chat template makes an empty prompt: give another --chat_template")
    return ids


def thinking_end_ids(encode: Callable[[str], Seq[int]]) -> tuple[int, ...]:
    """The run of ids that ends thinking, () for a model that has no such marker.

    `encode` must read special tokens in its text. A marker counts only where each of its parts is one token: one
    that falls apart into pieces is ordinary text to the model.
    """
    for parts in _THINKING_ENDS:
        ids = tuple(encode("".join(parts)))
        if len(ids) == len(parts):
            return ids
    return ()
