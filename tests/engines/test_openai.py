"""Engine openai against a server that fails as it is told to: nothing is lost, nothing is made up, no key is told."""

import logging
import time

import needs
import pytest

needs.package("stamina", "openai")

from fake_openai import KEY, MODEL, N_VOCAB, STOP_ID, continuation, running  # noqa: E402

from eager.engines import EngineError, load_engine  # noqa: E402
from eager.generator import Generator  # noqa: E402
from eager.types import BranchConfig, Request, SamplingParams, TreeJob  # noqa: E402

SAMPLING = SamplingParams(temperature=0.9)
IDS = (10, 11, 12, 13)
QUICK = {"stop_token_ids": [STOP_ID], "chunk_timeout": 0.4, "first_chunk_timeout": 5.0, "give_up_after": 10.0}


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture
def started():
    """Makes engines, and ends them."""
    engines = []

    def start(*servers, **options):
        urls = ",".join(server.url for server in servers)
        engines.append(load_engine("openai", MODEL, base_url=urls, **{**QUICK, **options}))
        for server in servers:
            server.bodies.clear()
            server.headers.clear()
        return engines[-1]

    yield start
    for engine in engines:
        engine.shutdown()


def ask(engine, seq_id, n_tokens=20, **how):
    engine.open(Request(seq_id, how.pop("ids", IDS), SAMPLING, len(IDS) + n_tokens, seed=70 + seq_id, **how))


def collect(engine, seq_ids, seconds=20.0, others=False):
    """All deltas of these sequences until they have ended, by their ids; of no `others`, unless these may go on."""
    found = {seq_id: [] for seq_id in seq_ids}
    deadline = time.monotonic() + seconds
    while not all(deltas and deltas[-1].finish_reason for deltas in found.values()):
        assert time.monotonic() < deadline, "the engine does not come to an end"
        for delta in engine.step():
            if delta.seq_id in found or not others:
                found[delta.seq_id].append(delta)
    return found


def ids_of(deltas):
    return [token.id for delta in deltas for token in delta.tokens]


def right(seq_id, n_tokens=20):
    """What the sequence gets if nothing goes wrong."""
    return continuation(IDS, 70 + seq_id, SAMPLING, n_tokens)


CURABLE = [
    ("reset", 0),
    ("reset", 4),
    ("hang", 0),
    ("hang", 4),
    (500, 0),
    (502, 0),
    (503, 0),
    (504, 0),
    ("truncated", 0),
    ("truncated", 4),
    ("garbled", 4),
    ("no finish", 4),
    ("ends", 0),
    ("ends", 4),
    ("broken engine", 4),
    ("long line", 4),
]


@pytest.mark.parametrize("n_servers", [1, 2])
@pytest.mark.parametrize(("kind", "after"), CURABLE, ids=str)
def test_a_fault_costs_a_sequence_nothing(started, kind, after, n_servers):
    """It goes on from its last whole token, to the tokens that it would have had anyway; the others do not notice."""
    with running() as one, running() as other:
        engine = started(*[one, other][:n_servers], first_chunk_timeout=1.0)
        one.faults.append((kind, after))
        other.faults.append((kind, after))
        for seq_id in range(4):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(4)).items():
            assert ids_of(deltas) == right(seq_id)
            assert deltas[-1].finish_reason in ("stop", "length")
            assert all(token.entropy is not None for delta in deltas for token in delta.tokens)
        assert not one.faults


def test_too_many_requests_waits_as_long_as_it_was_asked_to(server, started):
    """Retry-After, in seconds."""
    engine = started(server)
    server.faults.append((429, 1))
    start = time.monotonic()
    ask(engine, 0)
    assert ids_of(collect(engine, [0])[0]) == right(0)
    assert 1.0 <= time.monotonic() - start < 4.0
    assert len(server.bodies) == 2


def test_a_sequence_fails_after_bounded_tries(server, started):
    """Then it is an error with the last reason, and the others go on."""
    engine = started(server, max_retries=2)
    server.faults += [(500, 0)] * 3
    ask(engine, 0)
    (delta,) = collect(engine, [0])[0]
    assert (delta.finish_reason, delta.tokens) == ("error", [])
    assert "failed after 4 tokens" in delta.error
    assert "answers 500 (as it was told), and 2 more tries did not help" in delta.error
    assert len(server.bodies) == 3
    ask(engine, 1)
    assert ids_of(collect(engine, [1])[1]) == right(1)


def test_a_sequence_that_gets_on_is_never_given_up(server, started):
    """However many faults there are in all: only tries without a token are counted."""
    engine = started(server, max_retries=1)
    server.faults += [("ends", 1)] * 12
    ask(engine, 0)
    deltas = collect(engine, [0])[0]
    assert ids_of(deltas) == right(0)
    assert [len(body["prompt"]) for body in server.bodies] == [4 + i for i in range(len(server.bodies))]
    # What went through the model again is counted: of each continued prompt what was not cached, less the new token.
    continued = [len(body["prompt"]) for body in server.bodies[1:]]
    assert sum(delta.recomputed for delta in deltas) == continued[-1] - 1 - continued[-1] // 2


INCURABLE = [
    (400, 0, "answers 400"),
    (413, 0, "answers 413"),
    ("refused inside", 3, "the server broke off"),
    ("two choices", 3, "more choices than the one"),
    ("many tokens", 3, "more tokens than were asked for"),
    ("nan", 3, "failed after 7 tokens: the model's logits are not numbers"),
]


@pytest.mark.parametrize(("kind", "after", "sentence"), INCURABLE, ids=str)
def test_what_no_try_cures_fails_its_sequence_at_once(server, started, kind, after, sentence):
    """One request, an error that says why, with the tokens from before; the others go on."""
    engine = started(server)
    ask(engine, 1)
    collect(engine, [1])
    server.bodies.clear()
    server.faults.append((kind, after))
    ask(engine, 0)
    deltas = collect(engine, [0])[0]
    assert deltas[-1].finish_reason == "error"
    assert sentence in deltas[-1].error
    assert ids_of(deltas) == right(0)[:after]
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_what_is_wrong_with_all_requests_breaks_the_engine(server, started, status):
    """A key or a model that is refused, a redirect: an EngineError with the remedy, no second try."""
    engine = started(server)
    server.faults.append((status, 0))
    ask(engine, 0)
    with pytest.raises(EngineError, match=f"answers {status}.*: (give|check)|sends elsewhere"):
        collect(engine, [0])
    assert len(server.bodies) == 1
    engine.close(0)


def test_a_server_that_dies_gives_its_sequences_to_the_others(started):
    """Killed in the middle of its streams: each goes on elsewhere from where it was."""
    with running(seconds_per_token=0.02) as other:
        dying = running(seconds_per_token=0.02)
        one = dying.__enter__()
        engine = started(one, other)
        for seq_id in range(6):
            ask(engine, seq_id, n_tokens=80)
        begun = [delta for _ in range(5) for delta in engine.step()]
        assert one.n_open
        assert other.n_open
        dying.__exit__(None, None, None)
        found = collect(engine, range(6))
        for seq_id, deltas in found.items():
            assert ids_of([d for d in begun if d.seq_id == seq_id] + deltas) == right(seq_id, 80)


def test_all_servers_away_for_a_while_are_waited_for(started):
    """The engine says how long it will wait; when one is back everything goes on."""
    away = running(seconds_per_token=0.02)
    one = away.__enter__()
    engine = started(one)
    ask(engine, 0, n_tokens=80)
    begun = engine.step()
    assert engine.waiting is None
    away.__exit__(None, None, None)
    deadline = time.monotonic() + 5
    while engine.waiting is None:
        begun += engine.step()
        assert time.monotonic() < deadline
    assert "no server answers, waiting" in engine.waiting
    with running(port=one.port):
        assert ids_of([*begun, *collect(engine, [0])[0]]) == right(0, 80)
        assert engine.waiting is None


def test_all_servers_away_for_good_break_the_engine(started):
    """After `give_up_after` seconds, with a sentence that says how to go on."""
    away = running(seconds_per_token=0.02)
    one = away.__enter__()
    engine = started(one, give_up_after=0.5)
    ask(engine, 0, n_tokens=80)
    engine.step()
    away.__exit__(None, None, None)
    with pytest.raises(EngineError, match=r"no server has answered for 0.5 seconds \(.*goes on where it stopped"):
        collect(engine, [0])


def test_a_server_that_hangs_is_left_alone_until_it_is_well(started):
    """One that is silent, and ill by its own word, gets nothing more; the other does the work."""
    with running() as one, running() as other:
        engine = started(one, other)
        one.faults += [("hang", 2)] * 50
        one.is_ill = True
        for seq_id in range(4):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(4)).items():
            assert ids_of(deltas) == right(seq_id)
        n_asked = len(one.bodies)
        for seq_id in range(10, 14):
            ask(engine, seq_id)
        collect(engine, range(10, 14))
        assert len(one.bodies) == n_asked


def test_when_a_server_hangs_nobody_waits_for_a_first_token_there(started):
    """One stream that falls silent and a server that is ill by its own word: all its streams go elsewhere at once."""
    with running() as one, running() as other:
        engine = started(one, other, first_chunk_timeout=60.0)
        one.faults += [("hang", 2)] + [("hang", 0)] * 50
        one.is_ill = True
        for seq_id in range(8):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(8)).items():
            assert ids_of(deltas) == right(seq_id)


def test_a_server_that_takes_connections_and_says_nothing_is_late(started):
    """As one that was stopped: its answers do not even begin."""
    with running() as one, running() as other:
        engine = started(one, other, first_chunk_timeout=60.0)
        one.faults += [("mute", 0)] * 50
        for seq_id in range(4):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(4)).items():
            assert ids_of(deltas) == right(seq_id)


# -- trees ------------------------------------------------------------------------------------------------------


def trees_on(engine, n_trees=6):
    generator = Generator(engine)
    for i in range(n_trees):
        generator.add(TreeJob(i, IDS, BranchConfig(4, 1.5), SAMPLING, len(IDS) + 30, seed=5))
    return {job.prompt_index: tree for job, tree in generator.run()}


def test_trees_through_faults_are_the_trees_without(started):
    """Every kind of curable fault in one run: the same sequences, the same branches, no error."""
    with running() as one, running() as other:
        expected = trees_on(started(one, other))
        engine = started(one, other)
        one.faults += CURABLE
        other.faults += CURABLE[::-1]
        found = trees_on(engine)
        assert {i: tree.sequences for i, tree in found.items()} == {i: tree.sequences for i, tree in expected.items()}
        assert {i: tree.branches for i, tree in found.items()} == {i: tree.branches for i, tree in expected.items()}
        assert sum(len(tree.branches) for tree in found.values()) >= 6


def test_a_tree_stays_with_its_server_and_trees_are_spread(started):
    """So that its prefix is cached there; each server has some of the trees."""
    with running(seconds_per_token=0.02) as one, running(seconds_per_token=0.02) as other:
        engine = started(one, other)
        for seq_id in range(4):
            ask(engine, seq_id, n_tokens=200)
        begun = {delta.seq_id for _ in range(20) for delta in engine.step()}
        assert begun == set(range(4))
        assert (len(one.bodies), len(other.bodies)) == (2, 2)
        for child in range(10, 16):
            ask(engine, child, parent=0, ids=(*IDS, child))
        collect(engine, range(10, 16), others=True)
        assert sorted((len(one.bodies), len(other.bodies))) == [2, 8]


def test_a_fork_counts_what_came_for_nothing(server, started):
    """Tokens of the replaced stream that nobody took are in the new one's `discarded`; its stream is closed."""
    engine = started(server)
    server.seconds_per_token = 0.005
    ask(engine, 0, n_tokens=400)
    taken = engine.step()
    time.sleep(0.3)
    ask(engine, 0, ids=(*IDS, 20), parent=0)
    deltas = collect(engine, [0])[0]
    assert ids_of(deltas) == continuation((*IDS, 20), 70, SAMPLING, 19)
    assert 1 <= sum(delta.discarded for delta in deltas) <= server.n_sent - len(ids_of(taken)) - len(ids_of(deltas))
    deadline = time.monotonic() + 5
    while server.n_open:
        assert time.monotonic() < deadline, "the stream of a closed sequence stays open"
        time.sleep(0.02)


def test_log_probabilities_are_asked_for_only_while_they_are_needed(server, started):
    """Not for a sequence that is opened unmonitored, nor for the rest of one that is unmonitored by then."""
    engine = started(server)
    ask(engine, 0, monitor=False)
    collect(engine, [0])
    assert "logprobs" not in server.bodies[-1]
    server.seconds_per_token = 0.02
    server.faults.append(("reset", 40))
    ask(engine, 1, n_tokens=60)
    begun = engine.step()
    engine.unmonitor(1)
    deltas = collect(engine, [1])[1]
    assert ["logprobs" in body for body in server.bodies[1:]] == [True, False]
    assert ids_of(begun + deltas) == right(1, 60)
    assert [token.entropy for delta in deltas for token in delta.tokens][-1] is None


# -- how much at once ------------------------------------------------------------------------------------------


def test_no_more_streams_than_max_in_flight(server, started):
    """The others wait their turn, and none is lost."""
    engine = started(server, max_in_flight=5)
    server.seconds_per_token = 0.002
    server.most_open = 0
    assert engine.capacity == 5
    for seq_id in range(40):
        ask(engine, seq_id, n_tokens=5)
    assert not engine.has_room
    for seq_id, deltas in collect(engine, range(40)).items():
        assert ids_of(deltas) == right(seq_id, 5)
    assert server.most_open == 5


def test_hundreds_of_streams_at_once(server, started):
    """From one process, each its own tokens."""
    engine = started(server, max_in_flight=400)
    for seq_id in range(400):
        ask(engine, seq_id, n_tokens=6, monitor=seq_id % 2 == 0)
    found = collect(engine, range(400), seconds=60)
    assert all(ids_of(deltas) == right(seq_id, 6) for seq_id, deltas in found.items())


def test_a_driver_that_does_not_take_is_not_buried(server, started, monkeypatch):
    """What nobody takes waits with the servers, not in this process's memory; nothing is lost with that."""
    from eager.engines import _openai_streams

    monkeypatch.setattr(_openai_streams, "_MOST_UNTAKEN", 50)
    engine = started(server, max_in_flight=4)
    for seq_id in range(4):
        ask(engine, seq_id, n_tokens=400)
    time.sleep(1.0)
    assert engine._inbox._n_untaken < 1000
    for seq_id, deltas in collect(engine, range(4)).items():
        assert ids_of(deltas) == right(seq_id, 400)


def test_a_request_may_wait_its_turn_in_the_server(server, started):
    """Longer than the timeout between chunks: `first_chunk_timeout` holds until the first."""
    engine = started(server)
    server.seconds_before = 1.0
    ask(engine, 0)
    assert ids_of(collect(engine, [0])[0]) == right(0)
    assert len(server.bodies) == 1


def test_a_server_that_waits_for_the_driver_is_not_taken_for_dead(server, started, monkeypatch):
    """A driver that is busy for longer than the chunk timeout costs no second request."""
    from eager.engines import _openai_streams

    monkeypatch.setattr(_openai_streams, "_MOST_UNTAKEN", 5)
    engine = started(server)
    server.seconds_per_token = 0.001
    ask(engine, 0, n_tokens=300)
    time.sleep(1.5)
    assert ids_of(collect(engine, [0])[0]) == right(0, 300)
    assert len(server.bodies) == 1


# -- the probe -------------------------------------------------------------------------------------------------

LACKS = {
    "ids": "token ids in the answer",
    "logprobs": "--max-logprobs 20",
    "raw": "--logprobs-mode raw_logprobs",
    "seeds": "a seed that gives the same tokens again",
    "stops": "stop_token_ids",
    "context": "its context length",
    "tokenize": "/tokenize",
}


@pytest.mark.parametrize("name", LACKS)
def test_a_server_that_lacks_something_is_refused(name):
    """At the start, with the thing and what gives it."""
    with running(lacks=[name]) as server, pytest.raises(EngineError, match="It lacks ") as raised:
        load_engine("openai", MODEL, base_url=server.url, **QUICK)
    assert LACKS[name] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_that_is_missing_is_said_at_once():
    """Not one after the other, a start each."""
    with running(lacks=["raw", "context", "stops"]) as server, pytest.raises(EngineError) as raised:
        load_engine("openai", MODEL, base_url=server.url, **QUICK)
    assert all(LACKS[name] in str(raised.value) for name in ("raw", "context", "stops"))


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"stop_token_ids": None}, r"does not say what ends a sequence: .*stop_token_ids=\[…\].*--tokenizer"),
        ({"draws": "gate"}, "It lacks draws by seed and position .*vllm_gate:Gate"),
        ({"tokenizer": "/nowhere"}, "'/nowhere' is no folder"),
    ],
)
def test_what_the_options_ask_of_a_server_is_there_or_refused(server, how, sentence):
    """In a sentence with the remedy, and the thread has ended with it."""
    with pytest.raises(EngineError, match=sentence):
        load_engine("openai", MODEL, base_url=server.url, **{**QUICK, **how})


def test_an_unknown_model_names_those_that_there_are(server):
    """Before anything is generated."""
    with pytest.raises(EngineError, match=f"does not serve 'other': give --model_name as one of {MODEL}"):
        load_engine("openai", "other", base_url=server.url, **QUICK)
    assert server.bodies == []


def test_no_server_at_the_start_is_said_at_once():
    """Nobody waits for a server that was never there; one of several may be away."""
    with pytest.raises(EngineError, match=r"no server answers \(.*: start it, or check --base_url"):
        load_engine("openai", MODEL, base_url="http://127.0.0.1:9", **QUICK)


def test_one_of_several_may_be_away_at_the_start(server, started):
    """It is told, and the others do its work."""
    engine = load_engine("openai", MODEL, base_url=f"{server.url},http://127.0.0.1:9", **QUICK)
    assert any("127.0.0.1:9" in notice for notice in engine.notices)
    ask(engine, 0)
    assert ids_of(collect(engine, [0])[0]) == right(0)
    engine.shutdown()


def test_a_server_that_comes_later_is_tried_and_used(server, started):
    """As at the start; then it takes its part of the sequences, and no word is lost about it."""
    with running() as away:
        port = away.port
    engine = load_engine("openai", MODEL, base_url=f"{server.url},http://127.0.0.1:{port}", **QUICK)
    with running(port=port) as late:
        until(lambda: all(replica.fault is None for replica in engine._connection.replicas.all))
        late.bodies.clear()
        server.seconds_per_token = late.seconds_per_token = 0.02
        for seq_id in range(20, 24):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(20, 24)).items():
            assert ids_of(deltas) == right(seq_id)
        assert len(late.bodies) == 2
        assert engine.news == []
    engine.shutdown()


MISFITS = [
    ({"lacks": ["raw"]}, "It lacks log-probabilities of the raw distribution"),
    ({"lacks": ["positions"]}, "it draws by 'opening', the others by 'server'"),
    ({"max_model_len": 100}, "its context is 100 tokens and the run's 512"),
    ({"n_vocab": 63}, "it knows 63 token ids, the others 64"),
]


@pytest.mark.parametrize(("how", "sentence"), MISFITS)
def test_a_server_that_comes_later_and_cannot_what_the_others_can_is_left_out(server, how, sentence):
    """With one sentence about it, for good; the others do all the work."""
    with running() as away:
        port = away.port
    engine = load_engine("openai", MODEL, base_url=f"{server.url},http://127.0.0.1:{port}", **QUICK)
    with running(port=port, **how) as late:
        until(lambda: engine.news)
        n_asked = len(late.bodies)
        for seq_id in range(4):
            ask(engine, seq_id)
        for seq_id, deltas in collect(engine, range(4)).items():
            assert ids_of(deltas) == right(seq_id)
        (told,) = engine.news
        assert f"{late.url} has come and is left out: " in told
        assert sentence in told
        assert len(late.bodies) == n_asked
    engine.shutdown()


def until(is_so, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_refuses_the_probe_is_named(server, started):
    """A 400 to the first question is one sentence, and no traceback."""
    server.lacks = {"models"}
    with pytest.raises(EngineError, match=r"/v1/models answers 400 \(say hello first\): is there a server"):
        started(server)


def test_the_probe_finds_out_what_a_server_is(started):
    """Its context and vocabulary, how it draws, its version."""
    with running(max_model_len=300) as server:
        engine = started(server)
        assert engine.max_model_len == 300
        assert engine.identity() == {"max_model_len": 300, "draws": "server", "stop_token_ids": [STOP_ID]}
        assert engine.versions()["server"] == "0.0.fake"
        with pytest.raises(EngineError, match=f"token id {N_VOCAB} is outside the vocabulary of {N_VOCAB}"):
            engine.decode([N_VOCAB])


def test_where_seeds_restart_each_request_has_its_own(started):
    """A fork with its parent's seed would repeat the parent's draws: the seed is derived from where a request opens."""
    with running(lacks=["positions"]) as server:
        engine = started(server)
        assert engine.identity()["draws"] == "opening"
        for seq_id, ids in ((0, IDS), (1, (*IDS, 20)), (2, IDS)):
            engine.open(Request(seq_id, ids, SAMPLING, 60, seed=5))
        found = {seq_id: ids_of(deltas) for seq_id, deltas in collect(engine, range(3)).items()}
        assert found[0] == found[2]
        seeds = [body["seed"] for body in server.bodies]
        assert len(set(seeds)) == 2
        assert all(0 <= seed < 2**63 for seed in seeds)


# -- the key ---------------------------------------------------------------------------------------------------


def test_the_key_is_told_to_the_server_and_to_nobody_else(started, caplog):
    """Not in errors that repeat it, identity, versions, options as they are written down, representations or logs."""
    with running(key=KEY) as server, caplog.at_level(logging.DEBUG):
        engine = started(server, api_key=KEY, max_retries=1)
        server.faults += [("refused inside", 0), (500, 0), ("reset", 0)]
        ask(engine, 0)
        (delta,) = collect(engine, [0])[0]
        assert "no logprobs for [key]" in delta.error
        ask(engine, 1)
        collect(engine, [1])
        options = engine_options_of(server, KEY)
        shown = [delta.error, repr(engine), vars(engine), options, options.settings(), options.about()]
        shown += [engine.identity(), engine.versions(), engine.notices, caplog.text]
        assert KEY not in repr(shown)
        assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)


def engine_options_of(server, key):
    from eager.engines import engine_options

    return engine_options("openai", {"base_url": server.url, "api_key": key})


def test_a_key_that_is_refused_is_not_shown():
    """The server's answer repeats it; the sentence does not, and says where to give the right one."""
    with running(key="another") as server, pytest.raises(EngineError) as raised:
        load_engine("openai", MODEL, base_url=server.url, api_key=KEY, **QUICK)
    assert "answers 401" in str(raised.value)
    assert "EAGER_API_KEY" in str(raised.value)
    chain = [raised.value, raised.value.__cause__, raised.value.__context__]
    assert KEY not in repr(chain)


def test_no_redirect_is_followed(started):
    """Least of all with the key: the other server is not even asked."""
    with running(key=KEY) as server, running() as other:
        engine = started(server, api_key=KEY)
        server.faults.append(("redirect", other.url))
        ask(engine, 0)
        with pytest.raises(EngineError, match="sends elsewhere"):
            collect(engine, [0])
        assert other.paths == []


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"insecure": True}, "certificates are not checked"),
        ({"api_key": KEY, "base_url": "http://127.0.0.1:9,http://192.0.2.1:9"}, "unencrypted"),
    ],
)
def test_what_is_not_safe_is_told(how, sentence):
    """Unchecked certificates, and a key that goes over a network in the clear."""
    from eager.engines._openai_start import _warnings
    from eager.engines.options_openai import OpenAIOptions

    (notice,) = _warnings(OpenAIOptions(**{"base_url": "http://127.0.0.1:9", **how}))
    assert sentence in notice
    assert KEY not in notice


def test_a_certificate_that_nobody_signed_is_refused(tmp_path):
    """Unless the engine is told not to look; the sentence says how."""
    import ssl
    import subprocess

    needs.program("openssl", "openssl")
    pem = tmp_path / "own.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", pem, "-out", tmp_path / "c.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", pem)
    with running(tls=context) as server:
        with pytest.raises(EngineError, match=r"certificate.*--insecure"):
            load_engine("openai", MODEL, base_url=server.url, **QUICK)
        engine = load_engine("openai", MODEL, base_url=server.url, insecure=True, **QUICK)
        ask(engine, 0)
        assert ids_of(collect(engine, [0])[0]) == right(0)
        engine.shutdown()


# -- as an engine ----------------------------------------------------------------------------------------------


def test_shut_down_it_says_so_and_leaves_no_stream(server, started):
    """A second time it does nothing; what was open is closed."""
    from engine_factory import check_shut

    engine = started(server)
    server.seconds_per_token = 0.05
    ask(engine, 0)
    engine.step()
    check_shut(engine, list(IDS))
    deadline = time.monotonic() + 5
    while server.n_open:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_silent_step_comes_back(server, started):
    """So that a display can move and Ctrl-C is heard: within about a second, with nothing."""
    engine = started(server, chunk_timeout=30)
    server.faults.append(("hang", 0))
    ask(engine, 0)
    start = time.monotonic()
    assert engine.step() == []
    assert time.monotonic() - start < 3
