"""Processes that tests start and send signals to."""

import signal
import subprocess
from typing import Any


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
