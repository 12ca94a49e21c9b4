"""An engine in a thread of its own, for many at once."""

import asyncio
from contextlib import aclosing

import needs
import pytest

needs.package("starlette", "serve")

from eager.chat import ChatError, Decoded  # noqa: E402
from eager.chat.merging import merged  # noqa: E402
from eager.engines.base import EngineError, EngineLostError  # noqa: E402
from eager.engines.scripted import ScriptedEngine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.server import host as host_module  # noqa: E402
from eager.server.host import Host  # noqa: E402
from eager.types import MAX_ENTROPY, BranchConfig, SamplingParams, TreeJob  # noqa: E402
from eager.wire import Alive, Ended, Finished  # noqa: E402

RULES = BranchConfig(max_sequences=6, entropy_threshold=1.5)


def job(seed: int, rules=RULES, **fields) -> TreeJob:
    return TreeJob(0, (1001, 1004), rules, SamplingParams(1.0), max_length=100, seed=seed, **fields)


async def events_of(host: Host, a_job: TreeJob, **options):
    async with aclosing(host.grow(a_job, **options)) as events:
        return [event async for event in events]


def on_host(work, engine=None):
    """What `work(host)` comes to."""

    async def main():
        async with Host(engine or ScriptedEngine("chain")) as host:
            return await work(host)

    return asyncio.run(main())


def test_trees_are_those_of_the_generator():
    """Whatever else grows beside them."""

    async def many(host):
        return await asyncio.gather(*(events_of(host, job(seed)) for seed in range(20)))

    for seed, events in enumerate(on_host(many)):
        generator = Generator(ScriptedEngine("chain"))
        generator.add(job(seed))
        ((_, tree),) = generator.run()
        assert events[-1] == Finished(tree)
        assert len([event for event in events if isinstance(event, Ended)]) == len(tree.sequences)


def test_tokens_are_told_where_they_are_asked_for():
    """All of them in order, also to who is slow to take them."""
    plain = BranchConfig(3, MAX_ENTROPY)

    async def slowly(host):
        tokens = {0: [], 1: [], 2: []}
        async with aclosing(host.grow(job(5, plain, n_roots=3), tell_tokens=True)) as events:
            async for event in events:
                await asyncio.sleep(0.01)
                for seq, new in event.tokens.items() if isinstance(event, Decoded) else ():
                    tokens[seq] += [token.id for token in new]
        return tokens, event

    tokens, last = on_host(slowly, ScriptedEngine("chain", seconds_per_step=0.001))
    assert tokens == {seq: list(sequence.token_ids) for seq, sequence in enumerate(last.tree.sequences)}


def test_a_tree_that_nobody_wants_any_more_is_dropped():
    """At once, and the others go on."""

    async def leave(host):
        async with aclosing(host.grow(job(1))):  # asked for and left before anything came
            pass
        abandoned = host.grow(job(2, BranchConfig(1, MAX_ENTROPY), n_roots=1), tell_tokens=True)
        await anext(abandoned)
        await abandoned.aclose()
        events = await events_of(host, job(3))
        return host.progress.sequences_open, host.progress.trees_done, events

    n_open, n_done, events = on_host(leave, ScriptedEngine("chain", seconds_per_step=0.002))
    assert (n_open, n_done) == (0, 1)
    assert isinstance(events[-1], Finished)


def test_silence_is_broken_while_the_engine_works(monkeypatch):
    """A tree of which nothing is told is said to be alive."""
    monkeypatch.setattr(host_module, "ALIVE_SECONDS", 0.02)
    engine = ScriptedEngine("chain", seconds_per_step=0.01)
    assert any(isinstance(event, Alive) for event in on_host(lambda host: events_of(host, job(1)), engine))


def test_an_engine_that_hangs_is_not_called_alive(monkeypatch):
    """Who asked can tell it from one that is slow to say something."""
    monkeypatch.setattr(host_module, "ALIVE_SECONDS", 0.02)
    engine = ScriptedEngine(script=lambda ids: {1: 1.0}, vocabulary=("", "a"), max_model_len=3, seconds_per_step=0.3)
    events = on_host(lambda host: events_of(host, TreeJob(0, (1,), RULES, SamplingParams(), 2, 0)), engine)
    assert not [event for event in events if isinstance(event, Alive)]


def test_a_broken_engine_mends_itself(monkeypatch):
    """Without a request that would try it: nobody sends any to a server that is not well."""
    monkeypatch.setattr(host_module, "ALIVE_SECONDS", 0.02)
    engine = ScriptedEngine("chain", fail_after=2)

    async def work(host):
        with pytest.raises(EngineError, match="broke"):
            await events_of(host, job(1))
        assert "broke" in host.trouble
        engine._steps_left = None
        for _ in range(200):
            await asyncio.sleep(0.01)
            if host.trouble is None:
                return True
        return False

    assert on_host(work, engine)


def test_a_lost_engine_refuses_at_once():
    """Whatever is tried on it, also what waits."""

    class Lost(ScriptedEngine):
        def step(self):
            raise EngineLostError("the engine is gone")

    async def work(host):
        outcomes = await asyncio.gather(*(events_of(host, job(seed)) for seed in range(5)), return_exceptions=True)
        with pytest.raises(EngineError, match="gone"):
            await events_of(host, job(9))
        return outcomes

    assert [str(outcome) for outcome in on_host(work, Lost("chain"))] == ["the engine is gone"] * 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_mistake_in_an_engine_lets_nobody_wait_for_ever():
    """Its thread has ended: who waits, and whoever comes later, is told."""

    class Mistaken(ScriptedEngine):
        def step(self):
            raise ZeroDivisionError

    async def work(host):
        for _ in range(2):
            with pytest.raises(EngineError, match="has ended"):
                await asyncio.wait_for(events_of(host, job(1)), 10)
        with pytest.raises(EngineError, match="has ended"):
            await asyncio.wait_for(host.encode("words"), 10)
        assert host.trouble is not None

    on_host(work, Mistaken("chain"))


def test_what_the_model_cannot_read_is_the_requests_fault():
    """An id outside the vocabulary is no failure of the engine."""

    async def work(host):
        assert await host.encode("two words") == await host.encode(({"role": "user", "content": "two words"},))
        assert await host.texts([[1, 2], []]) == ["so then ", ""]
        with pytest.raises(ChatError, match="vocabulary"):
            await host.encode((-1,))
        assert host.trouble is None

    on_host(work)


def test_streams_are_merged_as_they_come():
    """The first failure is raised, and all of them are closed."""
    closed = []

    async def stream(name, n, error=None):
        try:
            for i in range(n):
                await asyncio.sleep(0.001)
                yield name, i
            if error:
                raise error
        finally:
            closed.append(name)

    async def work(*streams):
        async with aclosing(merged(streams)) as items:
            return [item async for item in items]

    found = asyncio.run(work(stream("a", 3), stream("b", 5)))
    assert sorted(found) == [("a", i) for i in range(3)] + [("b", i) for i in range(5)]
    with pytest.raises(ValueError, match="no"):
        asyncio.run(work(stream("c", 2, ValueError("no")), stream("d", 1000)))
    assert sorted(closed) == ["a", "b", "c", "d"]
