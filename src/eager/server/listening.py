"""An application at an address, until a signal ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp


def listen(app: ASGIApp, bound: socket.socket, drain_seconds: float, on_ready: Callable[[], None]) -> None:
    """Answer at the bound socket; `on_ready` is called once somebody may ask.

    SIGINT and SIGTERM have what is open answered, for so long at most, and are then raised anew, so that they end the
    process as they would any other; a second SIGINT does not wait.
    """
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=drain_seconds)
    _Server(config, on_ready).run(sockets=[bound])


class _Server(uvicorn.Server):  # type: ignore[misc] # uvicorn is not followed by the type checker
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
