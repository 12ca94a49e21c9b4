"""What is wrong with a request, as OpenAI says it."""

from __future__ import annotations

from typing import Any

from eager.errors import EagerError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ChatError(EagerError):
    """A request that is not answered: its HTTP status, the field at fault and, where OpenAI has one, its code."""

    def __init__(self, message: str, status: int = 400, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def error_json(error: ChatError) -> dict[str, Any]:
    """The body of the answer."""
    kind = "server_error" if error.status >= 500 else _TYPES.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}
