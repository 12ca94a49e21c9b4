"""A build of llama.cpp that does what a test says, for what happens when native code crashes."""

import sys
from pathlib import Path

# Enough of its interface for the check, no more.
FAKE = """
import ctypes, os, signal
with open({log!r}, "a") as log:
    log.write("started\\n")
{on_import}
LLAMA_FLASH_ATTN_TYPE_ENABLED = 1
llama_token = ctypes.c_int32
class _Params: pass
llama_model_default_params = llama_context_default_params = _Params
def llama_backend_init(): pass
def llama_model_load_from_file(path, params): return os.path.getsize(path)
def llama_init_from_model(model, params): return 1
def llama_batch_get_one(tokens, n_tokens): return n_tokens
def llama_decode(context, n_tokens):
    {on_decode}
    return 0
"""


class FakeBuild:
    """A fake `llama_cpp`, first on this process's path."""

    def __init__(self, folder: Path):
        self.folder = folder / "llama_cpp"
        self.log = folder / "log"
        self.library = self.folder / "lib" / "libggml-cpu.so"
        self.library.parent.mkdir(parents=True)
        self.library.write_bytes(b"native")
        self.behave()

    def behave(self, on_import="", on_decode="pass"):
        source = FAKE.format(log=str(self.log), on_import=on_import, on_decode=on_decode)
        (self.folder / "__init__.py").write_text(source)

    @property
    def n_tries(self):
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @classmethod
    def in_front(cls, tmp_path, monkeypatch):
        """One that this process and its children find first, with a cache folder of its own."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
        build = cls(tmp_path / "site")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return build


def dies_from(name):
    return f"os.kill(os.getpid(), signal.{name})"
