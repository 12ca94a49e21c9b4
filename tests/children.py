"""Processes that tests start: `eager` as a user types it, and what signals are sent to."""

import os
import signal
import subprocess
import sys
from pathlib import Path
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


def scripted_run(folder: Path) -> list[str]:
    """Arguments of a run over 5 problems, made in `folder`, on the scripted engine; without --output_dir."""
    path = folder / "problems.csv"
    path.write_text("question,answer\n" + "".join(f"how many {i}?,{1 + i % 3}\n" for i in range(5)))
    rules = ["--max_sequences", "4", "--entropy_threshold", "1.5", "--experiments", "parallel"]
    data = ["--data_name", "mine", "--data_path", str(path), "--prompt_field", "question", "--target_field", "answer"]
    return ["run", "--engine", "scripted", "--model_name", "chain", *rules, *data]


def patched(code: str, *arguments: object) -> list[str]:
    """The command of `eager` with these arguments, after `code` has run in it."""
    script = f"{code}\nimport sys\nfrom eager.cli import main\nmain(sys.argv[1:])"
    return [sys.executable, "-c", script, *map(str, arguments)]


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


def start_on(terminal: int, command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    """As `start`, with the terminal in place of pipes; it is the child's alone."""
    return subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
        preexec_fn=_heed_signals,  # noqa: PLW1509 - safe: no locks are taken there
    )
