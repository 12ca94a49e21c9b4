"""A chat as a model has it: its template, and where its thinking ends.

A template is a program by whoever made the model, so whatever it raises becomes a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence as Seq
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eager.engines._refusals import check_ids
from eager.engines.base import EngineError, PromptError
from eager.engines.options import ChatOptions
from eager.errors import first_line
from eager.types import Stops

_RAISED_BY_TEMPLATES = (
    TemplateError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)

# The second is gpt-oss, which answers in harmony's channels: thinking is over where the channel "final" starts.
_THINKING_ENDS = (("</think>",), ("<|channel|>", "final", "<|message|>"))


class _GenerationTag(Extension):  # type: ignore[misc] # jinja2 is not followed by the type checker
    """transformers' {% generation %}, which marks the model's turns and changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own form

    def parse(self, parser: Parser) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(text: str | None, owner: str = "") -> None:
    """Raises EngineError where a template cannot be compiled, before a model is loaded for it where it is the user's.

    `owner` says whose it is, where it is not the user's.
    """
    environment = ImmutableSandboxedEnvironment(extensions=[_GenerationTag, "jinja2.ext.loopcontrols"])
    try:
        environment.from_string(text or "")
    except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
        reason = f"{line}{first_line(error)}"
        raise EngineError(
            f"the chat template{owner} does not parse ({reason}): give one that does as --chat_template"
        ) from None


def chat_date(template: str, given: str | None) -> datetime | None:
    """The moment that a template which asks for it writes into every prompt; None for a template that does not.

    It is the one `given`, else that of the start: prompts of one run must not differ by when they were made.
    """
    if "strftime_now" not in template:
        return None
    return datetime.fromisoformat(given) if given else datetime.now().replace(microsecond=0)


def chat_identity(date: datetime | None) -> dict[str, str]:
    """What an engine's `identity` says of it."""
    return {} if date is None else {"chat_date": date.isoformat()}


def encode_with(template: Callable[[], Seq[int]]) -> list[int]:
    """The ids that `template` makes of a chat. Raises PromptError where it refuses the chat or makes nothing of it."""
    try:
        ids = list(template())
    except _RAISED_BY_TEMPLATES as error:
        raise PromptError(
            f"the chat template refuses the messages ({first_line(error)}): leave out --system_prompt or "
            "--chat_template_kwargs if it cannot take them, or give another --chat_template"
        ) from error
    if not ids:
        raise PromptError("the chat template makes an empty prompt: give another --chat_template")
    return ids


def hf_chat_ids(tokenizer: Any, messages: Seq[Mapping[str, str]], arguments: Mapping[str, Any]) -> list[int]:
    """The ids of a chat by a tokenizer of transformers, whose template gets these arguments, too."""
    plain = [dict(message) for message in messages]
    return encode_with(
        lambda: tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=True, return_dict=False, **arguments
        )
    )


def hf_text(tokenizer: Any, token_ids: Seq[int], n_vocab: int) -> str:
    """The text of ids by a tokenizer of transformers, special tokens written out. PromptError as of `check_ids`."""
    check_ids(token_ids, max(n_vocab, len(tokenizer)))
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    return text


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


def chat_args(model_name: str, tokenizer: Any, options: ChatOptions) -> tuple[dict[str, Any], datetime | None]:
    """What the tokenizer is given with every chat, and the date among it; EngineError where there is no template."""
    arguments: dict[str, Any] = dict(options.chat_template_kwargs or {})
    own = getattr(tokenizer, "chat_template", "")
    if options.chat_template is not None:
        arguments["chat_template"] = options.chat_template
    elif own is None:
        raise EngineError(f"model '{model_name}' has no chat template: use an instruct model, or give --chat_template")
    elif isinstance(own, str):
        check_template(own, f" of model '{model_name}'")
    date = chat_date(options.chat_template or str(own), options.chat_date)
    if date is not None:
        arguments["strftime_now"] = date.strftime  # in place of transformers' own
    return arguments, date


def read_stops(tokenizer: Any, generation_config: Mapping[str, Any]) -> Stops:
    """Stop ids as vLLM takes them: the tokenizer's end-of-sequence id and those of the model's generation config."""
    configured = generation_config.get("eos_token_id")
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    stop_ids = frozenset(int(i) for i in ids if i is not None)
    return Stops(stop_ids, thinking_end_ids(lambda text: tokenizer.encode(text, add_special_tokens=False)))
