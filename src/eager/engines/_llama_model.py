"""A GGUF model through llama-cpp-python's low-level API: finding the file, loading it, its tokenizer and template."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence as Seq
from importlib import import_module
from pathlib import Path
from typing import Any

from eager.engines._chat import check_template, encode_with, thinking_end_ids
from eager.engines._demo import demo_gguf
from eager.engines._llama_library import Jinja2ChatFormatter, llama_cpp
from eager.engines.base import EngineError
from eager.engines.options_llama_cpp import CACHE_TYPES, LlamaCppOptions
from eager.errors import first_line
from eager.types import Stops


def find_gguf(model_name: str) -> Path:
    """The GGUF file of `demo`, of a path, or of a hub name `owner/repo:quant`."""
    if model_name == "demo":
        return demo_gguf()
    if model_name.endswith(".gguf"):
        path = Path(model_name).expanduser()
        if not path.is_file():
            raise EngineError(f"model file '{model_name}' does not exist: give the path of a .gguf file")
        return path
    if model_name.count("/") == 1 and ":" in model_name:
        return _hub_gguf(*model_name.split(":", 1))
    raise EngineError(
        f"engine llama_cpp does not know model '{model_name}': give 'demo', the path of a .gguf file or"
        " 'owner/repo:quant', or choose --engine vllm"
    )


def _hub_gguf(repo: str, quant: str) -> Path:
    try:
        from huggingface_hub import HfApi, get_session, hf_hub_download
        from huggingface_hub.utils import logging
    except ImportError:
        raise EngineError(f"model '{repo}:{quant}' is on the hub: pip install 'eager-gen[llama-cpp]'") from None
    logging.set_verbosity_error()  # its retries are no news; their end is
    # The hub's client changed its HTTP library more than once: ask it which one it uses.
    http: Any = import_module(type(get_session()).__module__.split(".")[0])
    try:
        files = [name for name in HfApi().list_repo_files(repo) if name.endswith(".gguf")]
        matching = sorted(name for name in files if quant.lower() in name.lower())
        if matching:
            return Path(hf_hub_download(repo, matching[0]))
    except (http.HTTPError, OSError, ValueError) as error:
        raise EngineError(
            f"model '{repo}:{quant}' could not be fetched from the hub ({first_line(error)}): give a local .gguf path"
        ) from None
    raise EngineError(f"model '{repo}' has no .gguf file for '{quant}': it has {', '.join(files) or 'none'}")


class LlamaModel:
    """A loaded GGUF: weights, tokenizer, chat template and end tokens."""

    def __init__(self, model_name: str, options: LlamaCppOptions, *, gpu: bool) -> None:
        check_template(options.chat_template)
        self._options = options
        path = find_gguf(model_name)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999 if gpu else 0
        options.set_on(params)
        self.handle = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise EngineError(f"model file '{path}' cannot be loaded: it is no GGUF model that this llama.cpp knows")
        self.vocab = llama_cpp.llama_model_get_vocab(self.handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self.handle)
        self._refuse_what_cannot_fork(model_name)
        self._formatter = self._chat_formatter(model_name)
        self.stops = Stops(
            frozenset(i for i in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self.vocab, i)),
            thinking_end_ids(self.encode),
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache a token takes."""
        head_size = llama_cpp.llama_model_n_embd(self.handle) // llama_cpp.llama_model_n_head(self.handle)
        heads: int = llama_cpp.llama_model_n_layer(self.handle) * llama_cpp.llama_model_n_head_kv(self.handle)
        number_types = (CACHE_TYPES[self._options.type_k], CACHE_TYPES[self._options.type_v])
        return int(sum(number_type.n_bytes for number_type in number_types) * heads * head_size)

    def encode(self, text: str, add_special: bool = False) -> list[int]:
        """Ids of `text`, special tokens written out in it read as such."""
        raw = text.encode("utf-8", errors="replace")
        size = len(raw) + 8
        buffer = (llama_cpp.llama_token * size)()
        n_tokens = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), buffer, size, add_special, True)
        if n_tokens < 0:
            raise EngineError(f"the model's tokenizer refuses a text of {len(raw)} bytes")
        return list(buffer[:n_tokens])

    def encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        return encode_with(lambda: self._encode_chat(messages))

    def _encode_chat(self, messages: Seq[Mapping[str, str]]) -> list[int]:
        plain = [dict(message) for message in messages]
        text = self._formatter(messages=plain, **(self._options.chat_template_kwargs or {})).prompt
        has_bos = bool(self._bos) and text.startswith(self._bos)
        return self.encode(text, add_special=not has_bos) if text else []

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

    def _refuse_what_cannot_fork(self, model_name: str) -> None:
        if llama_cpp.llama_model_is_recurrent(self.handle) or llama_cpp.llama_model_is_hybrid(self.handle):
            raise EngineError(
                f"model '{model_name}' keeps a recurrent state, which cannot be forked at a token:"
                " use a pure transformer"
            )
        if llama_cpp.llama_model_has_encoder(self.handle):
            raise EngineError(f"model '{model_name}' is an encoder model: EAGer needs one that generates text")

    def _chat_formatter(self, model_name: str) -> Jinja2ChatFormatter:
        own = llama_cpp.llama_model_chat_template(self.handle, None)
        template = self._options.chat_template or (own or b"").decode()
        if not template:
            raise EngineError(
                f"model '{model_name}' has no chat template in its GGUF: use an instruct model, or give --chat_template"
            )
        bos = llama_cpp.llama_vocab_bos(self.vocab)
        eos = llama_cpp.llama_vocab_eos(self.vocab)
        self._bos = self.decode([bos]) if bos >= 0 else ""
        return Jinja2ChatFormatter(template, eos_token=self.decode([eos]) if eos >= 0 else "", bos_token=self._bos)
