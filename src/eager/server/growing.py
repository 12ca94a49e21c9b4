"""A tree as events while it grows, each of its sequences a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from eager.engines.gated_tree import Decoded, GatedRequest, GatedTree
from eager.types import SamplingParams
from eager.wire import Alive, Branched, Ended, Event, Finished

ALIVE_SECONDS = 2.0
"""The longest silence: who asked can tell a tree that grows from a server that hangs."""


class Server(Protocol):
    """What decodes; `eager.engines.vllm_gated.GatedServer`."""

    async def decode(self, request: GatedRequest, sampling: SamplingParams) -> Decoded: ...

    async def pulse(self) -> None: ...

    async def take(self, tree: str) -> Mapping[str, Any] | None: ...


class Growing:
    """One tree on a server. `events` grows it; `leave` ends what is still open of it."""

    def __init__(self, tree: GatedTree, server: Server) -> None:
        self._tree = tree
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Queue[tuple[GatedRequest, Decoded | BaseException]] = asyncio.Queue()
        self._is_taken = not tree.is_gated
        self._n_branches = self._n_ended = 0  # as last told

    async def events(self) -> AsyncGenerator[Event, None]:
        """All of it, the finished tree last. Raises EngineError where the server fails."""
        tree = self._tree
        self._send(tree.start())
        while not tree.is_done:
            try:
                request, decoded = await asyncio.wait_for(self._over.get(), ALIVE_SECONDS)
            except asyncio.TimeoutError:
                await self._server.pulse()
                yield Alive(tree.n_tokens)
                continue
            if isinstance(decoded, BaseException):
                raise decoded
            self._send(tree.take(request, decoded))
            for event in self._news():
                yield event
        yield Alive(tree.n_tokens)
        record = await self._server.take(tree.name) if tree.is_gated else None
        self._is_taken = True
        yield Finished(tree.result(record))

    async def leave(self) -> None:
        """Take out of the server what is still decoded, and what its gate keeps. After the last event: nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._is_taken:
            self._is_taken = True
            await self._server.take(self._tree.name)

    def _send(self, requests: list[GatedRequest]) -> None:
        for request in requests:
            task = asyncio.create_task(self._decode(request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _decode(self, request: GatedRequest) -> None:
        outcome: Decoded | BaseException
        try:
            outcome = await self._server.decode(request, self._tree.job.sampling)
        except Exception as error:  # noqa: BLE001 - handed to `events`, which raises it
            outcome = error
        self._over.put_nowait((request, outcome))

    def _news(self) -> list[Event]:
        tree, news = self._tree, list[Event]()
        for i in range(self._n_branches, len(tree.branches)):
            news.append(Branched(*tree.branches[i], tree.job.n_roots + i))
        for index in tree.ended[self._n_ended :]:
            news.append(Ended(index, tree.sequence(index)))
        self._n_branches, self._n_ended = len(tree.branches), len(tree.ended)
        return news
