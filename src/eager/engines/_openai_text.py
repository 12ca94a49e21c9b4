"""Text to token ids and back: by the server's own tokenizer, or by files on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence as Seq
from pathlib import Path
from typing import Any, Protocol

from eager.engines._chat import (
    chat_args,
    chat_identity,
    check_template,
    encode_with,
    read_stops,
    thinking_end_ids,
)
from eager.engines._model_files import local
from eager.engines._openai_faults import RefusalError
from eager.engines._openai_probe import Facts
from eager.engines.base import EngineError, PromptError
from eager.engines.options_openai import OpenAIOptions
from eager.errors import first_line
from eager.types import Stops
from eager.words import one_line

Ask = Callable[[str, Mapping[str, Any] | None], Any]
"""(path, body, or None to get) -> the JSON that a server answers; raises RefusalError where it refuses."""

_UNTRUSTED = "trust-request-chat-template"


class Text(Protocol):
    """A model's tokenizer, with its chat template."""

    stops: Stops

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, token_ids: Seq[int]) -> str: ...

    def identity(self) -> dict[str, str]: ...


def text_of(model: str, options: OpenAIOptions, facts: Facts, ask: Ask) -> Text:
    """What the options ask for. Raises EngineError where that is not there, or nobody says what ends a sequence."""
    check_template(options.chat_template)
    if options.tokenizer is not None:
        return LocalText(model, options, options.tokenizer)
    return ServerText(model, options, facts, ask)


class ServerText:
    """`/tokenize` and `/detokenize` of vLLM's server."""

    def __init__(self, model: str, options: OpenAIOptions, facts: Facts, ask: Ask) -> None:
        self._model = model
        self._ask = ask
        self._chat: dict[str, Any] = {"chat_template_kwargs": dict(options.chat_template_kwargs or {})}
        if options.chat_template is not None:
            self._chat["chat_template"] = options.chat_template
        stop_ids = options.stop_token_ids or self._stop_ids(facts)
        self.stops = Stops(frozenset(stop_ids), thinking_end_ids(self._encode))

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        body = {"messages": [dict(message) for message in messages], "add_generation_prompt": True, **self._chat}
        return encode_with(lambda: self._tokenize(body))

    def encode(self, text: str) -> list[int]:
        try:
            return self._tokenize({"prompt": text})
        except ValueError as error:
            raise PromptError(f"the server does not encode the text: {error}") from None

    def decode(self, token_ids: Seq[int]) -> str:
        try:
            answer = self._ask("/detokenize", {"model": self._model, "tokens": list(token_ids)})
        except RefusalError as refusal:
            raise EngineError(f"the tokens have no text: {refusal}: give --tokenizer FOLDER") from None
        text = answer.get("prompt") if isinstance(answer, Mapping) else None
        if not isinstance(text, str):
            raise EngineError("the server's /detokenize answers no text: give --tokenizer FOLDER")
        return text

    def identity(self) -> dict[str, str]:
        return {}

    def _encode(self, text: str) -> list[int]:
        return self._tokenize({"prompt": text, "add_special_tokens": False})

    def _tokenize(self, body: Mapping[str, Any]) -> list[int]:
        """Raises ValueError with what the server says where it refuses."""
        try:
            answer = self._ask("/tokenize", {"model": self._model, **body})
        except RefusalError as refusal:
            if _UNTRUSTED in str(refusal):
                raise EngineError(
                    "the server takes no --chat_template: start it with --trust-request-chat-template, or give it the"
                    " template itself as --chat-template"
                ) from None
            raise ValueError(str(refusal)) from None
        found = answer.get("tokens") if isinstance(answer, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(i, int) for i in found):
            raise EngineError("the server's /tokenize answers no token ids: give --tokenizer FOLDER")
        return found

    def _stop_ids(self, facts: Facts) -> list[int]:
        """As vLLM takes them: the tokenizer's end-of-sequence id, and those of the model's generation config."""
        folder = local(facts.root) if facts.root else None
        if folder is not None and folder.is_dir():
            texts = [_end_text(_json_of(folder / "tokenizer_config.json"))]
            ids = _configured(_json_of(folder / "generation_config.json"))
            ids = ids or _configured(_json_of(folder / "config.json"))
        else:
            texts, ids = [_end_text(self._tokenizer_info())], []
        found = {*ids, *(i for text in texts if text for i in self._one_id(text))}
        if not found:
            raise EngineError(
                "the server does not say what ends a sequence: give the model's stop ids as --engine_option"
                " stop_token_ids=[…], its tokenizer's folder as --tokenizer, or start it with"
                " --enable-tokenizer-info-endpoint"
            )
        return sorted(found)

    def _tokenizer_info(self) -> Any:
        try:
            return self._ask("/tokenizer_info", None)
        except (RefusalError, EngineError):
            return None

    def _one_id(self, text: str) -> list[int]:
        ids = self._encode(text)
        return ids if len(ids) == 1 else []


class LocalText:
    """A tokenizer's folder on this machine, read by transformers."""

    def __init__(self, model: str, options: OpenAIOptions, folder: str) -> None:
        self._tokenizer = _tokenizer_in(folder)
        self._chat, self._date = chat_args(model, self._tokenizer, options)
        stops = read_stops(self._tokenizer, _json_of(local(folder) / "generation_config.json") or {})
        self.stops = Stops(frozenset(options.stop_token_ids or stops.stop_ids), stops.thinking_end)
        if not self.stops.stop_ids:
            raise EngineError(
                f"the tokenizer in '{one_line(folder)}' says no stop ids: give --engine_option stop_token_ids=[…]"
            )

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        plain = [dict(message) for message in messages]
        return encode_with(
            lambda: self._tokenizer.apply_chat_template(
                plain, add_generation_prompt=True, tokenize=True, return_dict=False, **self._chat
            )
        )

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text)
        return ids

    def decode(self, token_ids: Seq[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def identity(self) -> dict[str, str]:
        return chat_identity(self._date)


def _tokenizer_in(folder: str) -> Any:
    path = local(folder)
    if not path.is_dir():
        raise EngineError(
            f"--tokenizer '{one_line(folder)}' is no folder: give the one with the model's tokenizer.json"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise EngineError("--tokenizer needs transformers: pip install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise EngineError(
            f"no tokenizer can be read from '{one_line(folder)}' ({one_line(first_line(error))}): fetch its files again"
        ) from error


def _json_of(path: Path) -> Any:
    """The object in a file; None where there is none. Raises EngineError where it cannot be read as one."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        raise EngineError(f"'{one_line(str(path))}' cannot be read as JSON: fetch it again") from None
    return found if isinstance(found, dict) else None


def _end_text(tokenizer_config: Any) -> str | None:
    """The end-of-sequence token, as the tokenizer's configuration writes it."""
    found = tokenizer_config.get("eos_token") if isinstance(tokenizer_config, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get("content")
    return found if isinstance(found, str) else None


def _configured(config: Any) -> list[int]:
    found = config.get("eos_token_id") if isinstance(config, Mapping) else None
    ids = found if isinstance(found, list) else [found]
    return [i for i in ids if isinstance(i, int) and not isinstance(i, bool) and i >= 0]
