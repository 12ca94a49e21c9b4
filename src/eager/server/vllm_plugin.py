"""The plugin that lets a vLLM server think in trees (docs/serving.md, docs/tree-requests.md).

    VLLM_PLUGINS=eager vllm serve MODEL --logits-processors eager.engines.vllm_gate:Gate \\
        --worker-extension-cls eager.engines.vllm_gate.GateWorker

OpenAI's requests with a field "eager" are answered with trees, and all others by vLLM as before.
"""

from __future__ import annotations

import json
import logging
import uuid
from argparse import Namespace
from copy import copy
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.datastructures import State
from starlette.responses import JSONResponse, Response

from eager.chat import OPERATIONS, ChatError, Operation
from eager.engines.gated_tree import BRANCH_RULES, GatedTree
from eager.engines.vllm_gated import GatedServer
from eager.engines.vllm_prompts import ServerPrompts
from eager.server.chat_response import error_response
from eager.server.gated_source import why_no_tree
from eager.server.growing import Growing
from eager.server.tree_response import TreeResponse, refusal
from eager.server.trees_first import TreesFirst
from eager.server.vllm_chat import ChatTrees
from eager.server.vllm_settings import read_settings
from eager.wire import ABOUT_PATH, TREES_PATH, About, TreeRequest, WireError, about_json, read_request

_LOG = logging.getLogger("vllm.plugins.eager")
_BYTES_BESIDE_PROMPT = 1 << 16
_BYTES_PER_TOKEN = 12
_NO_TEXT = "the server has no tokenizer, and so no texts: start it without --skip-tokenizer-init"


class TreePlugin:
    """vLLM's `EndpointPlugin`; what it counts goes into `registry`, vLLM's unless told otherwise."""

    name = "eager"
    required_tasks = ("generate",)

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._server: GatedServer | None = None
        self._missing: list[str] = []
        self._chat: ChatTrees | None = None
        self._fronts: list[TreesFirst] = []

    def attach_router(self, app: FastAPI) -> None:
        """Add routes, and go in front of those that answer OpenAI's requests."""
        app.add_api_route(ABOUT_PATH, self._about, methods=["GET"], response_class=JSONResponse)
        app.add_api_route(TREES_PATH, self._trees, methods=["POST"], response_model=None)
        for operation, form in OPERATIONS.items():
            self._go_before(app, operation, form.path)

    def _go_before(self, app: FastAPI, operation: Operation, path: str) -> None:
        """vLLM has a plugin's route take the place of its own where path and method are the same."""
        own = next((r for r in app.routes if isinstance(r, APIRoute) and r.path == path and "POST" in r.methods), None)
        if own is None:
            _LOG.error("EAGer does not answer POST %s: this vLLM has no such route", path)
            return
        route = copy(own)
        route.app = TreesFirst(own.app, partial(self._answer, operation))
        self._fronts.append(route.app)
        app.router.routes.append(route)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Take the engine, and say what the server was started without."""
        self._server = GatedServer(engine_client)
        self._missing = await self._server.missing()
        try:
            self._begin_chat(self._server, state, args)
        except (WireError, ValueError) as error:
            self._missing.append(f"{error}: mend the settings")
        for sentence in self._missing:
            _LOG.error("EAGer grows no trees here: %s", sentence)

    def _begin_chat(self, server: GatedServer, state: State, args: Namespace) -> None:
        """Raises WireError or ValueError where the server's settings are none."""
        settings = read_settings(server.settings, server.generation())
        reason = why_no_tree(settings.defaults.tree)
        if reason is not None:
            raise ValueError(reason)
        if self._missing or server.tokenizer is None:
            return
        for front in self._fronts:
            front.by_default = not settings.defaults.is_plain
        if settings.without:
            _LOG.warning("EAGer's trees do without this of the generation config: %s", ", ".join(settings.without))
        names = args.served_model_name or [args.model]
        self._chat = ChatTrees(server, ServerPrompts(state.online_renderer), names, settings, self._registry)

    def _answer(self, operation: Operation, body: dict[str, Any]) -> Response:
        if self._chat is None:
            return error_response(ChatError(" ".join(self._missing) or _NO_TEXT, 503))
        return self._chat.answer(operation, body)

    async def _about(self) -> dict[str, Any]:
        server = self._server
        assert server is not None, "init_state comes before the first request"
        return about_json(
            About(
                tuple(self._missing), server.model, server.max_model_len, BRANCH_RULES, server.pause_id, server.runner
            )
        )

    async def _trees(self, request: Request) -> Response:
        server = self._server
        assert server is not None, "init_state comes before the first request"
        if self._missing or server.pause_id is None:
            return refusal(503, " ".join(self._missing))
        most = _BYTES_BESIDE_PROMPT + _BYTES_PER_TOKEN * server.max_model_len
        try:
            asked = read_request(await _body(request, most))
            _check(asked, server)
            tree = GatedTree(asked.job, asked.stops, name=uuid.uuid4().hex, pause_id=server.pause_id)
        except (WireError, ValueError, RecursionError) as error:
            return refusal(400, str(error))
        return TreeResponse(Growing(tree, server), is_stream=asked.stream)


async def _body(request: Request, most: int) -> Any:
    """The JSON that came; ValueError where it is none, or of more than `most` bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise WireError(f"the request has more than {most} bytes, which no prompt of this model needs")
    return json.loads(bytes(body))


def _check(asked: TreeRequest, server: GatedServer) -> None:
    """Raises WireError where this server's model cannot do what is asked."""
    job, stops = asked.job, asked.stops
    if job.max_length > server.max_model_len:
        raise WireError(f"max_length {job.max_length} is beyond the context of {server.max_model_len} tokens: lower it")
    wrong = server.wrong_id([*job.prompt_ids, *stops.stop_ids, *stops.thinking_end])
    if wrong is not None:
        raise WireError(wrong)
    if server.pause_id in stops.stop_ids or server.pause_id in stops.thinking_end:
        raise WireError(f"token {server.pause_id} stands for a branch here, so that nothing can end with it")
