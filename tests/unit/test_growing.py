"""A tree as events while its server decodes: told in order, ended with whoever leaves, and alive only while it is."""

import asyncio

import pytest

from eager.engines.base import EngineError
from eager.engines.gated_tree import Decoded, GatedTree, not_over_gate
from eager.server import growing
from eager.server.growing import Growing
from eager.types import BranchConfig, SamplingParams, Stops, TreeJob
from eager.wire import Alive, Branched, Ended

PAUSE, END = 9, 2
STOPS = Stops(frozenset({END}))


def job_of(max_sequences=2, n_roots=1, **how):
    return TreeJob(0, (5, 6), BranchConfig(max_sequences, 1.5), SamplingParams(), 12, seed=1, n_roots=n_roots, **how)


def tree_of(job):
    return GatedTree(job, STOPS, name="a", pause_id=PAUSE)


class Server:
    """Decodes by a script: for each request, in their order, what comes of it, or what it is kept from."""

    def __init__(self, *outcomes, record=None):
        self.outcomes, self.record = list(outcomes), record
        self.asked, self.n_open, self.taken, self.n_pulses = [], 0, [], 0
        self.is_hung = False

    async def decode(self, request, sampling):
        self.asked.append(request)
        outcome = self.outcomes.pop(0)
        self.n_open += 1
        try:
            await asyncio.sleep(3600 if outcome is None else 0)
        finally:
            self.n_open -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def pulse(self):
        self.n_pulses += 1
        if self.is_hung:
            await asyncio.sleep(3600)

    async def take(self, tree):
        self.taken.append(tree)
        return self.record


RECORD = {"branches": [[0, 1, 2.0, 1.5]], "entropies": {"0": [0, [0.5, 2.0, 0.25]], "1": [1, [2.0]]}}
BRANCHING = (Decoded([7, PAUSE], "stop"), Decoded([8, END], "stop", n_cached=2), Decoded([3, 3], "length", n_cached=1))


def grown(server, job):
    """All events."""

    async def collect():
        growth = Growing(tree_of(job), server)
        events = [event async for event in growth.events()]
        await growth.leave()
        return events

    return asyncio.run(collect())


def test_a_branch_opens_parent_and_child_where_it_is():
    """With the best and the second best token, each on the tokens before it; the tree has what the gate kept."""
    server = Server(*BRANCHING, record=RECORD)
    *before, last = grown(server, job_of())
    assert [(r.seq, r.token_ids, r.rule.first) for r in server.asked] == [
        (0, (5, 6), None),
        (0, (5, 6, 7), "best"),
        (1, (5, 6, 7), "second"),
    ]
    assert [r.max_tokens for r in server.asked] == [10, 9, 9]
    tree = last.tree
    assert [(s.token_ids, s.entropies, s.parent, s.fork) for s in tree.sequences] == [
        ((7, 8, END), (0.5, 2.0, 0.25), None, 0),
        ((7, 3, 3), (None, 2.0, None), 0, 1),
    ]
    (branch,) = tree.branches
    assert (branch.kept_id, branch.new_id, branch.sampled_id, branch.entropy) == (8, 3, None, 2.0)
    assert (tree.discarded, tree.recomputed) == (1, 1)  # of the child's two ids before its last the cache had one
    assert [event for event in before if isinstance(event, Branched)] == [Branched(0, 1, 1)]
    assert [event.seq for event in before if isinstance(event, Ended)] == [0, 1]
    assert before[-1] == Alive(6)
    assert server.taken == ["a"]


def test_a_tree_that_cannot_branch_is_none_of_the_gate_s():
    """Nothing is asked of it, and the reserved token ends nothing."""
    server = Server(Decoded([PAUSE, END], "stop"), Decoded([4], "length"))
    *_, last = grown(server, job_of(n_roots=2))
    assert [r.rule for r in server.asked] == [None, None]
    assert all(PAUSE not in r.stop_ids for r in server.asked)
    assert last.tree.sequences[0].token_ids == (PAUSE, END)
    assert server.taken == []


def test_a_pause_beyond_the_last_place_is_no_branch():
    """As after the gate has forgotten a tree: the sequence goes on with what it draws."""
    server = Server(*BRANCHING[:2], Decoded([3, PAUSE], "stop"), Decoded([4], "length"), record=RECORD)
    *_, last = grown(server, job_of())
    assert server.asked[-1].rule.first == "drawn"
    assert len(last.tree.sequences) == 2
    assert last.tree.sequences[1].token_ids == (7, 3, 4)


@pytest.mark.parametrize("record", [None, {"branches": [], "entropies": {}}])
def test_a_tree_that_the_gate_has_forgotten_is_an_error(record):
    """It has branches whose entropies nobody knows any more: nothing is made up."""
    with pytest.raises(EngineError, match="forgotten"):
        grown(Server(*BRANCHING, record=record), job_of())


def test_a_server_that_fails_ends_the_tree():
    """With its error, the other sequences closed, and the gate's part taken."""
    server = Server(EngineError("it died"), None)

    async def grow():
        growth = Growing(tree_of(job_of(max_sequences=3, n_roots=2)), server)
        with pytest.raises(EngineError, match="it died"):
            async for _ in growth.events():
                pass
        await growth.leave()

    asyncio.run(grow())
    assert (server.n_open, server.taken) == (0, ["a"])


def test_what_fails_one_sequence_is_an_error_of_that_one():
    """The others go on."""
    server = Server(Decoded((), "error", "too long"), Decoded([4], "length"), record={"branches": [], "entropies": {}})
    *_, last = grown(server, job_of(max_sequences=3, n_roots=2))
    assert [(s.finish_reason, s.error) for s in last.tree.sequences] == [("error", "too long"), ("length", None)]


def test_whoever_leaves_has_it_all_ended(monkeypatch):
    """In mid-tree: the requests are cancelled and the gate forgets; leaving twice does nothing."""
    monkeypatch.setattr(growing, "ALIVE_SECONDS", 0.01)
    server = Server(BRANCHING[0], None, None)

    async def grow():
        growth = Growing(tree_of(job_of()), server)
        events = growth.events()
        found = [await anext(events), await anext(events)]
        await events.aclose()
        assert server.n_open == 2
        for _ in range(2):
            await growth.leave()
        return found

    assert asyncio.run(grow()) == [Branched(0, 1, 1), Alive(2)]
    assert (server.n_open, server.taken) == (0, ["a"])


def test_a_tree_is_alive_only_while_its_engine_is(monkeypatch):
    """In silence the engine is asked; where it hangs nothing is told, so that the client can leave."""
    monkeypatch.setattr(growing, "ALIVE_SECONDS", 0.01)
    server = Server(None)

    async def grow():
        events = Growing(tree_of(job_of()), server).events()
        assert await anext(events) == Alive(0)
        server.is_hung = True
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(events), 0.1)

    asyncio.run(grow())
    assert server.n_pulses == 2


@pytest.mark.parametrize(
    "rules",
    [
        {"branch_rule": "distinct"},
        {"varentropy_threshold": 1.0},
        {"stop_after": 2},
    ],
)
def test_rules_that_the_gate_does_not_know_are_named(rules):
    """Before anything is asked of a server."""
    config = BranchConfig(4, 1.5, **rules)
    assert next(iter(rules)) in not_over_gate(config)
    with pytest.raises(ValueError, match=next(iter(rules))):
        tree_of(TreeJob(0, (1,), config, SamplingParams(), 9, seed=1))
    assert not_over_gate(BranchConfig(4, 1.5, branch_rule="sample", threshold_percentile=99.0)) is None


def test_nothing_of_a_tree_comes_before_its_end():
    """`result` of a tree with open sequences is a mistake of the caller."""
    tree = tree_of(job_of())
    tree.start()
    with pytest.raises(RuntimeError, match="open"):
        tree.result(None)


@pytest.mark.parametrize("n_turns", range(20))
def test_who_leaves_at_any_moment_is_let_go(n_turns):
    """Also in the very turn of the loop in which something of the tree is over: nothing grows on for nobody."""

    async def leave():
        growth = Growing(tree_of(job_of()), Server(*BRANCHING, record=RECORD))

        async def listen():
            return [event async for event in growth.events()]

        listening = asyncio.create_task(listen())
        for _ in range(n_turns):
            await asyncio.sleep(0)
        if not listening.done():
            listening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listening
        await growth.leave()

    asyncio.run(leave())
