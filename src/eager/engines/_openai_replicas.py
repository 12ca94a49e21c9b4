"""Which of several servers a sequence goes to: its tree's, so that its prefix is cached there; or the least busy.

Of a server that holds several data-parallel engines each is a replica, chosen by a header of vLLM's. To a router that
stands before others a tree's name says the same, in the header that vllm-router hashes.

Lives on the engine's event loop, and is used from nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass

from eager.engines._deadline import timeout
from eager.engines.base import EngineLostError

_SESSION, _RANK = "X-Session-ID", "X-data-parallel-rank"
_BETWEEN_LOOKS, _LONGEST_BETWEEN_LOOKS = 0.2, 5.0  # seconds


@dataclass(slots=True, eq=False)
class Replica:
    """One server, or the engine `rank` in one. `fault` says why it is down; `n_open` streams come from it.

    `is_tried`: whether it is known what it can; one that was away at the start is not, and gets nothing before.
    """

    url: str
    rank: int | None = None
    n_open: int = 0
    fault: str | None = None
    is_tried: bool = True


@dataclass(slots=True, eq=False)
class Family:
    """The sequences of one tree, by a name that no other has; `replica` is where the last of them went."""

    name: str
    replica: Replica | None = None


class Replicas:
    """Chooses, and waits while all are down. A server that is down is looked at now and then until it is up."""

    def __init__(
        self, urls: Seq[str], give_up_after: float, is_alive: Callable[[str], Awaitable[bool]] | None = None
    ) -> None:
        """`is_alive` asks a server whether it is up; without it one that is down stays so until `put_up`."""
        self.all = tuple(Replica(url) for url in urls)
        self._give_up_after = give_up_after
        self._is_alive = is_alive
        self._some_is_up = asyncio.Event()
        self._some_is_up.set()
        self._all_down_since: float | None = None
        self._looks: dict[Replica, asyncio.Task[None]] = {}

    @property
    def seconds_left(self) -> float | None:
        """How long all may stay down before `choose` gives up; None while any is up."""
        since = self._all_down_since
        return None if since is None else max(0.0, since + self._give_up_after - time.monotonic())

    def headers(self, family: Family, replica: Replica) -> Mapping[str, str]:
        """What a request of this family to this replica says beside its body."""
        rank = {} if replica.rank is None else {_RANK: str(replica.rank)}
        return {_SESSION: family.name, **rank}

    def split(self, replica: Replica, n_engines: int) -> None:
        """The server holds so many data-parallel engines, which have a cache each."""
        if n_engines > 1:
            parts = [Replica(replica.url, rank) for rank in range(n_engines)]
            self.all = tuple(one for other in self.all for one in (parts if other is replica else [other]))

    async def choose(self, family: Family, avoid: Replica | None = None) -> Replica:
        """The replica for a sequence of the family; another than `avoid` where there is one.

        Waits while all are down. Raises EngineLostError when none came back in time.
        """
        while (found := self._best(family, avoid)) is None:
            await self._until_one_is_up()
        family.replica = found
        return found

    @contextmanager
    def serving(self, replica: Replica, n_streams: int = 1) -> Iterator[None]:
        """So many streams, or sequences of a whole tree, come from the replica meanwhile."""
        replica.n_open += n_streams
        try:
            yield
        finally:
            replica.n_open -= n_streams

    def put_down(self, replica: Replica, fault: str) -> None:
        """It does not answer: nothing goes there until it does."""
        replica.fault = fault
        if all(other.fault is not None for other in self.all) and self._all_down_since is None:
            self._all_down_since = time.monotonic()
            self._some_is_up.clear()
        if self._is_alive is not None and replica not in self._looks:
            self._look_at(replica, self._is_back)

    def leave_out(self, replica: Replica, fault: str) -> None:
        """It was away when it was to be tried: nothing goes there until it has been."""
        replica.fault, replica.is_tried = fault, False

    def expect(self, is_settled: Callable[[Replica], Awaitable[bool]]) -> None:
        """From now on those that were left out are looked at, each until `is_settled` says that it has come."""
        for replica in self.all:
            if not replica.is_tried:
                self._look_at(replica, is_settled)

    def put_up(self, replica: Replica) -> None:
        """It answers (again)."""
        replica.fault = None
        self._all_down_since = None
        self._some_is_up.set()

    def close(self) -> None:
        """No server is looked at any more."""
        for look in self._looks.values():
            look.cancel()

    def _best(self, family: Family, avoid: Replica | None) -> Replica | None:
        up = [replica for replica in self.all if replica.fault is None]
        others = [replica for replica in up if replica is not avoid] or up
        if family.replica in others:
            return family.replica
        return min(others, key=lambda replica: replica.n_open, default=None)

    async def _until_one_is_up(self) -> None:
        try:
            async with timeout(self.seconds_left):
                await self._some_is_up.wait()
        except asyncio.TimeoutError:
            if self._all_down_since is not None:
                raise self._given_up() from None

    def _look_at(self, replica: Replica, is_settled: Callable[[Replica], Awaitable[bool]]) -> None:
        self._looks[replica] = asyncio.get_running_loop().create_task(self._look(replica, is_settled))

    async def _look(self, replica: Replica, is_settled: Callable[[Replica], Awaitable[bool]]) -> None:
        pause = _BETWEEN_LOOKS
        while not await is_settled(replica):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_BETWEEN_LOOKS)
        del self._looks[replica]

    async def _is_back(self, replica: Replica) -> bool:
        if self._is_alive is not None and await self._is_alive(replica.url):
            self.put_up(replica)
        return replica.fault is None

    def _given_up(self) -> EngineLostError:
        faults = "; ".join(f"{replica.url}: {replica.fault}" for replica in self.all)
        return EngineLostError(
            f"no server has answered for {self._give_up_after:g} seconds ({faults}): start one again, then the same"
            " command with this --output_dir goes on where it stopped"
        )
