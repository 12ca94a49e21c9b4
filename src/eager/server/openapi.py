"""What the gateway answers, as OpenAPI says it; the fields are those of `eager.chat.tables`."""

from __future__ import annotations

from typing import Any

from eager import __version__
from eager.chat import OPERATIONS, Operation, body_schema

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_REFUSED = {
    "400": "wrong",
    "401": "no key",
    "404": "no such model",
    "413": "too long",
    "415": "no JSON",
    "500": "failed",
    "503": "not now",
}


def openapi(model_name: str) -> dict[str, Any]:
    """OpenAPI 3.1 of a gateway with this model."""
    paths: dict[str, Any] = {form.path: {"post": _post(name, model_name)} for name, form in OPERATIONS.items()}
    paths |= {path: {"get": _get()} for path in ("/v1/models", "/health")}
    return {"openapi": "3.1.0", "info": {"title": "EAGer", "version": __version__}, "paths": paths}


def _post(operation: Operation, model_name: str) -> dict[str, Any]:
    schema = body_schema(operation)
    schema["properties"] = {**schema["properties"], "model": {"enum": [model_name]}}
    answer = {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"]}
    content = {"application/json": {"schema": answer}, "text/event-stream": {}}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "the answer", "content": content}, **_refusals()},
    }


def _get() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"responses": {"200": {"description": "the answer", "content": content}, **_refusals()}}


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": what, "content": content} for status, what in _REFUSED.items()}
