"""The gateway: OpenAI's interface over an engine, as an ASGI application."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from eager.chat import OPERATIONS, Asked, ChatError, Defaults, Operation, Savings, Voter, no_model, read
from eager.errors import first_line
from eager.server.chat_response import GONE, error_response, response_to
from eager.server.host import Host
from eager.server.metrics import Metrics
from eager.server.openapi import openapi

_BYTES_BESIDE_PROMPT = 1 << 18
_BYTES_PER_TOKEN = 16
_MOST_POLITE = (
    1 << 28
)  # bytes of a request that are read on, since many clients look at no answer before they have sent


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway answers. `most_requests` at once, others are told to come again; `api_key` None: anybody may."""

    defaults: Defaults
    sequences_per_request: int | None = None
    most_requests: int = 1024
    api_key: str | None = None


class Gateway:
    """Answers requests on the host's engine."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host = host
        self._settings = settings
        self._savings = None if settings.sequences_per_request is None else Savings(settings.sequences_per_request)
        self._metrics = Metrics(host, self._savings)
        self._voter = Voter()
        self._begun = int(time.time())
        self._most_bytes = _BYTES_BESIDE_PROMPT + _BYTES_PER_TOKEN * host.max_model_len

    def app(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """The application; its lifespan is the host's."""
        posts = [
            Route(form.path, partial(self._answer, operation), methods=["POST"])
            for operation, form in OPERATIONS.items()
        ]
        gets = {
            "/v1/models": self._models,
            "/v1/models/{name:path}": self._model,
            "/health": self._health,
            "/metrics": self._shown_metrics,
            "/openapi.json": self._openapi,
        }
        routes = [*posts, *(Route(path, answer, methods=["GET"]) for path, answer in gets.items())]
        app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _http_error, Exception: _own_error},
        )
        return app if self._settings.api_key is None else _Keyed(app, self._settings.api_key)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None, None]:
        try:
            async with self._host:
                yield
        finally:
            self._voter.close()

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _answer(self, operation: Operation, request: Request) -> Response:
        on_end = self._metrics.begin(operation)
        try:
            asked = await self._asked(operation, request)
        except ChatError as error:
            on_end(error.status, None)
            return error_response(error)
        except ClientDisconnect:
            on_end(GONE, None)
            return Response(status_code=GONE)
        return response_to(asked, self._host, self._voter, self._savings, on_end)

    async def _asked(self, operation: Operation, request: Request) -> Asked:
        most = self._settings.most_requests
        if self._metrics.n_open > most:
            raise ChatError(f"{most} requests are being answered: ask again in a moment", 503, code="server_busy")
        return read(await _body(request, self._most_bytes), operation, self._settings.defaults)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        return JSONResponse(self._card) if name == self._host.model_name else error_response(no_model(name, self._host))

    @property
    def _card(self) -> dict[str, Any]:
        card = {"id": self._host.model_name, "object": "model", "created": self._begun, "owned_by": "eager"}
        return {**card, "max_model_len": self._host.max_model_len}

    async def _health(self, request: Request) -> Response:
        trouble = self._host.trouble
        return JSONResponse({"status": "ok"}) if trouble is None else error_response(ChatError(trouble, 503))

    async def _shown_metrics(self, request: Request) -> Response:
        return Response(self._metrics.shown(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(self._host.model_name))


class _Keyed:
    """The application for those who have the key; what lies outside of /v1 is for all."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse (401) before anything is read."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                error = ChatError("this server asks for its key: give it as api_key", 401, code="invalid_api_key")
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _body(request: Request, most: int) -> Any:
    """The JSON that came. Raises ChatError; of what is too long nothing is kept, and the rest is read to be polite."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no page in a browser can send here without asking first
        raise ChatError("the request is no JSON by its header: send Content-Type: application/json", 415)
    body, n_bytes = bytearray(), 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > _MOST_POLITE:
            break
        if n_bytes <= most:
            body += chunk
    if n_bytes > most:
        raise ChatError(f"the request has more than {most} bytes, which no prompt of this model needs", 413)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ChatError(f"the request is no JSON ({first_line(error)}): send an object") from None


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    response = error_response(ChatError(f"{request.method} {request.url.path}: {error.detail}", error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _own_error(request: Request, error: Exception) -> Response:
    """A mistake in this program, which is in the log."""
    return error_response(ChatError("the server made a mistake: its log says which", 500))
