"""What the child process of `_native_check` does: import llama.cpp, and decode a few tokens of a tiny model.

It may die of that; llama.cpp is imported nowhere else here. The model knows nothing: a few MB of zeros in GGUF, one
layer for each kind of weights. Decoding it runs the kernels that a real model's weights would run, without one.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

IMPORTED = "imported"
_N_TOKENS = 33  # more than a tile of any kernel for batches, and no multiple of one

_N_VOCAB = 256
_WIDTH = 256  # K-quants come in blocks of 256
_ALIGNMENT = 32
_F32 = (0, 1, 4)
# ggml's number of the type, weights in a block, bytes of a block.
_KINDS = {
    "F32": _F32,
    "F16": (1, 1, 2),
    "BF16": (30, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_XS": (23, 256, 136),
}
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_Tensor = tuple[str, tuple[int, ...], tuple[int, int, int]]  # name, shape, kind


def main(model_file: str) -> None:
    """Say IMPORTED when llama.cpp is loaded; exit with 0 when it has decoded."""
    _leave_no_core_file()
    import llama_cpp

    print(IMPORTED, flush=True)
    llama_cpp.llama_backend_init()
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(model_file.encode(), model_params)
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx = context_params.n_batch = context_params.n_ubatch = 64
    context_params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(model, context_params) if model else None
    if not context:
        sys.exit("llama.cpp cannot load the tiny model")
    for n_tokens in (_N_TOKENS, 1):  # as in a prompt, then as in an answer
        tokens = (llama_cpp.llama_token * n_tokens)()
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, n_tokens)) != 0:
            sys.exit("llama.cpp cannot decode the tiny model")
    os._exit(0)  # how libraries behave at the end of a process is not the question


def _leave_no_core_file() -> None:
    with suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def write_tiny_gguf(path: Path) -> None:
    """Write the model, a llama without a tokenizer, to `path`. Raises OSError."""
    tensors = list(_tensors())
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(_facts())) + b"".join(_facts())
    offset = 0
    for name, shape, kind in tensors:
        header += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind[0], offset)
        offset += _padded(_n_bytes(shape, kind))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(_padded(len(header)) + offset)  # the weights: zeros


def _facts() -> list[bytes]:
    numbers = {
        "llama.context_length": 512,
        "llama.embedding_length": _WIDTH,
        "llama.block_count": len(_KINDS),
        "llama.feed_forward_length": _WIDTH,
        "llama.attention.head_count": 4,
        "llama.vocab_size": _N_VOCAB,
    }
    texts = {"general.architecture": "llama", "tokenizer.ggml.model": "no_vocab"}
    return [
        *(_text(name) + struct.pack("<I", 8) + _text(value) for name, value in texts.items()),
        *(_text(name) + struct.pack("<II", 4, value) for name, value in numbers.items()),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
    ]


def _tensors() -> Iterator[_Tensor]:
    square = (_WIDTH, _WIDTH)
    yield "token_embd.weight", (_WIDTH, _N_VOCAB), _KINDS["F16"]
    yield "output_norm.weight", (_WIDTH,), _F32
    yield "output.weight", (_WIDTH, _N_VOCAB), _KINDS["Q8_0"]
    for layer, kind in enumerate(_KINDS.values()):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", (_WIDTH,), _F32
        for matrix in _MATRICES:
            yield f"blk.{layer}.{matrix}.weight", square, kind


def _n_bytes(shape: tuple[int, ...], kind: tuple[int, int, int]) -> int:
    n_weights = shape[0] * (shape[1] if len(shape) > 1 else 1)
    return n_weights // kind[1] * kind[2]


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode("ascii")
