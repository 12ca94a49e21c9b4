"""Processes that tests start: `eager` as a user types it, and what signals are sent to."""

import os
import signal
import subprocess
import sys
from typing import Any

EAGER = (sys.executable, "-m", "eager")


def run_eager(
    *arguments: object, environment: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`eager`, to its end; `environment` is added to that of the tests."""
    return subprocess.run(
        [*EAGER, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
        **options,
    )


def start(command: list[str], **options: Any) -> subprocess.Popen:
    """A child with pipes that heeds signals however the tests themselves were started."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_signals,  # noqa: PLW1509 - safe: no locks are taken there
        **options,
    )


def _heed_signals() -> None:
    """A shell's `&` and nohup ignore some, and children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
