"""A response that is made while it is answered, and ended with a client that leaves."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class UntilGone(Response):  # type: ignore[misc] # starlette is not followed by the type checker
    """`answer` is cancelled when the client `is_gone`; `leave` comes after it, however it ended."""

    is_gone = False

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the whole response."""

    def leave(self) -> None:
        """End what is still at work for it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self.answer(scope, receive, send))
        watching = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            self.is_gone = not answering.done()
            if not self.is_gone:
                answering.result()
        finally:
            answering.cancel()
            watching.cancel()
            self.leave()


async def begin_events(send: Send) -> None:
    """The head of a response of server-sent events."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_event(send: Send, data: dict[str, Any]) -> None:
    line = json.dumps(data, separators=(",", ":"))
    await send_part(send, f"data: {line}\n\n")


async def send_part(send: Send, text: str, *, is_last: bool = False) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": not is_last})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
