"""An engine that one thread drives for all requests at once: the `Source` of the gateway."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence as Seq
from functools import partial
from typing import Any, TypeVar

from eager.chat.errors import ChatError
from eager.chat.request import Asked, Prompt
from eager.chat.source import Decoded, Event
from eager.chat.votes import SettledBy
from eager.engines.base import Engine, EngineError, EngineLostError, PromptError
from eager.engines.text_stops import TextStops
from eager.errors import first_line
from eager.generator import Generator, Progress, Step
from eager.server.growing import ALIVE_SECONDS
from eager.texts import text_of
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, TreeJob
from eager.wire import Alive, Ended, Finished

_T = TypeVar("_T")


class Host:
    """Drives the engine, on which all else is done between two of its steps. An asynchronous context manager.

    A step that fails ends all requests with an EngineError, and those that come later are tried: `trouble` says what
    the engine ails from, until a step succeeds; it is tried every few seconds. Who is lost for good refuses at once.
    """

    def __init__(self, engine: Engine, model_name: str | None = None) -> None:
        """`model_name` is what clients ask for, by default the engine's."""
        self.model_name = model_name or engine.model_name
        self.max_model_len = engine.max_model_len
        self.stops = engine.stops
        self.trouble: str | None = None
        self._engine = TextStops(engine)
        self._generator = Generator(self._engine)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._drive, name="eager-engine", daemon=True)
        self._is_over = self._is_lost = self._has_ended = False
        self._n_steps = 0
        # The thread's: who hears of which job, by the job's id. The loop's: all of them.
        self._by_job: dict[int, _Inbox] = {}
        self._inboxes: set[_Inbox] = set()

    @property
    def progress(self) -> Progress:
        """Of all that it has grown."""
        return self._generator.progress

    async def __aenter__(self) -> Host:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._beat = asyncio.create_task(self._beat_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beat.cancel()
        self._commands.put(self._end)
        await asyncio.to_thread(self._thread.join)

    # -- what answering asks ------------------------------------------------------------------------------------------

    def why_not(self, asked: Asked) -> str | None:
        return None

    async def encode(self, prompt: Prompt) -> Seq[int]:
        try:
            return await self._call(partial(_encoded, self._engine, prompt))
        except PromptError as error:
            raise ChatError(str(error), param="prompt" if isinstance(prompt, str) else None) from None

    async def texts(self, sequences: Seq[Seq[int]]) -> list[str]:
        return await self._call(lambda: [self._engine.decode(ids) if ids else "" for ids in sequences])

    async def grow(
        self, job: TreeJob, settled_by: SettledBy | None = None, *, tell_tokens: bool = False
    ) -> AsyncGenerator[Event, None]:
        inbox = _Inbox(job, settled_by, tells_tokens=tell_tokens)
        self._inboxes.add(inbox)
        try:
            self._command(partial(self._begin, inbox))
            while not inbox.is_done:
                for event in await inbox.take():
                    if isinstance(event, EngineError):
                        raise event
                    yield event
        finally:
            self._inboxes.discard(inbox)
            if not inbox.is_done:
                self._commands.put(partial(self._drop, inbox))

    async def _call(self, work: Callable[[], _T]) -> _T:
        """What `work` returns or raises, done between two steps."""
        future: asyncio.Future[_T] = self._loop.create_future()
        self._command(partial(self._work, work, future))
        return await future

    def _command(self, command: Callable[[], None]) -> None:
        """Have the thread do it. Raises EngineError where that has ended: looked at afterwards, as its last act is to
        do what it was told before.
        """
        self._commands.put(command)
        if self._has_ended:
            raise EngineError(self.trouble or "the server has ended")

    async def _beat_on(self) -> None:
        """Tell of silent requests that they live, while the engine does; and try an engine that has failed."""
        n_steps = -1
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            if self._n_steps != n_steps:
                for inbox in self._inboxes:
                    inbox.beat()
            n_steps = self._n_steps
            if self.trouble is not None and not self._is_lost:
                self._commands.put(self._probe)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        try:
            while not self._is_over:
                if not self._generator.has_work:
                    self._commands.get()()
                while not self._commands.empty():
                    self._commands.get()()
                if self._generator.has_work:
                    self._step()
        finally:  # also where there is a mistake in this program
            self._is_lost = self._has_ended = True
            self._fail(self.trouble or "the server has ended")
            while not self._commands.empty():  # else who asked would wait for ever
                self._commands.get()()

    def _step(self) -> None:
        try:
            step = self._generator.step()
        except (EngineError, MemoryError) as error:
            self._is_lost = isinstance(error, EngineLostError)
            self._fail(first_line(error) if isinstance(error, EngineError) else "the memory ran out in the engine")
        else:
            self.trouble = None
            self._n_steps += 1
            self._deliver(step)

    def _deliver(self, step: Step) -> None:
        told: list[tuple[_Inbox, Event | EngineError]] = []
        for job, deltas in step.decoded:
            inbox = self._by_job.get(id(job))
            if inbox is not None and inbox.tells_tokens:
                told.append((inbox, Decoded({seq: delta.tokens for seq, delta in deltas})))
        for job, number, sequence in step.ended:
            told.append((self._by_job[id(job)], Ended(number, sequence)))
        for job, tree in step.finished:
            told.append((self._by_job.pop(id(job)), Finished(tree)))
        self._hand_out(told)

    def _hand_out(self, told: list[tuple[_Inbox, Event | EngineError]]) -> None:
        if told and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put_all, told)

    def _fail(self, sentence: str) -> None:
        """The generator has dropped all jobs."""
        self.trouble = sentence
        self._hand_out([(inbox, EngineError(sentence)) for inbox in self._by_job.values()])
        self._by_job.clear()

    def _begin(self, inbox: _Inbox) -> None:
        if self._is_lost:
            self._hand_out([(inbox, EngineError(self.trouble or "the engine is lost"))])
            return
        self._by_job[id(inbox.job)] = inbox
        by = inbox.settled_by
        is_settled = None if by is None else lambda ended: by([text_of(self._engine, one) for one in ended])
        self._generator.add(inbox.job, is_settled)

    def _drop(self, inbox: _Inbox) -> None:
        self._by_job.pop(id(inbox.job), None)
        self._generator.cancel(inbox.job)

    def _probe(self) -> None:
        """One token after a token that every model has."""
        if not self._generator.has_work:
            rules = BranchConfig(max_sequences=1, entropy_threshold=MAX_ENTROPY)
            job = TreeJob(0, (min(self.stops.stop_ids),), rules, SamplingParams(), max_length=2, seed=0)
            self._begin(_Inbox(job, None, tells_tokens=False))

    def _work(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        try:
            put = partial(_set_result, future, work())
        except Exception as error:  # noqa: BLE001 - raised where it was asked for, not here among all requests
            put = partial(_set_error, future, error)
        self._loop.call_soon_threadsafe(put)

    def _end(self) -> None:
        self._is_over = True
        self._generator.close()


class _Inbox:
    """What has come for one request and was not looked at yet."""

    def __init__(self, job: TreeJob, settled_by: SettledBy | None, *, tells_tokens: bool) -> None:
        self.job = job
        self.settled_by = settled_by
        self.tells_tokens = tells_tokens
        self.is_done = False
        self._events: deque[Event | EngineError] = deque()
        self._has_some = asyncio.Event()
        self._was_silent = False

    def put(self, event: Event | EngineError) -> None:
        """Tokens join those that wait: who is slow gets more of them at once."""
        last = self._events[-1] if self._events else None
        if isinstance(event, Decoded) and isinstance(last, Decoded):
            seqs = last.tokens.keys() | event.tokens.keys()
            joined = {seq: [*last.tokens.get(seq, ()), *event.tokens.get(seq, ())] for seq in sorted(seqs)}
            self._events[-1] = Decoded(joined)
        else:
            self._events.append(event)
        self._was_silent = False
        self._has_some.set()

    def beat(self) -> None:
        if self._was_silent:
            self.put(Alive(0))
        self._was_silent = True

    async def take(self) -> list[Event | EngineError]:
        """All of it, once there is some."""
        await self._has_some.wait()
        self._has_some.clear()
        events = list(self._events)
        self._events.clear()
        self.is_done = isinstance(events[-1], Finished | EngineError)
        return events


def _put_all(told: list[tuple[_Inbox, Event | EngineError]]) -> None:
    for inbox, event in told:
        inbox.put(event)


def _encoded(engine: Engine, prompt: Prompt) -> Seq[int]:
    if isinstance(prompt, str):
        return engine.encode(prompt)
    if isinstance(prompt[0], int):
        engine.decode(prompt)  # refuses what is no id
        return prompt
    return engine.encode_chat(prompt)


def _set_result(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _set_error(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
