"""A llama.cpp that crashes on this processor, as a user of the command line meets it."""

import os
from pathlib import Path

import pytest
from children import run_eager
from fake_llama import FakeBuild, dies_from

import eager
from eager.engines import EngineError
from eager.engines._native_check import ensure_llama_cpp_runs


@pytest.fixture
def build(tmp_path, monkeypatch):
    return FakeBuild.in_front(tmp_path, monkeypatch)


def command(build, *arguments):
    """`eager` with the fake build in front; run beside it, as the check imports nothing from the current folder."""
    path = os.pathsep.join([str(build.folder.parent), str(Path(eager.__file__).parents[1])])
    return run_eager(*arguments, environment={"PYTHONPATH": path}, cwd=build.folder.parents[1])


@pytest.mark.parametrize("when", ["on_import", "on_decode"])
def test_eager_run_ends_in_a_sentence(build, tmp_path, when):
    """Exit code 1, one line with the cause and the command, no traceback, no silence."""
    build.behave(**{when: dies_from("SIGILL")})
    done = command(
        build, "run", "--model_name", "demo", "--data_name", "demo", "--limit", "1", "--output_dir", tmp_path / "out"
    )
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: llama-cpp-python")
    assert "SIGILL" in error
    assert "pip install --no-cache-dir" in error
    assert "Traceback" not in done.stderr


def test_eager_engines_shows_what_is_known(build):
    """Not tried yet, runs, or what it died of; listing tries nothing."""
    assert "not tried on this processor yet" in command(build, "engines").stdout
    assert build.n_tries == 0
    ensure_llama_cpp_runs()
    assert "runs on this processor" in command(build, "engines").stdout
    build.behave(on_decode=dies_from("SIGILL"))
    with pytest.raises(EngineError) as caught:
        ensure_llama_cpp_runs()
    assert str(caught.value) in command(build, "engines").stdout
