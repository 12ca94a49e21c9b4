"""The process that runs Math-Verify. Started by `math_grader`, one JSON line in, one out; may be killed at any moment.

Math-Verify is given text that a model wrote: it may loop for ever inside one big-integer operation, where no alarm and
no thread of the same process can stop it. So it runs here, alone, under limits, and its parent holds the clock.
"""

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from eager.grading.equivalence import same_answer

# What one comparison may take on top of the loaded libraries: sympy itself stays far below.
MEMORY_BYTES = 1 << 30
# Where the size of the loaded process cannot be read.
MEMORY_BYTES_TOTAL = 4 << 30


def serve(cpu_seconds: int) -> None:
    """Answer comparisons from stdin until it closes. First says whether Math-Verify is here."""
    replies = _own_stdout()
    try:
        compare = _load()
    except ImportError as error:
        _reply(replies, {"unavailable": str(error)})
        return
    compare("1/2", "0.5")  # the first comparison builds tables; no answer should pay for that with its time
    _limit_memory()
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _limit_cpu(cpu_seconds)
        _reply(replies, {"equivalent": compare(request["gold"], request["answer"])})


def _load() -> Callable[[str, str], bool]:
    """Import Math-Verify and return `compare(gold, answer)`."""
    algebra = importlib.import_module("eager.grading.algebra").same_expression
    logging.disable(logging.CRITICAL)
    return lambda gold, answer: bool(same_answer(gold, answer, algebra))


def _own_stdout() -> TextIO:
    """A private copy of stdout; whatever a library prints from now on goes to stderr, not into the replies."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="ascii")


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _limit_memory() -> None:
    """Give this process MEMORY_BYTES of address space more than it has now."""
    try:
        import resource
    except ImportError:  # Windows has no such limit; the clock still holds
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _address_space() + MEMORY_BYTES
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except (OSError, ValueError):  # macOS refuses some values
        return


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return MEMORY_BYTES_TOTAL - MEMORY_BYTES


def _limit_cpu(seconds: int) -> None:
    """Die after `seconds` more of computing, even if the parent was killed and nobody holds the clock."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
