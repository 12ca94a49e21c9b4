"""llama-cpp-python's low-level API, loaded so that it runs and says nothing; the other modules have it from here.

A build for CUDA brings a second copy of parts of the C++ library. If that library is in the process already, loaded by
numpy for itself alone, llama.cpp's code finds the copy first and crashes on the first model (seen on an H200, in the
regular expressions of a tokenizer). Once it is there for everybody, all find the same one.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Any

if sys.platform == "linux":
    with suppress(OSError):  # a system without GNU's C++ library has another way to be right
        ctypes.CDLL("libstdc++.so.6", ctypes.RTLD_GLOBAL)

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _say_nothing(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp prints hundreds of lines on loading; its errors come back as return codes."""


llama_cpp.llama_log_set(_say_nothing, ctypes.c_void_p(0))

__all__ = ["Jinja2ChatFormatter", "llama_cpp"]
