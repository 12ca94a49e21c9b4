"""The plugin that lets a vLLM server grow whole trees: one request, one tree (docs/tree-requests.md).

    VLLM_PLUGINS=eager vllm serve MODEL --logits-processors eager.engines.vllm_gate:Gate \\
        --worker-extension-cls eager.engines.vllm_gate.GateWorker

Routes are added; those of vLLM stay as they are.
"""

from __future__ import annotations

import json
import logging
import uuid
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import State
from starlette.responses import JSONResponse, Response

from eager.engines.gated_tree import BRANCH_RULES, GatedTree
from eager.engines.vllm_gated import GatedServer
from eager.server.growing import Growing
from eager.server.tree_response import TreeResponse, refusal
from eager.wire import ABOUT_PATH, TREES_PATH, About, TreeRequest, WireError, about_json, read_request

_LOG = logging.getLogger("vllm.plugins.eager")
_BYTES_BESIDE_PROMPT = 1 << 16
_BYTES_PER_TOKEN = 12


class TreePlugin:
    """vLLM's `EndpointPlugin`."""

    name = "eager"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._server: GatedServer | None = None
        self._missing: list[str] = []

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes."""
        app.add_api_route(ABOUT_PATH, self._about, methods=["GET"], response_class=JSONResponse)
        app.add_api_route(TREES_PATH, self._trees, methods=["POST"], response_model=None)

    async def init_state(self, engine_client: Any, state: State, args: Namespace) -> None:
        """Take the engine, and say what the server was started without."""
        self._server = GatedServer(engine_client)
        self._missing = await self._server.missing()
        for sentence in self._missing:
            _LOG.error("EAGer grows no trees here: %s", sentence)

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
    largest = max(*job.prompt_ids, *stops.stop_ids, *stops.thinking_end, 0)
    if largest >= server.n_vocab:
        raise WireError(f"token id {largest} is outside the vocabulary of {server.n_vocab}: encode with this model's")
    if server.pause_id in stops.stop_ids or server.pause_id in stops.thinking_end:
        raise WireError(f"token {server.pause_id} stands for a branch here, so that nothing can end with it")
