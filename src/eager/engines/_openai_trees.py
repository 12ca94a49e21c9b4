"""Whole trees of servers that have EAGer's plugin: one request each, read as events (docs/tree-requests.md).

A tree that breaks in the middle is asked for again, at another server where there is one: it begins anew.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from eager.engines._openai_faults import FaultError, RefusalError, given_up, tries
from eager.engines._openai_http import Client, Stream
from eager.engines._openai_replicas import Family, Replica, Replicas
from eager.engines._refusals import failed
from eager.engines.base import EngineError
from eager.engines.gated_tree import not_over_gate
from eager.errors import first_line
from eager.types import BranchConfig, Generation, SequenceResult, Stops, TreeJob
from eager.wire import (
    ABOUT_PATH,
    TREES_PATH,
    About,
    Alive,
    Begun,
    Branched,
    Ended,
    Event,
    Failed,
    Finished,
    TreeRequest,
    WireError,
    read_about,
    read_event,
    request_json,
)

_HEARTBEAT = 1.0  # seconds after which `take` returns with nothing, so that a display can move
_BYTES_BESIDE, _BYTES_A_SEQUENCE, _BYTES_A_TOKEN = 1 << 16, 1 << 10, 24


@dataclass(slots=True, eq=False)
class _Tree:
    tree_id: int
    job: TreeJob
    family: Family
    n_tokens: int = 0  # by the server's last word
    n_told: int = 0
    is_closed: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def longest_line(self) -> int:
        """Bytes that the whole tree takes at most, in one line."""
        job, n = self.job, self.job.config.max_sequences
        return _BYTES_BESIDE + n * (_BYTES_A_SEQUENCE + _BYTES_A_TOKEN * (job.max_length - len(job.prompt_ids)))


class WholeTrees:
    """What `eager.engines.base.TreeSource` says, over HTTP. All but that belongs to the event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, client: Client, replicas: Replicas, stops: Stops, max_retries: int
    ) -> None:
        self._loop = loop
        self._client = client
        self._replicas = replicas
        self._stops = stops
        self._max_retries = max_retries
        self._run = uuid4().hex  # so that no other driver's trees have the names of these
        self._open: dict[int, _Tree] = {}
        self._events: queue.SimpleQueue[tuple[_Tree, Event] | Exception] = queue.SimpleQueue()
        self._tasks: set[asyncio.Task[None]] = set()

    def why_not(self, rules: BranchConfig) -> str | None:
        return not_over_gate(rules)

    def open(self, tree_id: int, job: TreeJob) -> None:
        tree = self._open[tree_id] = _Tree(tree_id, job, Family(f"eager-{self._run}-tree-{tree_id}"))
        self._loop.call_soon_threadsafe(self._start, tree)

    def close(self, tree_id: int) -> None:
        tree = self._open.pop(tree_id, None)
        if tree is not None:
            tree.is_closed = True
            self._loop.call_soon_threadsafe(self._stop, tree)

    def take(self) -> list[tuple[int, Event]]:
        taken: list[tuple[int, Event]] = []
        try:
            taken += self._event(self._events.get(timeout=_HEARTBEAT))
            while True:
                taken += self._event(self._events.get_nowait())
        except queue.Empty:
            pass
        for tree in self._open.values():
            if tree.n_tokens != tree.n_told:
                tree.n_told = tree.n_tokens
                taken.append((tree.tree_id, Alive(tree.n_told)))
        return taken

    async def shut(self) -> None:
        """Close all streams, and wait until they are. On the loop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _event(self, item: tuple[_Tree, Event] | Exception) -> list[tuple[int, Event]]:
        if isinstance(item, Exception):
            raise item
        tree, event = item
        if tree.is_closed:
            return []
        if isinstance(event, Finished):
            del self._open[tree.tree_id]
        return [(tree.tree_id, event)]

    # -- on the loop --------------------------------------------------------------------------------------------------

    def _start(self, tree: _Tree) -> None:
        if not tree.is_closed:
            tree.task = self._loop.create_task(self._follow(tree))
            self._tasks.add(tree.task)
            tree.task.add_done_callback(self._ended)

    def _stop(self, tree: _Tree) -> None:
        if tree.task is not None:
            tree.task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, Exception):
            self._events.put(failure)

    async def _follow(self, tree: _Tree) -> None:
        """Ask until the tree is there, or is given up. Raises EngineError where the servers are at their end."""
        try:
            await self._ask(tree)
        except (FaultError, RefusalError) as error:
            reason = given_up(error, self._max_retries, self._client.scrub)
            record = failed(len(tree.job.prompt_ids), reason)
            sequences = (SequenceResult((), (), "error", error=record),) * tree.job.n_roots
            self._events.put((tree, Finished(Generation(sequences))))

    async def _ask(self, tree: _Tree) -> None:
        failed_at: Replica | None = None
        async for attempt in tries(self._max_retries):
            with attempt:
                replica = await self._replicas.choose(tree.family, avoid=failed_at)
                self._events.put((tree, Begun()))
                try:
                    await self._read(tree, replica)
                except FaultError as fault:
                    failed_at = replica
                    if fault.is_down:
                        self._replicas.put_down(replica, self._client.scrub(f"{fault}"))
                    raise

    async def _read(self, tree: _Tree, replica: Replica) -> None:
        body: Mapping[str, Any] = request_json(TreeRequest(tree.job, self._stops, stream=True))
        headers = self._replicas.headers(tree.family, replica)
        with self._replicas.serving(replica, tree.job.config.max_sequences):
            async with self._client.stream(
                replica.url, TREES_PATH, body, headers, longest_line=tree.longest_line
            ) as stream:
                finished = await self._finished(tree, stream)
        self._events.put((tree, finished))

    async def _finished(self, tree: _Tree, stream: Stream) -> Finished:
        """The tree; what comes before it is told as it comes, and is no more than a tree can have."""
        n_left = 2 * tree.job.config.max_sequences
        async for lines in stream.data():
            for line in lines:
                event = _read_line(line, tree.job)
                if isinstance(event, Finished):
                    return event
                if isinstance(event, Failed):
                    raise FaultError(self._client.scrub(event.message))
                if isinstance(event, Alive):
                    tree.n_tokens = event.n_tokens
                elif isinstance(event, Branched | Ended):
                    n_left -= 1
                    if n_left < 0:
                        raise FaultError("the server tells more of a tree than it can have")
                    self._events.put((tree, event))
        raise FaultError("the server's answer ends in the middle of a tree")


def _read_line(line: bytes, job: TreeJob) -> Event:
    try:
        return read_event(msgspec.json.decode(line), job)
    except (msgspec.DecodeError, RecursionError, WireError) as error:
        raise FaultError(f"the server's answer is garbled ({first_line(error)})") from None


async def abouts(client: Client, replicas: Replicas) -> tuple[list[About], list[str]]:
    """What the servers that are up say of their plugin, () where one of them grows no trees; and why, where it has one.

    A server without the plugin says nothing, which is as it should be.
    """
    up = [replica.url for replica in replicas.all if replica.fault is None]
    found = [(url, await about_of(client, url)) for url in up]
    missing = [f"{url}: {sentence}" for url, about in found if about is not None for sentence in about.missing]
    notices = [f"trees are grown over log-probabilities, since {sentence}" for sentence in missing]
    have = [about for _, about in found if about is not None and not about.missing]
    return (have, notices) if len(have) == len(found) else ([], notices)


async def about_of(client: Client, url: str) -> About | None:
    """What a server says of its plugin; None where it has none."""
    try:
        return read_about(await client.get(url, ABOUT_PATH))
    except (FaultError, RefusalError, EngineError, WireError):
        return None
