"""A crash inside llama.cpp's native code is a sentence; what was found out is remembered for this build here."""

import os
import sys
import time

import pytest
from fake_llama import FakeBuild, dies_from

from eager.engines import EngineError, _native_check, load_engine
from eager.engines._native_check import RUNS, ensure_llama_cpp_runs, remembered
from eager.machine import NO_AMX, Processor, is_x86_64, this_processor


@pytest.fixture
def build(tmp_path, monkeypatch):
    return FakeBuild.in_front(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE"])
def test_a_death_in_decoding_is_a_sentence(build, name):
    """It names build, processor and signal; every later start tries again and says the same."""
    build.behave(on_decode=dies_from(name))
    for n_tries in (1, 2):
        with pytest.raises(EngineError) as caught:
            ensure_llama_cpp_runs()
        assert name in str(caught.value)
        assert this_processor().name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert build.n_tries == n_tries
    assert remembered() == name


@pytest.mark.skipif(not is_x86_64(), reason="the instruction is x86-64's")
def test_a_real_illegal_instruction_is_a_sentence(build):
    """Not only a signal that is sent: the processor's own refusal."""
    build.behave(
        on_decode="import mmap; page = mmap.mmap(-1, 4096, prot=7); page.write(b'\\x0f\\x0b');"
        " ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    )
    with pytest.raises(EngineError, match="SIGILL"):
        ensure_llama_cpp_runs()


def test_a_real_bad_address_is_a_sentence(build):
    """The same for memory that is not there."""
    build.behave(on_decode="ctypes.string_at(0)")
    with pytest.raises(EngineError, match="SIGSEGV"):
        ensure_llama_cpp_runs()


def test_a_death_from_outside_is_no_verdict(build):
    """The kernel short of memory kills any build: a sentence, but nothing is remembered."""
    build.behave(on_decode=dies_from("SIGKILL"))
    with pytest.raises(EngineError, match=r"killed \(SIGKILL\), usually because memory ran out"):
        ensure_llama_cpp_runs()
    assert remembered() is None


def test_an_illegal_instruction_names_its_cure(build, monkeypatch):
    """On x86-64 the command sets the flags that leave AMX out, and passes pip's cache by; elsewhere it sets none."""
    build.behave(on_decode=dies_from("SIGILL"))
    for machine, has_flags in (("x86_64", True), ("aarch64", False)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        with pytest.raises(EngineError, match="pip install --no-cache-dir --force-reinstall") as caught:
            ensure_llama_cpp_runs()
        assert (f'CFLAGS="{NO_AMX}" CXXFLAGS="{NO_AMX}" {sys.executable} -m pip' in str(caught.value)) == has_flags


def test_a_batch_alone_can_be_the_end(build):
    """Kernels for batches are tried too: a build that dies of several tokens at once is found."""
    build.behave(on_decode=f"n_tokens > 1 and {dies_from('SIGILL')}")
    with pytest.raises(EngineError, match="SIGILL"):
        ensure_llama_cpp_runs()


def test_a_lone_token_can_be_the_end(build):
    """And one that dies of a single token."""
    build.behave(on_decode=f"n_tokens == 1 and {dies_from('SIGSEGV')}")
    with pytest.raises(EngineError, match="SIGSEGV"):
        ensure_llama_cpp_runs()


def test_a_death_in_the_import_is_a_sentence(build):
    """The engine's own import of it comes after the check."""
    build.behave(on_import=dies_from("SIGILL"))
    with pytest.raises(EngineError, match="SIGILL"):
        load_engine("llama_cpp", "demo")


def test_a_library_that_cannot_be_loaded_is_a_sentence(build):
    """Another system's library: the loader's own reason, and the command."""
    build.behave(on_import="raise OSError('wrong ELF class: ELFCLASS32')")
    with pytest.raises(EngineError, match=r"cannot be loaded here \(OSError: wrong ELF class.*pip install"):
        ensure_llama_cpp_runs()


def test_success_is_remembered(build):
    """The second start costs no process."""
    assert remembered() is None
    ensure_llama_cpp_runs()
    ensure_llama_cpp_runs()
    assert build.n_tries == 1
    assert remembered() == RUNS


def test_another_build_is_tried_anew(build):
    """A library of another size or time is another build."""
    ensure_llama_cpp_runs()
    build.library.write_bytes(b"native, again")
    assert remembered() is None
    ensure_llama_cpp_runs()
    assert build.n_tries == 2
    os.utime(build.library, (1, 1))
    assert remembered() is None


def test_another_processor_is_tried_anew(build, monkeypatch):
    """A home folder may be shared between machines."""
    ensure_llama_cpp_runs()
    monkeypatch.setattr(_native_check, "this_processor", lambda: Processor("another", "fpu"))
    assert remembered() is None


def test_a_cured_build_runs_at_once(build):
    """A remembered failure is no verdict on what was mended."""
    build.behave(on_decode=dies_from("SIGILL"))
    with pytest.raises(EngineError):
        ensure_llama_cpp_runs()
    build.behave()
    ensure_llama_cpp_runs()
    assert remembered() == RUNS


@pytest.mark.parametrize("content", ["", "ru", "SIGNOTHING", "\x00\xff"])
def test_an_odd_memory_is_no_memory(build, content):
    """A file that was half written, or is not ours, is not believed."""
    ensure_llama_cpp_runs()
    next((build.folder.parents[1] / "cache" / "eager" / "native-checks").iterdir()).write_text(content)
    assert remembered() is None
    ensure_llama_cpp_runs()
    assert remembered() == RUNS


def test_a_cache_that_cannot_be_written_is_no_error(build, monkeypatch, tmp_path):
    """Then the check is made at each start."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    ensure_llama_cpp_runs()
    ensure_llama_cpp_runs()
    assert build.n_tries == 2


def test_no_answer_is_no_refusal(build, monkeypatch):
    """A check out of time, or one that fails by itself, says nothing about the build, and is not remembered."""
    build.behave(on_decode="raise MemoryError")
    ensure_llama_cpp_runs()
    build.behave(on_decode="import time; time.sleep(60)")
    monkeypatch.setattr(_native_check, "_SECONDS", 1.0)
    start = time.monotonic()
    ensure_llama_cpp_runs()
    assert time.monotonic() - start < 30
    assert remembered() is None


def test_nothing_is_left_behind(build, monkeypatch, tmp_path):
    """Neither the tiny model nor a core file, also when the child dies."""
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    build.behave(on_decode=dies_from("SIGSEGV"))
    with pytest.raises(EngineError):
        ensure_llama_cpp_runs()
    assert list((tmp_path / "temporary").iterdir()) == list((tmp_path / "here").iterdir()) == []


def test_the_current_folder_is_not_executed(build, monkeypatch, tmp_path):
    """A json.py where the command is typed is not the check's."""
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "json.py").write_text("import os; os._exit(0)")
    monkeypatch.chdir(trap)
    build.behave(on_decode=dies_from("SIGILL"))
    with pytest.raises(EngineError, match="SIGILL"):
        ensure_llama_cpp_runs()


def test_the_processor_is_known_by_name_and_instructions(tmp_path):
    """Speed and core numbers, which change, do not count; instruction sets do."""
    cpuinfo = tmp_path / "cpuinfo"
    keys = []
    for mhz, flags in (("1000", "fpu avx"), ("2000", "fpu avx"), ("2000", "fpu")):
        cpuinfo.write_text(
            f"processor\t: 0\nmodel name\t: A Chip\ncpu MHz\t: {mhz}\nflags\t\t: {flags}\n\nflags\t: x\n"
        )
        assert this_processor(cpuinfo).name == "A Chip"
        keys.append(this_processor(cpuinfo).key)
    assert keys[0] == keys[1] != keys[2]
    assert this_processor(tmp_path / "missing").name
