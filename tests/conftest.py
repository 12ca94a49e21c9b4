"""What all tests share."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# Helpers beside the tests are plain modules; the published entry points are found from the root, wherever pytest runs.
sys.path[:0] = [str(ROOT / name) for name in ("tests", "tests/engines", "", "benchmarks")]

import needs  # noqa: E402

# Tests that read what a command prints: how wide and colourful that is, is not for the caller's terminal to say.
for name in ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PYTHONIOENCODING"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real benchmark problems, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(needs.SHARED_DATA)
    return SHARED_DATA


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """After all else, one line: what was skipped for want of what."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        reporter.write_line("skipped: " + "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common()))
