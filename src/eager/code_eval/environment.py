"""EvalPlus in an environment of its own.

EvalPlus 0.3.1 requires the client libraries of several model providers, and with one of them an old protobuf that
vLLM's does not go with. Its checker and its sanitizer need none of them. So it is installed without its requirements,
and the few that it does need beside it, in a place where nothing else is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from eager.atomic import made_once
from eager.child import environment_without
from eager.code_eval.sandbox import CodeEvalError, Interpreter
from eager.errors import last_line

EVALPLUS = "evalplus==0.3.1"
# All that EvalPlus's data, sanitizer and checker import, and numpy for the programs, too. None has requirements here.
REQUIREMENTS = (
    EVALPLUS,
    "appdirs",
    "multipledispatch",
    "numpy",
    "psutil",
    "tempdir",
    "termcolor",
    "tqdm",
    "tree-sitter>=0.22",
    "tree-sitter-python>=0.21",
    "wget",
)
# EvalPlus imports this one (with pyarrow and pandas behind it) for another benchmark only.
_STAND_IN = (
    '"""In place of Hugging Face\'s datasets, which EvalPlus imports for a benchmark that is not used here."""\n\n\n'
    "def load_dataset(*args, **kwargs):\n"
    '    raise NotImplementedError("a stand-in of eager-gen for EvalPlus")\n'
)
_DESCRIBE = (
    "import json, os, sys, sysconfig; "
    "print(json.dumps([os.path.realpath(sys.executable), sys.base_prefix, sysconfig.get_path('purelib')]))"
)
_CHECK = "from evalplus import sanitize; from evalplus.eval import untrusted_check"
_GIVE = f"give --evalplus_python a Python that has {EVALPLUS}"
_PYTHON = Path("bin", "python")
_INSTALL_SECONDS = 900.0
_START_SECONDS = 120.0


def environment_python(cache: Path, say: Callable[[str], None]) -> Path:
    """The Python of EvalPlus's environment under `cache`, made now where there is none. CodeEvalError if that fails."""
    name = f"{EVALPLUS.replace('==', '-')}-py{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / name

    def make(place: Path) -> None:
        say(f"installing EvalPlus into {folder} (once, about 100 MB) …")
        _make(place)

    try:
        # A link that leads nowhere (its Python is gone) does not exist.
        return made_once(folder, make, lambda folder: (folder / _PYTHON).exists()) / _PYTHON
    except OSError as error:
        reason = f"EvalPlus cannot be installed in '{folder}' ({error.strerror})"
        raise CodeEvalError(f"{reason}: make room, or give another --cache_dir") from None


def describe(python: Path) -> Interpreter:
    """What the sandbox needs to know of `python`. CodeEvalError where EvalPlus cannot be used there."""
    command = [str(python), "-I", "-c", f"{_CHECK}; {_DESCRIBE}"]
    return _parsed(_run(command, _START_SECONDS, f"EvalPlus does not run with '{python}'"), python)


def _parsed(said: str, python: Path) -> Interpreter:
    """What _DESCRIBE printed."""
    try:
        executable, base_prefix, packages = json.loads(said.strip().splitlines()[-1])
        return Interpreter(str(executable), str(base_prefix), str(packages))
    except (ValueError, TypeError, IndexError):
        raise CodeEvalError(f"'{python}' is no Python ({last_line(said)}): {_GIVE}") from None


def _make(folder: Path) -> None:
    venv = [sys.executable, "-I", "-m", "venv", str(folder)]
    _run(venv, _INSTALL_SECONDS, "'python -m venv' failed (on Debian it needs the package python3-venv)")
    python = str(folder / _PYTHON)
    pip = [python, "-I", "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    _run([*pip, "install", "--no-deps", *REQUIREMENTS], _INSTALL_SECONDS, "EvalPlus could not be installed")
    made = _parsed(_run([python, "-I", "-c", _DESCRIBE], _START_SECONDS, "Python does not run"), Path(python))
    (Path(made.packages) / "datasets.py").write_text(_STAND_IN, encoding="utf-8")
    describe(Path(python))  # it works, before it is there


def _run(command: list[str], seconds: float, fault: str) -> str:
    """What it prints. CodeEvalError with its last line of complaint."""
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            umask=0o022,
            env=environment_without("PYTHON"),  # what would lead Python out of its environment; pip's own stay
        )
    except subprocess.TimeoutExpired:
        raise CodeEvalError(f"{fault}: it did not end in {seconds:.0f} s") from None
    except OSError as error:
        raise CodeEvalError(f"{fault}: '{command[0]}' cannot be started ({error.strerror}); {_GIVE}") from None
    if done.returncode != 0:
        raise CodeEvalError(
            f"{fault} ({last_line(done.stderr or done.stdout)}): with network access it installs itself;"
            f" without, {_GIVE}"
        )
    return done.stdout
