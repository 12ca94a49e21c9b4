"""Connecting to the servers: each is tried, and what they can do together is what the engine has."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import stamina

from eager.engines._openai_faults import FaultError, RefusalError, pause_after
from eager.engines._openai_http import Client
from eager.engines._openai_loop import LoopThread
from eager.engines._openai_probe import Facts, n_engines, probe
from eager.engines._openai_replicas import Family, Replicas
from eager.engines.base import EngineError
from eager.engines.options_openai import OpenAIOptions


class Connection:
    """The servers, and the thread that speaks with them; made with `connect`."""

    def __init__(self, options: OpenAIOptions) -> None:
        self._max_retries = options.max_retries
        self.thread = LoopThread()
        self.client = self.thread.run(_client(options))
        self.replicas = Replicas(options.urls, options.give_up_after, self.client.is_alive)

    def ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON that any of the servers answers. RefusalError where it refuses, EngineError where none answers."""
        try:
            return self.thread.run(self._ask(path, body))
        except FaultError as fault:
            raise EngineError(f"no server answers ({fault}): look at its log") from None

    def close(self) -> None:
        """Nothing is asked any more; a second time it does nothing."""
        if not self.thread.loop.is_closed():
            self.thread.run(self._close())
            self.thread.stop()

    async def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        attempts = stamina.retry_context(on=pause_after, attempts=self._max_retries + 1, timeout=None)
        async for attempt in attempts:
            with attempt:
                chosen = await self.replicas.choose(Family(""))
                try:
                    get, post = self.client.get, self.client.post
                    return await (get(chosen.url, path) if body is None else post(chosen.url, path, body))
                except FaultError as fault:
                    if fault.is_down:
                        self.replicas.put_down(chosen, str(fault))
                    raise
        return None

    async def _close(self) -> None:
        self.replicas.close()
        await self.client.close()


def connect(model: str, options: OpenAIOptions) -> tuple[Connection, Facts, list[str]]:
    """The servers, what they can do together, and what the user should know of them.

    Raises EngineError where none answers, or one of them lacks what is needed.
    """
    with ExitStack() as on_failure:
        connection = Connection(options)
        on_failure.callback(connection.close)
        found, notices = connection.thread.run(_probe_all(connection, model, options))
        facts = _together(found, options)
        on_failure.pop_all()
    return connection, facts, [*_warnings(options), *notices]


async def _client(options: OpenAIOptions) -> Client:
    return Client(options)


async def _probe_all(connection: Connection, model: str, options: OpenAIOptions) -> tuple[list[Facts], list[str]]:
    replicas = connection.replicas
    tries = (probe(connection.client, replica.url, model, options) for replica in replicas.all)
    found, notices = [], []
    for replica, outcome in zip(replicas.all, await asyncio.gather(*tries, return_exceptions=True), strict=True):
        if isinstance(outcome, Facts):
            found.append(outcome)
            replicas.split(replica, await n_engines(connection.client, replica.url))
        elif isinstance(outcome, FaultError):
            replicas.leave_out(replica, str(outcome))
            notices.append(f"{outcome}; the others do its work until it comes")
        elif isinstance(outcome, RefusalError):
            raise EngineError(f"{outcome}: is there a server with OpenAI's interface behind --base_url?") from outcome
        else:
            raise outcome
    if not found:
        faults = "; ".join(str(replica.fault) for replica in replicas.all)
        raise EngineError(f"no server answers ({faults}): start it, or check --base_url")
    return found, notices


def _together(found: list[Facts], options: OpenAIOptions) -> Facts:
    ways = {facts.draws for facts in found}
    return replace(
        found[0],
        max_model_len=min(options.max_model_len, *(facts.max_model_len for facts in found)),
        n_vocab=min(facts.n_vocab for facts in found),
        draws=found[0].draws if len(ways) == 1 else "opening",
    )


def _warnings(options: OpenAIOptions) -> list[str]:
    found = []
    if options.insecure:
        found.append("--insecure: certificates are not checked, so whoever sits between may read key and prompts")
    plain = [url for url in options.urls if url.startswith("http:") and not _is_here(url)]
    if options.api_key is not None and plain:
        found.append(f"the key goes to {', '.join(plain)} unencrypted: use https, or a tunnel")
    return found


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
