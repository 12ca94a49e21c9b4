"""A tree as events while it grows, each of its sequences a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

from eager.engines.base import EngineError
from eager.engines.gated_tree import Decoded, GatedRequest, GatedTree
from eager.types import SamplingParams
from eager.wire import Alive, Branched, Ended, Finished

ALIVE_SECONDS = 2.0
"""The longest silence: who asked can tell a tree that grows from a server that hangs."""

_leaving: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly


class Server(Protocol):
    """What decodes; `eager.engines.vllm_gated.GatedServer`."""

    def decode(self, request: GatedRequest, sampling: SamplingParams) -> Coroutine[Any, Any, Decoded]: ...

    async def pulse(self) -> None: ...

    async def take(self, tree: str) -> Mapping[str, Any] | None: ...


class Growing:
    """One tree on a server. `events` grows it; `leave` ends what is still open of it."""

    def __init__(self, tree: GatedTree, server: Server) -> None:
        self._tree = tree
        self._server = server
        self._open: dict[asyncio.Task[Decoded], GatedRequest] = {}
        self._over: asyncio.Queue[asyncio.Task[Decoded]] = asyncio.Queue()
        self._is_taken = not tree.is_gated
        self._n_branches = self._n_ended = 0  # as last told

    async def events(self) -> AsyncGenerator[Branched | Ended | Alive | Finished, None]:
        """All of it, the finished tree last. Raises EngineError where the server fails."""
        tree = self._tree
        self._send(tree.start())
        while not tree.is_done:
            task = await self._next_over()
            if task is None:
                await self._server.pulse()
                yield Alive(tree.n_tokens)
                continue
            self._send(tree.take(self._open.pop(task), task.result()))
            for event in self._news():
                yield event
        yield Alive(tree.n_tokens)
        record = await self._server.take(tree.name) if tree.is_gated else None
        self._is_taken = True
        yield Finished(tree.result(record))

    async def leave(self) -> None:
        """Take out of the server what is still decoded, and what its gate keeps. After the last event: nothing."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        if not self._is_taken:
            self._is_taken = True
            with suppress(EngineError):  # of a dead engine there is nothing to take
                await self._server.take(self._tree.name)

    def end(self) -> None:
        """`leave` in a task of its own: whoever cancels the one that calls this does not keep it from being done."""
        leaving = asyncio.create_task(self.leave())
        _leaving.add(leaving)
        leaving.add_done_callback(_leaving.discard)

    async def _next_over(self) -> asyncio.Task[Decoded] | None:
        """What was over first; None after a silence."""
        # Not by wait_for, which before Python 3.12 may swallow that it is cancelled: the tree would grow on for nobody.
        getting = asyncio.ensure_future(self._over.get())
        try:
            await asyncio.wait({getting}, timeout=ALIVE_SECONDS)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()

    def _send(self, requests: list[GatedRequest]) -> None:
        for request in requests:
            task = asyncio.create_task(self._server.decode(request, self._tree.job.sampling))
            self._open[task] = request
            task.add_done_callback(self._over.put_nowait)

    def _news(self) -> list[Branched | Ended]:
        tree, news = self._tree, list[Branched | Ended]()
        for i in range(self._n_branches, len(tree.branches)):
            news.append(Branched(*tree.branches[i], tree.job.n_roots + i))
        for index in tree.ended[self._n_ended :]:
            news.append(Ended(index, tree.sequence(index)))
        self._n_branches, self._n_ended = len(tree.branches), len(tree.ended)
        return news
