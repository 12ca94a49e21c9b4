"""An answer in OpenAI's forms over HTTP: one object, or server-sent events. Whoever leaves has it ended at once."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from eager.chat import Asked, ChatError, Form, News, Piece, Savings, Source, Spent, Voter, answered, error_json
from eager.engines.base import EngineError
from eager.server.until_gone import UntilGone, begin_events, send_event, send_part
from eager.wire import Alive

OnEnd = Callable[[int, Spent | None], None]
"""Called once for every answer, with its status and what it took; 499: the client left, and None: nobody knows."""

GONE = 499
_RETRY_SECONDS = "1"


def failure(error: ChatError | EngineError) -> ChatError:
    """As it is told: an engine that fails may have recovered when it is asked again."""
    return error if isinstance(error, ChatError) else ChatError(str(error), 503)


def error_response(error: ChatError) -> JSONResponse:
    """An answer that is an error."""
    headers = {"retry-after": _RETRY_SECONDS} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_json(error), status_code=error.status, headers=headers)


class ChatResponse(UntilGone):
    """Tells `news` as they come, in `form`."""

    def __init__(self, news: AsyncGenerator[News, None], form: Form, *, is_stream: bool, on_end: OnEnd) -> None:
        super().__init__()
        self._news = news
        self._form = form
        self._is_stream = is_stream
        self._on_end = on_end
        self._status = 500  # unless it comes to an end
        self._spent: Spent | None = None

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._news):
                response = await (self._streamed(send) if self._is_stream else self._whole())
        except (ChatError, EngineError) as error:
            response = error_response(failure(error))
        if response is not None:
            self._status = response.status_code
            await response(scope, receive, send)

    def leave(self) -> None:
        self._on_end(GONE if self.is_gone else self._status, self._spent)

    async def _whole(self) -> JSONResponse:
        came = [item async for item in self._news if not isinstance(item, Alive)]
        self._spent = next(item for item in came if isinstance(item, Spent))
        return JSONResponse(self._form.whole(came))

    async def _streamed(self, send: Send) -> None:
        """What is wrong before the first news is raised; what fails later is the last event, as its status is sent."""
        item: News | None = await anext(self._news)
        await begin_events(send)
        try:
            while item is not None:
                await self._tell(item, send)
                item = await anext(self._news, None)
            self._status = 200
        except (ChatError, EngineError) as error:
            self._status = failure(error).status
            await send_event(send, error_json(failure(error)))
        await send_part(send, "data: [DONE]\n\n", is_last=True)

    async def _tell(self, item: News, send: Send) -> None:
        if isinstance(item, Piece):
            for chunk in self._form.chunks(item):
                await send_event(send, chunk)
        elif isinstance(item, Spent):
            self._spent = item
            for chunk in self._form.last_chunks(item):
                await send_event(send, chunk)
        else:
            await send_part(send, ": alive\n\n")


def response_to(asked: Asked, source: Source, voter: Voter, savings: Savings | None, on_end: OnEnd) -> ChatResponse:
    """The answer to what is asked, which is made while it is sent."""
    news = answered(asked, source, voter, savings)
    form = Form(asked, uuid.uuid4().hex, int(time.time()))
    return ChatResponse(news, form, is_stream=asked.stream, on_end=on_end)
