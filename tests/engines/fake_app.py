"""vLLM's app with the plugin in it, put in by vLLM's own code, over a made-up engine and made-up routes of its own."""

from argparse import Namespace
from unittest.mock import patch

import vllm.plugins
from fake_client import FakeRenderer
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins, init_endpoint_plugins_state

from eager.chat import OPERATIONS
from eager.server.vllm_plugin import TreePlugin


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
