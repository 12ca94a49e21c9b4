"""llama-cpp-python's low-level API, loaded so that it runs and prints nothing; the other modules have it from here.

A build for CUDA brings a second copy of parts of the C++ library. If that library is in the process already, loaded by
numpy for itself alone, llama.cpp's code finds the copy first and crashes on the first model (seen on an H200, in the
regular expressions of a tokenizer). Once it is there for everybody, all find the same one.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from eager.words import one_line

if sys.platform == "linux":
    with suppress(OSError):  # a system without GNU's C++ library has another way to be right
        ctypes.CDLL("libstdc++.so.6", ctypes.RTLD_GLOBAL)

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads meet some hundred times a token. Spinning on for as long as GNU's OpenMP does by default gains nothing and
    # takes the CPU from whoever else needs it (docs/engines.md, "Speed": 1.4 times as fast beside a busy process).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

_PLACE_IN_CODE = re.compile(r"^(\w+: )?(error loading model: )?(\w+: )?")  # functions' names are nobody's business
_MOST_KEPT = 16
_ERROR = 4  # of ggml's levels of messages
_complaints: list[bytes] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _listen(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp prints hundreds of lines on loading; its errors come back as return codes, their reasons only here."""
    if level == _ERROR:
        _complaints[_MOST_KEPT:] = [text]  # the first ones, and the last


llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))


def made(make: Callable[[], Any]) -> tuple[Any, str]:
    """What `make`, a call of llama.cpp's, returns, and llama.cpp's reason where that is nothing.

    The first of its complaints is the cause, those after it are what followed from that.
    """
    _complaints.clear()
    found = make()
    said = [complaint.decode("utf-8", "replace").strip() for complaint in _complaints]
    reason = next((line for line in said if line), "it gave no reason")
    return found, one_line(_PLACE_IN_CODE.sub("", reason))


__all__ = ["Jinja2ChatFormatter", "llama_cpp", "made"]
