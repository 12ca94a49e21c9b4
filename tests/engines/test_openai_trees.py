"""Whole trees from a server that fails as it is told to: each comes once and whole, or as an error."""

import time

import needs
import pytest

needs.package("stamina", "openai")

from fake_openai import MODEL, STOP_ID, running  # noqa: E402
from fake_tree_server import tree_of, trees_running  # noqa: E402

import eager  # noqa: E402
from eager.engines import EngineError, load_engine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.types import BranchConfig, SamplingParams, TreeJob  # noqa: E402
from eager.whole_trees import TreeGenerator, grower  # noqa: E402

RULES = BranchConfig(max_sequences=3, entropy_threshold=1.8)
QUICK = {"stop_token_ids": [STOP_ID], "chunk_timeout": 0.4, "give_up_after": 10.0, "max_retries": 3}


def job_of(index=0, prompt=(10, 11, 12), rules=RULES, **how):
    return TreeJob(index, prompt, rules, SamplingParams(0.9), len(prompt) + 20, seed=5, **how)


@pytest.fixture
def server():
    with trees_running() as server:
        yield server


@pytest.fixture
def started():
    """Makes engines, and ends them."""
    engines = []

    def start(*servers, **options):
        urls = ",".join(server.url for server in servers)
        engines.append(load_engine("openai", MODEL, base_url=urls, **{**QUICK, **options}))
        return engines[-1]

    yield start
    for engine in engines:
        engine.shutdown()


def test_finished_trees_come_back(server, started):
    """One request each, with the trees that the server has grown; nothing is left open anywhere."""
    engine = started(server)
    generator = grower(engine, RULES)
    jobs = [job_of(i, (10 + i, 11)) for i in range(6)] + [job_of(6, n_roots=3)]
    for job in jobs:
        generator.add(job)
    found = {job.prompt_index: tree for job, tree in generator.run()}
    assert found == {job.prompt_index: tree_of(job) for job in jobs}
    assert len(server.trees) == len(jobs)
    progress = generator.progress
    assert (progress.trees_done, progress.trees_open, progress.sequences_open) == (7, 0, 0)
    assert progress.branches == 6
    assert progress.n_tokens == sum(tree.n_tokens + tree.discarded for tree in found.values())
    assert engine.driver is None


FAULTS = [("reset", 0), ("reset", 3), ("hang", 2), ("garbled", 2), ("truncated", 3), ("ends", 3), ("no finish", 4)]
FAULTS += [("failed", 3), ("many events", 2), ("long line", 1), (500, 0), (503, 0)]


@pytest.mark.parametrize(("kind", "after"), FAULTS)
def test_a_tree_that_breaks_is_sent_again(server, started, kind, after):
    """It begins anew, is the tree that it would have been, and is counted once."""
    server.tree_faults.append((kind, after))
    generator = grower(started(server), RULES)
    generator.add(job_of())
    ((_, tree),) = generator.run()
    assert tree == tree_of(job_of())
    assert len(server.trees) == 2
    progress = generator.progress
    assert (progress.sequences_open, progress.branches, progress.n_tokens) == (0, 1, tree.n_tokens + tree.discarded)


def test_a_tree_that_breaks_goes_to_another_server(started):
    """Where there is one; the first is asked for nothing until it is well again."""
    with trees_running() as one, trees_running() as other:
        engine = started(one, other)
        for server in (one, other):
            server.tree_faults.append(("reset", 2))
        generator = grower(engine, RULES)
        for i in range(4):
            generator.add(job_of(i))
        found = {job.prompt_index: tree for job, tree in generator.run()}
        assert found == {i: tree_of(job_of(i)) for i in range(4)}
        assert len(one.trees) + len(other.trees) == 6
        assert one.trees
        assert other.trees


@pytest.mark.parametrize(("fault", "n_asked"), [((500, 0), 4), ((400, 0), 1)])
def test_a_tree_that_never_comes_is_an_error(server, started, fault, n_asked):
    """After bounded tries, or none where none would help: each of its roots says why, and the others go on."""
    generator = grower(started(server), RULES)
    server.tree_faults += [fault] * n_asked
    generator.add(job_of(n_roots=2))
    ((_, tree),) = generator.run()
    assert [sequence.finish_reason for sequence in tree.sequences] == ["error", "error"]
    assert "as it was told" in tree.sequences[0].error
    assert len(server.trees) == n_asked
    generator.add(job_of(1))
    ((_, tree),) = generator.run()
    assert tree == tree_of(job_of(1))


def test_a_key_that_is_refused_breaks_the_engine(server, started):
    """No try cures it: the run ends, and says what to give."""
    generator = grower(started(server), RULES)
    server.key = "changed"
    generator.add(job_of())
    with pytest.raises(EngineError, match="EAGER_API_KEY"):
        list(generator.run())
    assert not generator.has_work


def test_what_is_dropped_is_dropped_at_the_server(server, started):
    """A job that is cancelled, and all of a run that is left: their requests end, and nothing of them comes."""
    server.seconds_per_token = 0.2
    generator = grower(started(server), RULES)
    first, second = job_of(0), job_of(1)
    generator.add(first)
    generator.add(second)
    until(lambda: generator.step() and server.n_open == 2)
    assert generator.cancel(first)
    assert not generator.cancel(first)
    until(lambda: server.n_open == 1)
    assert [job for job, _ in generator.run()] == [second]
    generator.add(first)
    until(lambda: generator.step() and server.n_open == 1)
    generator.close()
    until(lambda: server.n_open == 0)
    assert generator.progress.sequences_open == generator.progress.trees_open == 0


def until(is_so, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sequences_are_told_as_they_end(server, started):
    """Before their tree is finished, with all their tokens; branches come with it."""
    server.seconds_per_token = 0.1
    generator = grower(started(server), RULES)
    generator.add(job_of())
    ended, branches, tree = [], [], None
    while generator.has_work:
        step = generator.step()
        assert tree is None
        ended += [(index, sequence.token_ids) for _, index, sequence in step.ended]
        branches += [branch for _, branch in step.branches]
        tree = step.finished[0][1] if step.finished else None
    assert ended == [(i, sequence.token_ids) for i, sequence in enumerate(tree.sequences)]
    assert branches == list(tree.branches)


def test_no_more_trees_are_out_than_there_is_room_for(server, started):
    """By the sequences that they have now, as sequences are admitted one by one."""
    server.seconds_per_token = 0.05
    generator = grower(started(server, capacity=2), RULES)
    for i in range(5):
        generator.add(job_of(i))
    generator.step()
    assert generator.progress.trees_open == 2
    assert len(list(generator.run())) == 5


@pytest.mark.parametrize(
    ("rules", "may_settle"),
    [
        (BranchConfig(3, 1.8, branch_rule="distinct"), False),
        (BranchConfig(3, 1.8, varentropy_threshold=0.5), False),
        (BranchConfig(3, 1.8, stop_after=2), False),
        (RULES, True),
    ],
)
def test_what_whole_trees_cannot_do_is_done_by_sequences(server, started, rules, may_settle):
    """On the same server; and a generator of whole trees refuses such jobs."""
    engine = started(server)
    assert isinstance(grower(engine, rules, may_settle=may_settle), Generator)
    with pytest.raises(EngineError, match="cannot"):
        grower(engine, RULES).add(job_of(rules=rules), (lambda ended: False) if may_settle else None)


def test_the_probe_finds_the_plugin(started):
    """Whole trees where every server has it in order; else sequences, and where it is out of order it is said why."""
    with trees_running() as whole, trees_running(missing=["no gate here"]) as broken, running() as plain:
        assert isinstance(grower(started(whole), RULES), TreeGenerator)
        assert isinstance(grower(started(whole, whole_trees=False), RULES), Generator)
        assert isinstance(grower(started(whole, plain), RULES), Generator)
        engine = started(broken)
        assert isinstance(grower(engine, RULES), Generator)
        assert any("no gate here" in notice for notice in engine.notices)
        assert started(plain).notices == []


def test_from_python_trees_come_whole(server, started):
    """And so do extra ones; not where someone looks at what grows, or wants what whole trees lack."""
    engine = started(server)
    how = {"engine": engine, "branching": RULES, "sampling": SamplingParams(0.9), "seed": 5, "max_tokens": 20}
    prompts = [(10, 11, 12), (13, 14), (15, 16)]
    trees = eager.generate(prompts, **how)
    expected = [tree_of(job_of(i, prompt)) for i, prompt in enumerate(prompts)]
    assert [[s.token_ids for s in tree.sequences] for tree in trees] == [
        [s.token_ids for s in tree.sequences] for tree in expected
    ]
    assert [tree.sequences[0].logprobs[0] for tree in trees] == [None] * 3
    more = eager.allocate(trees, engine=engine, grader=lambda tree, sequence: False)
    assert [len(tree.sequences) for tree in more] == [3, 3, 3]
    assert len(server.trees) == 6
    in_full = eager.generate(prompts, **how, record_all=True)
    told = list(eager.stream(prompts, **how))
    assert None not in in_full[0].sequences[0].logprobs
    assert sum(isinstance(event, eager.Finished) for event in told) == 3
    assert len(server.trees) == 6


def test_a_server_that_comes_later_grows_trees_or_is_left_out(server, started):
    """It is asked for its plugin where the others have one."""
    with trees_running() as first, trees_running() as second:
        ports = first.port, second.port
    away = [f"http://127.0.0.1:{port}" for port in ports]
    engine = load_engine("openai", MODEL, base_url=",".join([server.url, *away]), **QUICK)
    with trees_running(port=ports[0]) as late, running(port=ports[1]) as plain:
        until(lambda: engine.news and engine._connection.replicas.all[1].fault is None)
        server.seconds_per_token = late.seconds_per_token = 0.1
        generator = grower(engine, RULES)
        for i in range(4):
            generator.add(job_of(i))
        found = {job.prompt_index: tree for job, tree in generator.run()}
        assert found == {i: tree_of(job_of(i)) for i in range(4)}
        assert len(late.trees) == len(server.trees) == 2
        (told,) = engine.news
        assert told.startswith(f"{plain.url} has come and is left out: it grows no whole trees")
    engine.shutdown()


def test_two_generators_do_not_share_an_engine(server, started):
    """The second is refused while the first has trees out."""
    engine = started(server)
    server.seconds_per_token = 0.2
    first, second = grower(engine, RULES), grower(engine, RULES)
    first.add(job_of())
    first.step()
    second.add(job_of(1))
    with pytest.raises(EngineError, match="another Generator"):
        second.step()
    first.close()
