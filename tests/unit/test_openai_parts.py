"""The parts of engine openai without a server: where a sequence goes, what a chunk may hold, what an answer means."""

import asyncio
import json
import math
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import needs
import pytest
from click.testing import CliRunner

needs.package("stamina", "openai")

from eager.cli import main  # noqa: E402
from eager.engines import EngineError, engine_options  # noqa: E402
from eager.engines._openai_faults import FaultError, RefusalError, answered, seconds_of  # noqa: E402
from eager.engines._openai_replicas import Family, Replicas  # noqa: E402
from eager.engines._openai_tokens import tokens_of  # noqa: E402
from eager.engines._openai_wire import Raw, Reading, TokenNames, Wanted  # noqa: E402
from eager.engines.base import EngineLostError  # noqa: E402
from eager.engines.options_openai import OpenAIOptions  # noqa: E402
from eager.entropy import top_k_entropy  # noqa: E402
from eager.types import SamplingParams, Token  # noqa: E402

KEY = "sk-very-secret-5309"

# -- options ----------------------------------------------------------------------------------------------------


def test_addresses_are_read_as_people_write_them():
    """With /v1 or a slash at the end, with spaces between."""
    assert OpenAIOptions(base_url="http://a:1/v1/, https://b/x/v1,http://c").urls == (
        "http://a:1",
        "https://b/x",
        "http://c",
    )


@pytest.mark.parametrize("url", ["http://user@h", f"http://u:{KEY}@h", f"https://h/v1?key={KEY}", f"http://h#{KEY}"])
def test_an_address_with_a_key_in_it_is_refused(url):
    """It would be written into the folder."""
    with pytest.raises(EngineError, match="must hold no key, user or query") as raised:
        OpenAIOptions(base_url=url)
    assert KEY not in str(raised.value)


def test_what_is_missing_or_double_is_said():
    """No address; one twice; a date that the server's template has for itself."""
    with pytest.raises(EngineError, match="needs base_url"):
        engine_options("openai", {})
    with pytest.raises(EngineError, match="one address twice"):
        OpenAIOptions(base_url="http://a,http://a/v1")
    with pytest.raises(EngineError, match="chat_date is the server's"):
        OpenAIOptions(base_url="http://a", chat_date="2026-01-31")


def test_a_bad_key_is_not_repeated():
    """The sentence says what it must be."""
    with pytest.raises(EngineError, match="api_key must be a text of printable ASCII") as raised:
        OpenAIOptions(base_url="http://a", api_key=f"{KEY}\n")
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("name", ["EAGER_API_KEY", "OPENAI_API_KEY"])
def test_the_key_comes_from_the_environment(monkeypatch, name):
    """For this engine alone, and EAGER_API_KEY first."""
    from eager.cli.options import given_to_engine, run_options

    given = {}

    @run_options
    def command(**options):
        given.update(given_to_engine(options))

    import click

    shown = click.command()(command)
    monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY if name == "OPENAI_API_KEY" else "another")
    asked = ["--model_name", "m", "--data_name", "demo", "--engine"]
    CliRunner().invoke(shown, [*asked, "openai"], catch_exceptions=False)
    assert given["api_key"] == KEY
    given.clear()
    CliRunner().invoke(shown, [*asked, "vllm"], catch_exceptions=False)
    assert "api_key" not in given


def test_the_key_is_no_option():
    """What a command was given stands in the list of processes."""
    asked = ["run", "--engine", "openai", "--model_name", "m", "--data_name", "demo", "--base_url", "http://h"]
    done = CliRunner().invoke(main, [*asked, "--engine_option", f"api_key={KEY}"])
    assert done.exit_code == 2
    assert "give it as EAGER_API_KEY" in done.output
    assert KEY not in done.output


# -- where a sequence goes --------------------------------------------------------------------------------------


def choose(replicas, family, **how):
    return asyncio.run(replicas.choose(family, **how))


def test_a_family_stays_and_others_go_where_least_is_open():
    """Its prefix is cached there."""
    replicas = Replicas(["http://a", "http://b"], give_up_after=1)
    one, other = Family("1"), Family("2")
    first = choose(replicas, one)
    with replicas.serving(first):
        second = choose(replicas, other)
        assert {first.url, second.url} == {"http://a", "http://b"}
        with replicas.serving(second), replicas.serving(second):
            assert choose(replicas, other) is second
            assert choose(replicas, Family("3")) is first
    assert [replica.n_open for replica in replicas.all] == [0, 0]


def test_a_family_moves_when_its_server_is_down_and_stays_where_it_went():
    """What is cached by then is cached there."""

    async def story():
        replicas = Replicas(["http://a", "http://b"], give_up_after=1)
        family = Family("1")
        first = await replicas.choose(family)
        replicas.put_down(first, "gone")
        second = await replicas.choose(family)
        replicas.put_up(first)
        return first, second, await replicas.choose(family), await replicas.choose(family, avoid=second)

    first, second, third, fourth = asyncio.run(story())
    assert first is not second
    assert second is third
    assert fourth is first


def test_a_server_that_is_down_is_looked_at_until_it_is_up():
    """And only while it is down."""
    looks = []

    async def is_alive(url):
        looks.append(url)
        return len(looks) == 2

    async def story():
        replicas = Replicas(["http://a"], give_up_after=30, is_alive=is_alive)
        replicas.put_down(replicas.all[0], "gone")
        assert 29 < replicas.seconds_left <= 30
        await replicas.choose(Family("1"))
        assert replicas.seconds_left is None
        await asyncio.sleep(0.5)
        replicas.close()

    asyncio.run(story())
    assert looks == ["http://a"] * 2


def test_with_all_down_for_too_long_it_gives_up():
    """Counted from when the last one went, whoever waits."""

    async def story():
        replicas = Replicas(["http://a", "http://b"], give_up_after=0.2)
        for replica in replicas.all:
            replicas.put_down(replica, f"{replica.url} is gone")
        with pytest.raises(EngineError, match=r"for 0.2 seconds \(http://a: .* gone; http://b: .*--output_dir"):
            await replicas.choose(Family("1"))
        with pytest.raises(EngineError):
            await replicas.choose(Family("2"))

    asyncio.run(story())


# -- what an answer means ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(status, EngineLostError) for status in (308, 401, 403, 404)]
    + [(status, RefusalError) for status in (400, 413, 422)]
    + [(status, FaultError) for status in (408, 425, 429, 500, 502, 503, 504)],
)
def test_a_status_is_tried_again_where_that_may_help(status, kind):
    """The rest fails its sequence, or the engine where it would fail them all."""
    assert type(answered(status, "why", "http://a")) is kind


def test_how_long_a_server_asks_to_wait():
    """Seconds or a date; never longer than some minutes, never less than nothing."""
    soon = datetime.now(timezone.utc) + timedelta(seconds=20)
    assert seconds_of("7") == 7
    assert seconds_of("99999999") == 300
    assert 17 < seconds_of(format_datetime(soon)) <= 20
    assert seconds_of(format_datetime(soon - timedelta(hours=1))) == 0
    assert seconds_of("soon") is seconds_of(None) is None


# -- what a chunk may hold --------------------------------------------------------------------------------------

TOP = {f"token_id:{i}": -1.0 - i / 10 for i in range(20)}


def reading(n_tokens=5, **changes):
    how = {"is_watched": True, "draws": "server", **changes}
    wanted = Wanted("m", [1, 2, 3], 3 + n_tokens, SamplingParams(), 1, [2], **how)
    return Reading(wanted, TokenNames(100), 100, str)


def event(ids, tops=None, finish=None, **more):
    tops = [TOP] * len(ids) if tops is None else tops
    choice = {"index": 0, "token_ids": ids, "logprobs": {"top_logprobs": tops}, "finish_reason": finish}
    return json.dumps({"choices": [choice], **more}).encode()


def test_a_chunk_may_hold_several_tokens_or_none():
    """Each with its own log-probabilities; the usage comes at the end, with what was cached."""
    found = reading()
    assert [raw.id for raw in found.read(event([5, 6]))] == [5, 6]
    assert found.read(event([])) == []
    assert [raw.id for raw in found.read(event([7, 2, 9]))] == [7, 2]
    assert (found.finish, found.n_beyond) == ("stop", 1)
    found.read(b'{"choices":[],"usage":{"prompt_tokens_details":{"cached_tokens":2}}}')
    found.read(b"[DONE]")
    assert (found.n_cached, found.is_over) == (2, True)


def test_what_vllm_really_sent_is_read():
    """Recorded from the CPU build's server, 0.32.0: of the second token the drawn one is not among the 20 best."""
    recorded = (Path(__file__).parents[1] / "data" / "vllm_0_32_stream.txt").read_bytes()
    wanted = Wanted("demo", [1] * 34, 36, SamplingParams(), 5, [2], True, "gate")
    found = Reading(wanted, TokenNames(49152), 49152, str)
    events = [line.removeprefix(b"data: ") for line in recorded.splitlines() if line]
    tokens = [token for event in events for token in found.read(event)]
    assert (found.finish, found.n_cached, found.is_over) == ("length", 32, True)
    (first, second) = tokens_of([tokens])[0]
    assert (first.id, first.best_ids[:3]) == (49, [504, 49, 57])
    assert (second.id, second.best_ids[:3]) == (46064, [290, 7302, 42])
    assert len(first.best_ids) == len(second.best_ids) == 20
    assert second.id not in second.best_ids
    assert second.logprob < second.best_logprobs[-1]


def test_the_end_is_where_the_sequence_says_it_is():
    """At a stop id or at max_length, whenever the server says so."""
    found = reading(n_tokens=2)
    found.read(event([5, 6]))
    assert found.finish == "length"
    found.end()


@pytest.mark.parametrize(
    "garbled",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"choices": 5}',
        b'{"choices": [{"token_ids": "five"}]}',
        b'{"choices": [{"token_ids": [1.5]}]}',
        event([-1]),
        event([100]),
        event([5], []),
        event([5], [{}]),
        event([5], [{"token_id:5": -1.0}]),
        event([5], [{**TOP, "the": -9.0}]),
        event([5], [{**TOP, "token_id:100": -9.0}]),
        event([5], [{**TOP, "token_id:²": -9.0}]),
        event([5], [{f"token_id:{i}": -1.0 for i in range(65)}]),
        event([], finish="abort"),
        b"[" * 100_000,
    ],
)
def test_what_is_garbled_is_a_fault(garbled):
    """Nothing of it is taken for tokens; another try may bring the right ones."""
    with pytest.raises(FaultError):
        reading().read(garbled)


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        (event([5] * 6), "more tokens than were asked for"),
        (event([5], finish="stop"), "no stop id that it was given"),
        (event([5], finish="length"), "at 4 of 8 tokens"),
        (b'{"choices":[{"index":1,"token_ids":[5]}]}', "more choices"),
        (b'{"error":{"message":"too long","code":400}}', "too long"),
    ],
)
def test_what_nobody_asked_for_is_refused(chunk, sentence):
    """Another try would bring the same."""
    with pytest.raises(RefusalError, match=sentence):
        reading().read(chunk)


def test_a_stream_that_ends_too_early_is_a_fault():
    """Without a finish reason nothing is whole."""
    found = reading()
    found.read(event([5]))
    with pytest.raises(FaultError, match="without a finish reason"):
        found.end()


def test_the_best_come_in_order_with_their_entropy():
    """The sampled one comes first over the wire, as one of 20 or as one more, and keeps its own log-probability.

    Equal ones are ordered by id.
    """
    values = [-1.0 - i / 7 for i in range(20)]
    inside = Raw(19, [19, *range(19)], [values[19], *values[:19]])
    outside = Raw(50, [50, *range(20)], [-9.0, *values])
    equal = Raw(3, [3, 9, 1, *range(20, 37)], [-1.0, -1.0, -1.0, *[-3.0] * 17])
    (first, second, third), (plain,) = tokens_of([[inside, outside, equal], [Raw(7)]])
    assert (first.logprob, second.logprob, third.logprob) == (values[19], -9.0, -1.0)
    for token in (first, second):
        assert list(token.best_ids) == list(range(20))
        assert list(token.best_logprobs) == values
        assert token.entropy == pytest.approx(float(top_k_entropy(values)))
    assert (first.logprob, second.logprob, third.logprob) == (values[19], -9.0, -1.0)
    assert list(third.best_ids)[:3] == [1, 3, 9]
    assert plain == Token(7)
    assert tokens_of([]) == []


# -- what is asked ----------------------------------------------------------------------------------------------


def body(draws, position=3, seed=2**64 - 5, is_watched=True):
    sampling = SamplingParams(0.7, 0.9, 40, 0.05)
    return Wanted("m", list(range(position)), 50, sampling, seed, [2], is_watched, draws).body()


def test_the_gate_draws_with_what_it_is_given():
    """vLLM's own sampling is then greedy."""
    asked = body("gate")
    assert asked["vllm_xargs"] == {"eager_draw": [2**64 - 5, 0.7, 0.9, 40, 0.05]}
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["min_p"]) == (0.0, 1.0, 0, 0.0)
    assert "seed" not in asked


def test_seeds_are_in_the_servers_range_and_derived_where_they_restart():
    """A server that hashes the position gets the sequence's own; another one a seed for each place of opening."""
    assert body("server")["seed"] == body("server", position=9)["seed"] == (2**64 - 5) & (2**63 - 1)
    opened = {body("opening", position=n)["seed"] for n in (3, 9)}
    assert len(opened) == 2
    assert all(0 <= seed < 2**63 for seed in opened)
    assert body("opening")["seed"] == body("opening")["seed"]
    assert body("opening")["temperature"] == 0.7


def test_a_request_asks_for_exactly_what_is_left():
    """Up to max_length, with the stop ids in place of the server's own; penalties of a generation config are off."""
    asked = body("server", position=9, is_watched=False)
    assert (asked["max_tokens"], asked["stop_token_ids"], asked["ignore_eos"]) == (41, [2], True)
    assert asked["repetition_penalty"] == 1.0
    assert "logprobs" not in asked
    assert body("server")["logprobs"] == 20
    assert not any(isinstance(value, float) and math.isnan(value) for value in asked.values())


# -- the display ------------------------------------------------------------------------------------------------


def test_a_wait_for_servers_is_seen_with_its_countdown(capsys):
    """In place of the speed, which is none then."""
    from eager.cli.display import Display
    from eager.engines.scripted import ScriptedEngine
    from eager.generator import Generator
    from eager.types import BranchConfig, TreeJob

    class Waiting(ScriptedEngine):
        waiting = "no server answers, waiting 42 s more"

    generator = Generator(Waiting("chain"))
    generator.add(TreeJob(0, (1, 2), BranchConfig(1, 1.0), SamplingParams(), 20, seed=1))
    generator.step()
    display = Display()
    display.show("parallel", 0, 5, generator.progress)
    display._shown -= 1000
    display.show("parallel", 1, 5, generator.progress)
    assert "parallel: 1/5 prompts, no server answers, waiting 42 s more" in capsys.readouterr().err


# -- cancelling -------------------------------------------------------------------------------------------------


class LateSession:
    """Of aiohttp's session what a request needs: its answer is `head`, and then never goes on."""

    def __init__(self, head):
        self.request = lambda *args, **how: head

    async def __aenter__(self):
        await asyncio.Event().wait()

    async def __aexit__(self, *error):
        pass


def test_a_cancellation_that_comes_with_the_answer_is_not_lost():
    """A tree that is dropped while its request is being answered: asyncio.wait_for would go on with the answer."""
    needs.package("aiohttp", "openai")
    from eager.engines._openai_http import Client

    async def main():
        client = Client(OpenAIOptions(base_url="http://127.0.0.1:9"))
        await client._session.close()
        head = asyncio.get_running_loop().create_future()
        client._session = LateSession(head)
        asking = asyncio.create_task(client.get("http://127.0.0.1:9", "/health"))
        await asyncio.sleep(0.01)
        head.set_result(client._session)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=1)
        assert done
        assert asking.cancelled()

    asyncio.run(main())
