"""The servers behind --data_parallel_size start together and end together, whatever ends them; vLLM is made up here."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from eager.engines import EngineError, _vllm_servers
from eager.engines._vllm_servers import Place, Servers

# Answers at once, and has a child of its own as vLLM's servers have; `fails` has it end as vLLM does.
FAKE = """
import http.server, json, os, subprocess, sys, threading
from eager.engines._vllm_server import end_with_the_starter
asked = json.loads(sys.stdin.buffer.readline())
args = asked["args"]
if asked["cpus"]:
    os.sched_setaffinity(0, asked["cpus"])
if args.get("fails"):
    print("(EngineCore pid=7) ERROR 11-26 20:00:00 [core.py:1] ValueError: the heads do not divide")
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
threading.Thread(target=end_with_the_starter, daemon=True).start()
child = subprocess.Popen(["sleep", "600"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"cpus": sorted(os.sched_getaffinity(0)), "child": child.pid, "command": sys.argv, **args}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.HTTPServer((args["host"], args["port"]), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(_vllm_servers, "_COMMAND", FAKE)


def said_by(url):
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        return json.loads(answer.read())


def is_gone(pid, seconds=20.0):
    """Whether the process ends soon; a zombie has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_each_replica_has_its_place_and_all_have_the_rest():
    """vLLM's arguments of its own, its own processors, a port that nobody else has, on this machine only."""
    cpu = min(os.sched_getaffinity(0))
    servers = Servers([Place({"device_ids": [0]}), Place({"device_ids": [1]}, [cpu])], {"dtype": "float32"})
    try:
        first, second = (said_by(url) for url in servers.urls)
    finally:
        servers.stop()
    assert (first["device_ids"], second["device_ids"]) == ([0], [1])
    assert second["cpus"] == [cpu]
    assert first["dtype"] == second["dtype"] == "float32"
    assert first["host"] == second["host"] == "127.0.0.1"
    assert first["port"] != second["port"]


def test_the_key_is_in_no_command():
    """Whoever may see the processes of this machine may not use the servers."""
    servers = Servers([Place({})], {})
    try:
        said = said_by(servers.urls[0])
        assert said["api_key"] == [servers.api_key]
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        assert not any(servers.api_key.encode() in command for command in commands)
    finally:
        servers.stop()


def test_stopping_ends_all_that_was_started():
    """With what the servers have started; and a second time is no error."""
    servers = Servers([Place({}), Place({})], {})
    urls = servers.urls
    children = [said_by(url)["child"] for url in urls]
    servers.stop()
    servers.stop()
    assert all(map(is_gone, children))
    for url in urls:
        with pytest.raises(urllib.error.URLError):
            said_by(url)


def test_one_that_does_not_start_ends_the_others_and_says_why():
    """The cause, not that there was one."""
    with pytest.raises(EngineError, match=r"replica 2 of 2 has ended at its start \(the heads do not divide\)"):
        Servers([Place({}), Place({"fails": True})], {})
    names = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"the heads do not divide" in name for name in names)


def test_options_that_no_other_process_can_take_are_refused():
    """In one sentence, and nothing is left running."""
    with pytest.raises(EngineError, match="cannot be handed to vLLM's servers"):
        Servers([Place({"hf_overrides": print})], {})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_they_end_with_the_process_that_started_them(how, tmp_path):
    """Even where it is killed outright, and could not stop them."""
    code = (
        "import json, sys, urllib.request; from eager.engines import _vllm_servers as s; s._COMMAND = sys.argv[1]\n"
        "servers = s.Servers([s.Place({}), s.Place({})], {})\n"
        "said = [json.loads(urllib.request.urlopen(url + '/health').read()) for url in servers.urls]\n"
        "print(json.dumps([one['child'] for one in said]), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, FAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    children = json.loads(process.stdout.readline())
    process.send_signal(how)
    process.communicate()
    assert len(children) == 2
    assert all(map(is_gone, children))
