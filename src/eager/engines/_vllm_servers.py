"""Several of vLLM's servers on this machine, one a data-parallel replica: started together, and ended."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence as Seq
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from eager.child import isolated, isolated_children
from eager.engines.base import EngineError
from eager.words import one_line

_HOST = "127.0.0.1"
_START_SECONDS = 1800.0  # a large model may lie on a slow disk
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_COMMAND = "from eager.engines._vllm_server import serve; serve()"
_ERROR = re.compile(r"^.*?\b\w*(?:Error|Exception): (?P<said>.+)$", re.MULTILINE)
_IN_CONSEQUENCE = ("See root cause above", "Engine core initialization failed")


class Place(NamedTuple):
    """Where a replica runs: vLLM's arguments that are its own, and the processors that it keeps to, if to some only."""

    args: Mapping[str, Any]
    cpus: Seq[int] = ()


class _Server(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]
    log: Path


class Servers:
    """Running servers, for whoever knows `api_key`. They end with `stop`, and with this process."""

    def __init__(self, places: Seq[Place], common: Mapping[str, Any]) -> None:
        """One for each place, all with the `common` arguments of vLLM. Raises EngineError where one does not start."""
        self.api_key = secrets.token_urlsafe(32)
        self._servers: list[_Server] = []
        self._logs = tempfile.TemporaryDirectory(prefix="eager-vllm-")
        with ExitStack() as on_failure:
            on_failure.callback(self.stop)
            for place in places:
                self._start({**common, **place.args}, place.cpus)
            self._wait()
            on_failure.pop_all()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where they answer."""
        return tuple(f"http://{_HOST}:{server.port}" for server in self._servers)

    def stop(self) -> None:
        """End them all, with whatever they have started; a second time it does nothing."""
        for server in self._servers:
            server.process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for server in self._servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.communicate()
        self._servers.clear()
        self._logs.cleanup()

    def _start(self, args: Mapping[str, Any], cpus: Seq[int]) -> None:
        port = _free_port()
        asked = {"args": {**args, "host": _HOST, "port": port, "api_key": [self.api_key]}, "cpus": list(cpus)}
        try:
            line = json.dumps(asked).encode("ascii") + b"\n"
        except (TypeError, ValueError) as error:
            raise EngineError(f"the options cannot be handed to vLLM's servers: {one_line(str(error))}") from None
        log = Path(self._logs.name, f"{len(self._servers)}.log")
        with log.open("wb") as output, isolated_children():
            process = subprocess.Popen(
                isolated(_COMMAND),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        self._servers.append(_Server(port, process, log))
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which is seen soon enough
            process.stdin.write(line)
            process.stdin.flush()

    def _wait(self) -> None:
        """Until all of them answer."""
        deadline = time.monotonic() + _START_SECONDS
        waiting = list(self._servers)
        while waiting:
            for number, server in enumerate(self._servers, 1):
                if server.process.poll() is not None:
                    n = len(self._servers)
                    raise EngineError(f"replica {number} of {n} has ended at its start ({_last_words(server.log)})")
            waiting = [server for server in waiting if not _is_well(server.port)]
            if waiting and time.monotonic() > deadline:
                raise EngineError(f"a replica does not answer {_START_SECONDS:.0f} s after its start: look at the disk")
            time.sleep(_LOOK_SECONDS if waiting else 0.0)


def _is_well(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port: int = free.getsockname()[1]
    return port


def _last_words(log: Path) -> str:
    """The first error of its log that is not said to come of another."""
    text = log.read_text(encoding="utf-8", errors="replace")
    said = [match["said"] for match in _ERROR.finditer(text)]
    causes = [line for line in said if not any(words in line for words in _IN_CONSEQUENCE)]
    return one_line((causes or text.strip().splitlines()[-1:] or ["it said nothing"])[0], 300)
