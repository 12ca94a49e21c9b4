"""A synchronous iterator driven from asyncio, by one thread from its first step to its end.

One thread: libraries keep pools and caches for each that calls them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(make: Callable[[], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
    """What `make()` yields. Closed or cancelled, it closes that after the step under way, and only then ends."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="eager") as thread:
        items = make()
        try:
            while (item := await loop.run_in_executor(thread, next, items, None)) is not None:
                yield item
        finally:
            await asyncio.shield(loop.run_in_executor(thread, items.close))
