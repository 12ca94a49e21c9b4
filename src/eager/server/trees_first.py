"""In front of a route of a server's own: who asks for a tree is answered here, everybody else as before."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Answer = Callable[[dict[str, Any]], ASGIApp]

# A body without any of these has no field "eager", however its JSON is written: with ASCII's letters escaped, or in
# units of 16 or 32 bits. To look for them takes no time beside reading JSON.
_SIGNS = (b'"eager"', b"\\u006", b"\\u007", b"\0")


class TreesFirst:
    """`own` answers what does not ask for a tree, and what is no request at all; `answer` makes an answer to the rest.

    With `by_default` a request that says nothing of trees, and wants one choice, asks for one.
    """

    def __init__(self, own: ASGIApp, answer: Answer) -> None:
        self._own = own
        self._answer = answer
        self.by_default = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, and hand it on as it came, or answer."""
        messages = await _whole_body(receive)
        asked = self._tree_asked(scope, messages)
        if asked is None:
            await self._own(scope, _again(messages, receive), send)
        else:
            await self._answer(asked)(scope, receive, send)

    def _tree_asked(self, scope: Scope, messages: deque[Message]) -> dict[str, Any] | None:
        """The request where it is one for a tree, its fields unchecked."""
        body = b"".join(message.get("body", b"") for message in messages)
        if not self.by_default and not any(sign in body for sign in _SIGNS):
            return None
        if messages[-1]["type"] == "http.disconnect" or not _is_json(scope):
            return None
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return request if isinstance(request, dict) and self._asks(request) else None

    def _asks(self, request: Mapping[str, Any]) -> bool:
        if "eager" in request or not self.by_default:
            return request.get("eager") is not None
        return request.get("n") in (None, 1)


async def _whole_body(receive: Receive) -> deque[Message]:
    """The messages of a request up to its end, or until its client is gone."""
    messages = deque([await receive()])
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _again(messages: deque[Message], receive: Receive) -> Receive:
    """The same messages once more, and then those that come."""

    async def next_message() -> Message:
        return messages.popleft() if messages else await receive()

    return next_message


def _is_json(scope: Scope) -> bool:
    given: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return given.split(b";", 1)[0].strip().lower() == b"application/json"
