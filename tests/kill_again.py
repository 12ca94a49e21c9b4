"""A driver that is killed (-9) at random moments: `kill_again.py SEED N_KILLS ARGUMENTS...` runs `eager` so often.

Each is a fork of this process, which has loaded everything: so little of its time is start-up, and most kills come
while it works. It rewrites its result files at every prompt. Exits with 1 where a run ended before it was killed.
"""

import importlib
import os
import random
import signal
import sys
import time

import eager.keeping
from eager.cli import main
from eager.grading import MathGrader

MODULES = (
    "eager.cli.run",
    "eager.cli.auto",
    "eager.cli.place",
    "eager.cli.display",
    "eager.experiments",
    "eager.tasks",
)
MOST_SECONDS = 0.5


def killed_in_time(arguments: list[str], seconds: float) -> bool:
    """Whether it was still at work after so long."""
    child = os.fork()
    if child == 0:
        main(arguments)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    for name in MODULES:
        importlib.import_module(name)
    eager.keeping._LEAST_SECONDS = eager.keeping._SHARE = 0
    MathGrader.check = lambda grader: None  # starts a process; small integers are compared without it
    rng = random.Random(int(sys.argv[1]))
    moments = [rng.uniform(0, MOST_SECONDS) for _ in range(int(sys.argv[2]))]
    in_time = [killed_in_time(sys.argv[3:], seconds) for seconds in moments]
    sys.exit(not all(in_time))
