"""vLLM's app with the plugin in it, put in by vLLM's own code, over a made-up engine and made-up routes of its own."""

import asyncio
from argparse import Namespace
from unittest.mock import patch

import httpx
import vllm.plugins
from fake_client import FakeClient, FakeRenderer
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins, init_endpoint_plugins_state

from eager.chat import OPERATIONS
from eager.server.vllm_plugin import TreePlugin

RULES = {"max_sequences": 4, "entropy_threshold": 2.6}
CHAT = {"model": "made-up", "messages": [{"role": "user", "content": "who"}], "seed": 3}
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/v1/completions"


async def app_of(client):
    """`app.state.own` are the bodies that came to vLLM's routes, which answer so to each."""
    app = FastAPI()
    app.state.own, app.state.registry = [], CollectorRegistry()
    app.state.online_renderer = FakeRenderer(client.renderer.tokenizer)

    async def own(request: Request):
        app.state.own.append(await request.body())
        return JSONResponse({"own": len(app.state.own)})

    for form in OPERATIONS.values():
        app.add_api_route(form.path, own, methods=["POST"])
    plugin = TreePlugin(app.state.registry)
    with patch.object(vllm.plugins, "load_endpoint_plugins", return_value=[plugin]):
        attach_endpoint_plugins(app, ("generate",))
    await init_endpoint_plugins_state(client, app.state, Namespace(served_model_name=["made-up", "nick"]))
    return app


def run(ask, **how):
    """What `ask(http, app)` returns."""

    async def asked():
        app = await app_of(FakeClient(**how))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return await ask(http, app)

    return asyncio.run(asked())


def chat(body, **how):
    """The response to one chat of this, and the app."""

    async def ask(http, app):
        return await http.post(CHAT_PATH, json={**CHAT, **body}), app

    return run(ask, **how)
