"""A tree as an HTTP answer: events as they come, or the finished tree alone. Whoever leaves has it ended at once."""

from __future__ import annotations

from contextlib import aclosing

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from eager.engines.base import EngineError
from eager.server.growing import Growing
from eager.server.until_gone import UntilGone, begin_events, send_event, send_part
from eager.wire import Failed, Finished, answer_json, event_json


def refusal(status: int, message: str) -> JSONResponse:
    """An error, as vLLM puts its own."""
    kind = "BadRequestError" if status == 400 else "ServiceUnavailableError"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status_code=status)


class TreeResponse(UntilGone):
    """Grows the tree while it is answered."""

    def __init__(self, growing: Growing, *, is_stream: bool) -> None:
        super().__init__()
        self._growing = growing
        self._is_stream = is_stream

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._stream(send) if self._is_stream else self._whole(scope, receive, send))

    def leave(self) -> None:
        """End the tree."""
        self._growing.end()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._growing.events()) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        await JSONResponse(answer_json(event.tree))(scope, receive, send)
        except EngineError as error:
            await refusal(503, str(error))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        await begin_events(send)
        try:
            async with aclosing(self._growing.events()) as events:
                async for event in events:
                    await send_event(send, event_json(event))
        except EngineError as error:
            await send_event(send, event_json(Failed(str(error))))
        await send_part(send, "", is_last=True)
