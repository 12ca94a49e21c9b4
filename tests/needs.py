"""What a test needs beyond Python: where it is missing the test skips, naming the thing and the command that brings it.

`make test` ends with these reasons in one line (`conftest.py`).
"""

import shutil
from typing import Any

import pytest

SHARED_DATA = "the benchmark data beside the project is missing: it is no part of the project"


def package(module: str, extra: str) -> Any:
    """The imported module; `extra` is this project's that brings it."""
    return pytest.importorskip(module, reason=missing(module, extra))


def missing(module: str, extra: str) -> str:
    """The reason to skip."""
    return f"{module} is missing: pip install 'eager-gen[{extra}]'"


def program(name: str, package: str) -> None:
    """Skip unless it is on the PATH; `package` is Debian's and Ubuntu's that brings it."""
    if shutil.which(name) is None:
        pytest.skip(f"{package} is missing: apt-get install {package}")
