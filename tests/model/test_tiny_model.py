"""The real build decodes the tiny model that the check of its native code uses."""

import needs
import pytest

pytest.importorskip("llama_cpp", reason=needs.missing("llama_cpp", "demo"))

from eager.engines import _native_check
from eager.engines._native_check import RUNS, ensure_llama_cpp_runs, remembered


def test_the_installed_build_runs_here(tmp_path, monkeypatch):
    """Remembered as running, which only a child that decoded the batch and the lone token makes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ensure_llama_cpp_runs()
    assert remembered() == RUNS


def test_the_tiny_model_is_what_is_decoded(tmp_path, monkeypatch):
    """Without a model that llama.cpp can load there is no answer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_native_check, "write_tiny_gguf", lambda path: path.write_bytes(b"no model"))
    ensure_llama_cpp_runs()
    assert remembered() is None
