"""A tree as an HTTP answer: events as they come, or the finished tree alone. Whoever leaves has it ended at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from eager.engines.base import EngineError
from eager.server.growing import Growing
from eager.wire import Failed, Finished, answer_json, event_json

_leaving: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly


def refusal(status: int, message: str) -> JSONResponse:
    """An error, as vLLM puts its own."""
    kind = "BadRequestError" if status == 400 else "ServiceUnavailableError"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status_code=status)


class TreeResponse(Response):  # type: ignore[misc] # starlette is not followed by the type checker
    """Grows the tree while it is answered."""

    def __init__(self, growing: Growing, *, is_stream: bool) -> None:
        super().__init__()
        self._growing = growing
        self._answer: Callable[[Scope, Receive, Send], Awaitable[None]] = self._stream if is_stream else self._whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the end, or until the client is gone."""
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        watching = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            answering.cancel()
            watching.cancel()
            # In a task of its own: whoever cancels this one does not keep the tree from being ended.
            leaving = asyncio.create_task(self._growing.leave())
            _leaving.add(leaving)
            leaving.add_done_callback(_leaving.discard)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._growing.events()) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        await JSONResponse(answer_json(event.tree))(scope, receive, send)
        except EngineError as error:
            await refusal(503, str(error))(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with aclosing(self._growing.events()) as events:
                async for event in events:
                    await _send_line(send, event_json(event))
        except EngineError as error:
            await _send_line(send, event_json(Failed(str(error))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_line(send: Send, data: dict[str, Any]) -> None:
    line = json.dumps(data, separators=(",", ":"))
    await send({"type": "http.response.body", "body": f"data: {line}\n\n".encode(), "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
