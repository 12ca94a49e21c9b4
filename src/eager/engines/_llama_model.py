"""A GGUF model through llama-cpp-python's low-level API: finding the file, loading it, its tokenizer and template."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence as Seq
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any

from eager.engines._chat import chat_date, check_template, encode_with, thinking_end_ids
from eager.engines._demo import demo_gguf
from eager.engines._gguf import cache_numbers, read_facts
from eager.engines._hub_gguf import fetch, hub_name, parts_of
from eager.engines._llama_library import Jinja2ChatFormatter, llama_cpp, made
from eager.engines._model_files import local
from eager.engines.base import EngineError, PromptError
from eager.engines.options_llama_cpp import CACHE_TYPES, LlamaCppOptions
from eager.types import Stops
from eager.words import one_line

_AUTOREGRESSIVE = "use a causal language model, which writes one token after the other"
_OTHER_FILE = "give another file of it, or update llama-cpp-python where the model is newer than that"
_EMBEDS = ("bert", "embed")  # architectures


def find_gguf(model_name: str) -> Path:
    """The GGUF file of `demo`, of a path, or of a hub name `owner/repo:quant`; the first of several parts."""
    if model_name == "demo":
        return demo_gguf()
    is_file = model_name.endswith(".gguf")
    path = local(model_name)
    if is_file and os.path.isfile(path):  # Path's own raises where a name is too long
        return path
    named = hub_name(model_name)
    if named is not None:
        return fetch(*named)
    if is_file:
        raise EngineError(f"model file '{one_line(model_name)}' does not exist: give the path of a .gguf file")
    raise EngineError(
        f"engine llama_cpp does not know model '{one_line(model_name)}': give 'demo', the path of a .gguf file or"
        " 'owner/repo:quant', or choose --engine vllm"
    )


class LlamaModel:
    """A loaded GGUF: weights, tokenizer, chat template and end tokens."""

    def __init__(self, model_name: str, options: LlamaCppOptions, *, gpu: bool) -> None:
        check_template(options.chat_template)
        self._options = options
        self._name = one_line(model_name)
        self.files = parts_of(find_gguf(model_name))
        self._facts, *_ = [read_facts(path) for path in self.files]
        self._refuse_by_its_facts()
        self.handle = self._load(gpu=gpu)
        with ExitStack() as on_failure:
            on_failure.callback(self.free)
            self._read()
            on_failure.pop_all()

    def free(self) -> None:
        """Give the memory back; afterwards the model is not used."""
        llama_cpp.llama_model_free(self.handle)

    def _read(self) -> None:
        """What the loaded model says of itself. Raises EngineError where it is of no use here."""
        self._refuse_what_cannot_fork()
        self.vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self._formatter = self._chat_formatter()
        self.stops = Stops(
            frozenset(i for i in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self.vocab, i)),
            thinking_end_ids(self.encode),
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache a token takes, at most."""
        keys, values = cache_numbers(self._facts)
        return ceil(
            keys * CACHE_TYPES[self._options.type_k].n_bytes + values * CACHE_TYPES[self._options.type_v].n_bytes
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, special tokens written out in it read as such, and none added."""
        raw = text.encode("utf-8", errors="replace")
        size = len(raw) + 8
        buffer = (llama_cpp.llama_token * size)()
        n_tokens = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), buffer, size, False, True)
        if n_tokens < 0:
            raise PromptError(f"the model's tokenizer refuses a text of {len(raw)} bytes")
        return list(buffer[:n_tokens])

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        return encode_with(lambda: self._encode_chat(messages))

    def _encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        plain = [dict(message) for message in messages]
        text = self._formatter(messages=plain, **(self._options.chat_template_kwargs or {})).prompt
        return self.begun(text)

    def begun(self, text: str) -> list[int]:
        """Ids of `text` as the beginning of all that the model reads."""
        ids = self.encode(text)
        # Of what the model wants around a text only the beginning: an end would end the prompt before the answer.
        wants_bos = llama_cpp.llama_vocab_get_add_bos(self.vocab) and not (self._bos and text.startswith(self._bos))
        return [llama_cpp.llama_vocab_bos(self.vocab), *ids] if ids and wants_bos else ids

    def decode(self, token_ids: Seq[int]) -> str:
        return b"".join(self._piece(i) for i in token_ids).decode("utf-8", errors="replace")

    def _piece(self, token_id: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n_bytes = llama_cpp.llama_token_to_piece(self.vocab, token_id, buffer, size, 0, True)
            if n_bytes >= 0:
                return buffer.raw[:n_bytes]
            size = -n_bytes

    def _load(self, *, gpu: bool) -> Any:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999 if gpu else 0
        self._options.set_on(params)
        path = os.fsencode(self.files[0])
        handle, reason = made(lambda: llama_cpp.llama_model_load_from_file(path, params))
        if not handle:
            remedy = "choose a smaller quantization" if "alloc" in reason else _OTHER_FILE
            raise EngineError(f"llama.cpp cannot load model '{self._name}' ({reason}): {remedy}")
        return handle

    def _refuse_by_its_facts(self) -> None:
        """What need not be loaded to be refused."""
        facts = self._facts
        kind = facts.values.get("general.type", "model")
        if kind != "model":
            raise EngineError(f"'{self._name}' holds no model but part of one ({kind}): give the model itself")
        is_embedding = any(word in facts.architecture for word in _EMBEDS) or facts.of_model("pooling_type", 0)
        if is_embedding:
            raise EngineError(f"model '{self._name}' embeds text and writes none: {_AUTOREGRESSIVE}")
        if not facts.of_model("attention.causal", True):
            raise EngineError(
                f"model '{self._name}' fills in tokens anywhere in a text ({facts.architecture}), as masked diffusion"
                f" does, and has no place to fork: {_AUTOREGRESSIVE}"
            )
        if facts.values.get("tokenizer.ggml.model") == "no_vocab":
            raise EngineError(f"model '{self._name}' has no tokenizer in its GGUF: convert it with its tokenizer")

    def _refuse_what_cannot_fork(self) -> None:
        if llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle):
            raise EngineError(
                f"model '{self._name}' keeps a recurrent state, which cannot be forked at a token:"
                " use a pure transformer"
            )
        if llama_cpp.llama_model_has_encoder(self.handle):
            raise EngineError(f"model '{self._name}' has an encoder, which reads the prompt apart: {_AUTOREGRESSIVE}")
        if llama_cpp.llama_model_is_diffusion(self.handle):
            raise EngineError(f"model '{self._name}' is a diffusion model and has no place to fork: {_AUTOREGRESSIVE}")

    def _chat_formatter(self) -> Jinja2ChatFormatter:
        template = self._options.chat_template or self._own_template()
        bos = llama_cpp.llama_vocab_bos(self.vocab)
        eos = llama_cpp.llama_vocab_eos(self.vocab)
        self._bos = self.decode([bos]) if bos >= 0 else ""
        formatter = Jinja2ChatFormatter(template, eos_token=self.decode([eos]) if eos >= 0 else "", bos_token=self._bos)
        self.chat_date = chat_date(template, self._options.chat_date)
        if self.chat_date is not None:
            formatter.strftime_now = self.chat_date.strftime
        return formatter

    def _own_template(self) -> str:
        own = llama_cpp.llama_model_chat_template(self.handle, None)
        if not own:
            raise EngineError(
                f"model '{self._name}' has no chat template in its GGUF: use an instruct model, or give --chat_template"
            )
        text: str = own.decode("utf-8", "replace")
        check_template(text, f" of model '{self._name}'")
        return text
