"""Several streams of news as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence as Seq
from contextlib import aclosing
from typing import TypeVar

_Item = TypeVar("_Item")


async def merged(streams: Seq[AsyncGenerator[_Item, None]]) -> AsyncGenerator[_Item, None]:
    """All their items as they come. The first failure is raised; closed, or at a failure, all of them are closed."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as alone:
            async for item in alone:
                yield item
        return
    items: asyncio.Queue[_Item | asyncio.Task[None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pumped(stream, items)) for stream in streams]
    for task in tasks:
        task.add_done_callback(items.put_nowait)
    try:
        n_open = len(tasks)
        while n_open:
            got = await items.get()
            if isinstance(got, asyncio.Task):
                got.result()
                n_open -= 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pumped(stream: AsyncGenerator[_Item, None], items: asyncio.Queue[_Item | asyncio.Task[None]]) -> None:
    async with aclosing(stream):
        async for item in stream:
            items.put_nowait(item)
