"""The gateway over real loopback HTTP, for tests: uvicorn in a thread of this process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import openai
import uvicorn

from eager.chat import Defaults, TreeAsked
from eager.engines import Engine
from eager.engines.scripted import ScriptedEngine
from eager.server.gateway import Gateway, Settings
from eager.server.host import Host
from eager.types import BranchConfig

TREE = TreeAsked(BranchConfig(max_sequences=8, entropy_threshold=1.5))
PLAIN = Settings(Defaults(TREE))


@dataclass
class Running:
    """A gateway at work."""

    port: int
    host: Host

    @cached_property
    def client(self) -> openai.OpenAI:
        """OpenAI's own, which takes its time to be made."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_idle(self, seconds: float) -> bool:
        """Whether nothing is decoded any more within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.host.progress.sequences_open:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def serving(engine: Engine | None = None, settings: Settings = PLAIN) -> Iterator[Running]:
    """A gateway over the engine, by default a scripted one; ended with the block, not the engine."""
    host = Host(engine or ScriptedEngine("chain"))
    config = uvicorn.Config(Gateway(host, settings).app(), port=0, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "uvicorn did not start"
            time.sleep(0.005)
        yield Running(server.servers[0].sockets[0].getsockname()[1], host)
    finally:
        server.should_exit = True
        thread.join()
