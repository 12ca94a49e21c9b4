"""How llama.cpp's library is loaded."""

import subprocess
import sys

import needs
import pytest

needs.package("llama_cpp", "demo")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems load libraries in other ways")
def test_numpy_before_llama_cpp_leaves_one_cplusplus_library_for_all():
    """numpy keeps the C++ library to itself; a CUDA build of llama.cpp would then find its own copy, and crash."""
    code = (
        "import ctypes, numpy; from eager.engines._llama_library import llama_cpp;"
        "ctypes.CDLL(None)._ZSt9terminatev"  # std::terminate: only what is there for everybody is found
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_is_said_from_the_first_question_on():
    """Asking for devices makes a CUDA build list them: by then its log is turned off."""
    code = "from eager.engines._llama_library import llama_cpp; llama_cpp.llama_supports_gpu_offload()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
