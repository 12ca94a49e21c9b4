"""`make` compiles llama-cpp-python without AMX where the compiler can leave it out, and once on a machine."""

import importlib.util
import os
import subprocess
from pathlib import Path

import needs
import pytest

from eager.machine import NO_AMX, Processor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("llama_wheel", ROOT / "tools" / "llama_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip(tool, monkeypatch):
    """Stands in for pip: keeps what it was called with, and makes an empty wheel."""
    calls = []

    def run(command, **options):
        if "pip" not in command:
            return real(command, **options)
        calls.append((command, options["env"]))
        folder = Path(command[command.index("--wheel-dir") + 1])
        (folder / "llama_cpp_python-0.3.36-py3-none-any.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0)

    real = subprocess.run
    monkeypatch.setattr(tool.subprocess, "run", run)
    return calls


def compiler(folder: Path, *, knows: bool) -> str:
    """A C compiler that accepts any flag, or none that begins with -mno."""
    path = folder / f"cc-{knows}"
    path.write_text('#!/bin/sh\ncase "$*" in *-mno*) exit 1;; esac\n' if not knows else "#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def printed(tool, capsys):
    tool.main()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return Path(out.strip())


def test_amx_is_left_out(tool, pip, capsys, monkeypatch, tmp_path):
    """From source, past pip's cache, with the flags after the user's own."""
    monkeypatch.setenv("CC", compiler(tmp_path, knows=True))
    monkeypatch.setenv("CFLAGS", "-O2")
    assert printed(tool, capsys).is_file()
    ((command, environment),) = pip
    assert environment["CFLAGS"] == f"-O2 {NO_AMX}"
    assert environment["CXXFLAGS"] == NO_AMX
    assert "--no-cache-dir" in command
    assert command[command.index("--no-binary") + 1] == "llama-cpp-python"


@pytest.mark.parametrize("cc", ["refusing", "missing"])
def test_no_flags_where_there_are_none(tool, pip, capsys, monkeypatch, tmp_path, cc):
    """A compiler for another processor refuses them; it must not meet them."""
    monkeypatch.setenv("CC", compiler(tmp_path, knows=False) if cc == "refusing" else str(tmp_path / "nothing"))
    printed(tool, capsys)
    assert "CFLAGS" not in pip[0][1]


def test_a_real_compiler_is_understood(tool):
    """One that could emit AMX knows the flags that leave it out; any refuses a flag that does not exist."""
    needs.program("cc", "gcc")
    command = ["cc", "-mamx-tile", "-fsyntax-only", "-x", "c", os.devnull]
    emits_amx = subprocess.run(command, capture_output=True, check=False)
    assert tool.knows_amx_flags("cc") == (emits_amx.returncode == 0)
    assert not tool.knows_amx_flags("cc -mno-such-thing")


def test_it_is_compiled_once(tool, pip, capsys):
    """A second clone on the machine takes the same file."""
    assert printed(tool, capsys) == printed(tool, capsys)
    assert len(pip) == 1


def test_other_flags_are_another_build(tool, pip, capsys, monkeypatch):
    """So is another processor."""
    wheels = [printed(tool, capsys)]
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    wheels.append(printed(tool, capsys))
    monkeypatch.setattr(tool, "this_processor", lambda: Processor("another", "fpu"))
    wheels.append(printed(tool, capsys))
    assert len(set(wheels)) == len(pip) == 3


def test_a_failed_build_leaves_nothing(tool, pip, capsys, monkeypatch, tmp_path):
    """And is tried again next time."""

    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command)

    with monkeypatch.context() as patched:
        patched.setattr(tool.subprocess, "run", fail)
        patched.setattr(tool, "knows_amx_flags", lambda compiler: False)
        with pytest.raises(subprocess.CalledProcessError):
            tool.main()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    printed(tool, capsys)


def test_a_cache_that_cannot_be_written(tool, pip, capsys, monkeypatch, tmp_path):
    """Then the wheel lies in the environment itself."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tool.sys, "prefix", str(tmp_path / "venv"))
    assert printed(tool, capsys).is_relative_to(tmp_path / "venv")


def test_the_requirement_is_the_project_s(tool):
    """What make compiles is what pyproject.toml asks for."""
    assert tool.requirement_in('x = ["llama-cpp-python>=1,<2", "y"]') == "llama-cpp-python>=1,<2"
    assert tool.requirement_in((ROOT / "pyproject.toml").read_text(encoding="utf-8")).startswith("llama-cpp-python>=")


def test_make_installs_this_wheel_before_pip_may_choose(tmp_path):
    """Once it is installed, pip has no reason to compile another or to take one from its cache."""
    needs.program("make", "make")
    asked = ["make", "-n", f"VENV={tmp_path}", f"{tmp_path}/.demo"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    recipe = done.stdout
    assert 0 <= recipe.index("tools/llama_wheel.py") < recipe.index('"$wheel"') < recipe.index("'.[demo")
