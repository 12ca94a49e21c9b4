"""What the child process of `_native_check` does: import llama.cpp and decode a few tokens of a tiny model.

It may die of that; it is not imported anywhere else.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

IMPORTED = "imported"
_N_TOKENS = 33  # more than a tile of any kernel for batches, and no multiple of one


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
