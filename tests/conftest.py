"""What all tests share."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# Helpers beside the tests are plain modules.
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "engines")]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real benchmark problems, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared benchmark data is not beside the project")
    return SHARED_DATA
