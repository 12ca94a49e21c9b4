"""One of vLLM's servers, in a process of its own that ends with the one that started it. Run as a child."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

_GRACE_SECONDS = 10.0


def serve() -> None:
    """Read {"args": vLLM's own, by name, "cpus": where to run} as a line of standard input, and serve until it ends."""
    asked = json.loads(sys.stdin.buffer.readline())
    if asked["cpus"]:
        os.sched_setaffinity(0, asked["cpus"])
    threading.Thread(target=end_with_the_starter, daemon=True).start()

    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    vars(args).update(asked["args"])
    validate_parsed_serve_args(args)
    uvloop.run(run_server(args))


def end_with_the_starter() -> None:
    """However that ends, the pipe from it closes: then this process ends, with all that vLLM has started."""
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)
