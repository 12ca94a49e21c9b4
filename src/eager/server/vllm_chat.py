"""OpenAI's requests for trees to the vLLM server that this code runs inside."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.responses import Response

from eager.chat import Asked, ChatError, Operation, Savings, Voter, read
from eager.engines.vllm_gated import GatedServer
from eager.engines.vllm_prompts import CHAT_FIELDS, TEXT_FIELDS, ServerPrompts
from eager.server.chat_response import error_response, response_to
from eager.server.gated_source import GatedSource
from eager.server.metrics import Metrics
from eager.server.vllm_settings import Settings

_PROMPT_FIELDS = {"chat": CHAT_FIELDS, "completion": TEXT_FIELDS}


class ChatTrees:
    """Answers with trees of `server`, which misses nothing and whose model has several `names`."""

    def __init__(
        self,
        server: GatedServer,
        prompts: ServerPrompts,
        names: Collection[str],
        settings: Settings,
        registry: CollectorRegistry,
    ) -> None:
        self._server = server
        self._stops = server.stops()
        self._prompts = prompts
        self._names = names
        self._settings = settings
        per_request = settings.sequences_per_request
        self._savings = None if per_request is None else Savings(per_request)
        self._metrics = Metrics(None, self._savings, registry)
        self._voter = Voter()

    def answer(self, operation: Operation, body: dict[str, Any]) -> Response:
        """The answer to a request, which is made while it is sent."""
        on_end = self._metrics.begin(operation)
        how = {name: body.pop(name) for name in _PROMPT_FIELDS[operation] if name in body}
        try:
            asked = self._asked(operation, body)
        except ChatError as error:
            on_end(error.status, None)
            return error_response(error)
        given = {name: value for name, value in how.items() if value is not None}
        source = GatedSource(self._server, self._stops, self._prompts, body.get("messages"), given)
        return response_to(asked, source, self._voter, self._savings, on_end)

    def _asked(self, operation: Operation, body: dict[str, Any]) -> Asked:
        try:
            asked = read(body, operation, self._settings.defaults)
        except ChatError as error:
            if "eager" in body:
                raise
            told = f'{error} (this server answers with trees: ask with "eager": null for none)'
            raise ChatError(told, error.status, param=error.param, code=error.code) from None
        most = self._settings.max_tokens if asked.max_tokens is None else asked.max_tokens
        model = self._server.model if asked.model in self._names else asked.model
        return replace(asked, model=model, max_tokens=most)
